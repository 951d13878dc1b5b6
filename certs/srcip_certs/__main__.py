"""The command line: srcip-certs run | status | rotate | remove-webhook | test-injection."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from srcip_certs import injection, secret, settings, status
from srcip_certs.api import CONFIGURATIONS, kube
from srcip_certs.clock import Clock
from srcip_certs.files import Files
from srcip_certs.replica import Replica
from srcip_certs.settings import Settings, SettingsError
from srcip_kube.client import MERGE_PATCH, ApiError

FAILED, MISUSED = 1, 2
TIMEOUT_S = 10.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        return int(arguments.do(arguments))
    except SettingsError as error:
        for fault in error.faults:
            print(f"srcip-certs: {fault}", file=sys.stderr)
        return MISUSED
    except ApiError as error:
        print(f"srcip-certs: {error}", file=sys.stderr)
        return FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="srcip-certs", description=__doc__)
    parser.set_defaults(do=_run)
    commands = parser.add_subparsers(metavar="command")
    _command(commands, "run", _run, "issue and rotate the certificates (the default)")
    shows = _command(
        commands,
        "status",
        _status,
        ("print the certificates in force and when they are renewed; exit code 1 on a fault"),
    )
    shows.add_argument("--json", action="store_true", help="as JSON")
    rotates = _command(commands, "rotate", _rotate, "request a new authority, or new certificates, from all replicas")
    rotates.add_argument("what", choices=("ca", "leaf"))
    _command(commands, "remove-webhook", _remove, "delete the webhook configuration")
    tests = _command(commands, "test-injection", _test, "create a Pod as a dry run and check whether it is injected")
    tests.add_argument("--namespace", required=True, help="a namespace with the label srcip.io/injection: enabled")
    tests.add_argument("--timeout", type=float, default=60.0, help="seconds to wait for the webhook")
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    do: Callable[[argparse.Namespace], int],
    text: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(do=do)
    return parser


def _settings(*needed: str) -> Settings:
    return settings.from_environ(os.environ, needed)


def _run(_arguments: argparse.Namespace) -> int:
    from srcip_certs import run  # noqa: PLC0415  threads and servers are for this command only

    return run.run(_settings(*settings.NAMES))


def _status(arguments: argparse.Namespace) -> int:
    found = _running(_settings().listen_port) or _seen(_settings(*settings.NAMES))
    print(json.dumps(found, indent=1) if arguments.json else status.text(found), end="")
    return FAILED if found["faults"] else 0


def _running(port: int) -> status.Json | None:
    """What the process in this Pod says; None if it does not."""
    try:
        with urlopen(f"http://127.0.0.1:{port}/status", timeout=TIMEOUT_S) as answer:
            found = json.load(answer)
    except (URLError, OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _seen(known: Settings) -> status.Json:
    """What can be seen without that process."""
    clock = Clock()
    replica = Replica(known, kube(TIMEOUT_S, clock.heard), Files(Path(known.directory)), clock)
    replica.start()
    replica.look()
    replica.faults.begin("request to the running process", f"no answer on port {known.listen_port}")
    return status.of(replica.view(), known, replica.faults)


def _rotate(arguments: argparse.Namespace) -> int:
    known = _settings("namespace", "secret")
    name = {"ca": secret.ROTATE_CA, "leaf": secret.ROTATE_LEAF}[arguments.what]
    stamp = datetime.now(UTC).isoformat()
    path = f"/api/v1/namespaces/{known.namespace}/secrets/{known.secret}"
    kube(TIMEOUT_S).patch(path, {"metadata": {"annotations": {name: stamp}}}, MERGE_PATCH)
    print(f"requested a rotation of the {arguments.what}: {name}={stamp} on the Secret {known.secret}")
    return 0


def _remove(_arguments: argparse.Namespace) -> int:
    name = _settings("webhook_configuration").webhook_configuration
    try:
        kube(TIMEOUT_S).delete(f"{CONFIGURATIONS}/{name}")
    except ApiError as error:
        if error.status != 404:
            raise
        print(f"the webhook configuration {name} does not exist")
        return 0
    print(f"deleted the webhook configuration {name}")
    return 0


def _test(arguments: argparse.Namespace) -> int:
    fault = injection.test(kube(TIMEOUT_S), arguments.namespace, arguments.timeout)
    print(fault or f"a Pod in {arguments.namespace} is injected: {' and '.join(injection.WANTED)} were added")
    return FAILED if fault else 0


if __name__ == "__main__":
    sys.exit(main())
