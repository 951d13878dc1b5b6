"""What `srcip-proxy outbound` does: apply the rules, then become HAProxy, or run the application beside it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence

from srcip_proxy import capabilities, init
from srcip_proxy import pod as pods
from srcip_proxy.capabilities import NUMBERS
from srcip_proxy.netfilter import preflight
from srcip_proxy.outbound import options, supervisor
from srcip_proxy.outbound.options import Command, UsageError
from srcip_proxy.plan import HEALTH_PORT, UID
from srcip_proxy.pod import PodError

_ANSWER_S = 1.0
_REMOVE = "table inet srcip {}\ndelete table inet srcip\n"


def main(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> int:
    """`srcip-proxy outbound`. Its exit code; in a sidecar it does not return."""
    if options.wants_help(arguments):
        print(options.HELP, end="")
        return 0
    try:
        command = options.parse(arguments)
    except UsageError as error:
        return _refuse(error.faults, 2)
    user, effective = os.geteuid(), capabilities.held("CapEff")
    missing = [*capabilities.missing("NET_ADMIN"), *lacking(user, effective, bool(command.application))]
    if missing:
        return _refuse(missing, 1)
    try:
        return _start(command, haproxy_command(user, effective), environment)
    except (PodError, OSError) as error:
        return _refuse([str(error)], 1)
    except subprocess.CalledProcessError as error:
        return _refuse(preflight.explain(error, *preflight.parts(command.plan)), 1)


def lacking(user: int, effective: int, with_application: bool) -> Iterator[str]:
    """Why this user with these effective capabilities cannot do it; nothing when it can."""
    if user == UID:
        if with_application:
            yield (
                f"the application would run as user {UID}, whose connections are exempt from the "
                f"headers: start the container as "
                "root (securityContext.runAsUser: 0), or leave out -- COMMAND and make this a sidecar"
            )
        return
    needed = ("KILL", "SETGID", "SETUID") if with_application else ("SETGID", "SETUID")
    missing = [name for name in needed if not effective >> NUMBERS[name] & 1]
    if missing and user == 0:
        yield f"HAProxy has to run as user {UID}, for which root lacks the capabilities {', '.join(missing)}"
    elif missing:
        other = "as root (securityContext.runAsUser: 0)" if with_application else f"as user {UID}"
        yield f"HAProxy has to run as user {UID}, and user {user} may not start it so: start the container {other}"


def haproxy_command(user: int, effective: int) -> tuple[str, ...]:
    """HAProxy as user 7363, without any capability and unable to gain one; its configuration is standard input."""
    words = ["setpriv", "--no-new-privs", "--inh-caps=-all", "--ambient-caps=-all"]
    if user != UID:
        words += [f"--reuid={UID}", f"--regid={UID}", "--clear-groups"]
    if effective >> NUMBERS["SETPCAP"] & 1:
        words.append("--bounding-set=-all")
    return (*words, "--pdeathsig=TERM", "--", "haproxy", "-db", "-f", "/proc/self/fd/0")


def _start(command: Command, haproxy: tuple[str, ...], environment: Mapping[str, str]) -> int:
    """Raises PodError, OSError, subprocess.CalledProcessError."""
    held = supervisor.hold()
    if _ready() or _injected():
        return _refuse(
            [("srcip is injected into this Pod already; remove this command and set srcip.io/outbound-ports")], 1
        )
    pod = init.set_up(command.plan, pods.from_environment(environment, pods.run_ip), init.intercept)
    for line in options.explain(command):
        supervisor.say(line)
    configuration = _in_memory(init.render(command.plan, pod).haproxy)
    if not command.application:
        return _become(haproxy, configuration, held)
    outcome = supervisor.supervise(supervisor.Proxy(haproxy, _ready, configuration), command.application, held)
    if outcome.orderly:
        init.feed(["nft", "-f", "-"], _REMOVE, check=False)
    return outcome.code


def _become(haproxy: tuple[str, ...], configuration: int, held: supervisor.Signals) -> int:
    """Go on as HAProxy. As the first process of a container we would miss a signal to stop that came until now."""
    os.dup2(configuration, 0)
    if number := supervisor.release(held):
        return 128 + number
    os.execvp(haproxy[0], haproxy)  # noqa: S606 (no shell is wanted)


def _injected() -> bool:
    """Whether the rules that are there are those of an init container: they intercept what comes in."""
    command = [*preflight.PRIVILEGED, "nft", "list", "chain", "inet", "srcip", "intercept"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _in_memory(text: str) -> int:
    """A file that needs no directory to be in: the root file system may be read-only, and headers may be secrets."""
    file = os.memfd_create("haproxy.cfg")
    os.write(file, text.encode())
    return file


def _ready() -> bool:
    """Whether HAProxy answers: then it listens everywhere."""
    try:
        with socket.create_connection(("127.0.0.1", HEALTH_PORT), timeout=_ANSWER_S) as connection:
            connection.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
            return b" 200 " in connection.recv(1024)
    except OSError:
        return False


def _refuse(reasons: Iterable[str], code: int) -> int:
    for reason in reasons:
        print(f"srcip-proxy outbound: {reason}", file=sys.stderr)
    return code
