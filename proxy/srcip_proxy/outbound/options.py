"""The command line of `srcip-proxy outbound`, with the options of an nginx "tranproxy" image. Pure.

Whatever is not exactly understood is refused, all faults at once.
"""

from __future__ import annotations

import argparse
import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from srcip_proxy.plan import MOST_REDIRECTED, RESERVED_PORTS, Plan, PlanError, headers
from srcip_proxy.plan.headers import Pairs
from srcip_proxy.plan.ports import PortRange, merge, port_range

DEFAULT_PORT = "80"
END = "--"
"""What follows it on the command line is the application's."""
HELP = """usage: srcip-proxy outbound [OPTION VALUE]... [-- COMMAND [ARGUMENT]...]

Sets headers in the HTTP requests that this Pod sends. Connections keep their destination; what is not HTTP, TLS too,
passes untouched. Needs CAP_NET_ADMIN, and user 7363 (a sidecar) or root.

  -P, --port PORT               requests to this port get the headers: 80, or a range such as 8000-8010; default 80
  -H, --header NAME:VALUE       set this header; without a VALUE, remove it
  --Set-Forwarded-For VALUE     set X-Forwarded-For; `default` is the Pod's address: PODIP, else POD_IP, else that of
                                the primary interface
  --Set-Client-Hostname VALUE   set X-Client-Hostname; `default` is the Pod's host name
  -N, --nameserver ADDRESS      accepted for compatibility, without effect: no name is resolved
  -h, --help                    this text

-P, -H and -N can be repeated. At least one header is needed.

Without COMMAND it is a sidecar: it ends when it is stopped. With COMMAND it runs that as the application once the
headers are being set, passes signals on to it, and ends with its exit code.

Exit codes: 0 or the application's; 1 when it cannot start or HAProxy ends early; 2 for a wrong command line;
126, 127 when COMMAND cannot be run, is not found; 128 + N when signal N ended the application.

example:
  srcip-proxy outbound -P 80 -P 8000-8010 -H 'X-Team: shop' --Set-Forwarded-For default \\
      --Set-Client-Hostname default -- /usr/bin/app --listen 8080
"""

_ONCE = {"--Set-Forwarded-For": "outbound_forwarded_for", "--Set-Client-Hostname": "outbound_client_hostname"}
"""Field of the plan of each option that is given once."""


class UsageError(ValueError):
    """The command line is wrong; `faults` names every option, its value and what is allowed."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(self.faults))


@dataclass(frozen=True)
class Command:
    """What the command line asks for."""

    plan: Plan
    """Outbound fields alone."""
    application: tuple[str, ...] = ()
    """The application's command line; none in a sidecar."""
    nameservers: tuple[str, ...] = ()
    """Given with -N, and not needed."""


def wants_help(arguments: Sequence[str]) -> bool:
    """Whether the help is asked for, rather than the application's."""
    return not {"-h", "--help"}.isdisjoint(_split(arguments)[0])


def parse(arguments: Sequence[str]) -> Command:
    """Read the command line. Raises UsageError."""
    own, application, ended = _split(arguments)
    given, unknown = _parser().parse_known_args(own)
    faults = [_unknown(word) for word in unknown]
    if ended and not application:
        faults.append(f"{END}: no command follows; omit {END} for a sidecar")
    ports = _ports(given.port or [DEFAULT_PORT], faults)
    pairs = _pairs(given.header, faults)
    once = _once({option: getattr(given, field) for option, field in _ONCE.items()}, pairs, faults)
    _nameservers(given.nameserver, faults)
    if not (given.header or once or faults):
        faults.append(f"no header to set; expected is -H NAME:VALUE, {' or '.join(_ONCE)}")
    if faults:
        raise UsageError(faults)
    return Command(_plan(ports, pairs, once), application, tuple(given.nameserver))


def _split(arguments: Sequence[str]) -> tuple[list[str], tuple[str, ...], bool]:
    """Our own words, the application's, and whether there was an END between them."""
    words = list(arguments)
    if END not in words:
        return words, (), False
    at = words.index(END)
    return words[:at], tuple(words[at + 1 :]), True


def _parser() -> argparse.ArgumentParser:
    """Reads every option as a list of texts, "" where the value is missing: judging them is ours, all at once."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    repeated = (("-P", "--port"), ("-H", "--header"), ("-N", "--nameserver"))
    for names in repeated:
        parser.add_argument(*names, action="append", nargs="?", const="", default=[])
    for option, field in _ONCE.items():
        parser.add_argument(option, action="append", nargs="?", const="", default=[], dest=field)
    return parser


def _unknown(word: str) -> str:
    if word.startswith("-"):
        return f"{word}: no such option; srcip-proxy outbound --help names them"
    return f"{word!r} belongs to no option; the application's command comes after {END}"


def _ports(texts: Iterable[str], faults: list[str]) -> tuple[PortRange, ...]:
    found = []
    for text in texts:
        try:
            found.append(port_range(text))
        except ValueError as error:
            faults.append(f"-P {text}: {error}" if text else "-P: no value; expected is a port or a range of ports")
    for item in found:
        taken = [str(port) for port in RESERVED_PORTS if port in item]
        faults += [f"-P {item}: the sidecar's own ports are not allowed: {', '.join(taken)}"] if taken else []
    count = sum(item.last - item.first + 1 for item in merge(found))
    faults += [f"-P: {count} ports; at most {MOST_REDIRECTED} are allowed"] if count > MOST_REDIRECTED else []
    return merge(found)


def _pairs(texts: Iterable[str], faults: list[str]) -> Pairs:
    found = []
    for text in texts:
        name, colon, value = (part.strip(" \t") for part in text.partition(":"))
        if not (colon and name):
            said = f" {_printable(text)}" if text else ""
            faults.append(f"-H{said}: expected is NAME:VALUE, such as 'X-Team: shop'")
            continue
        wrong = headers.name_fault(name), headers.value_fault(value)
        faults += [f"-H {_printable(text)}: {fault}" for fault in wrong if fault]
        found.append((name, value))
    # of these names alone: what is wrong with each has been said, each with its option
    good = [name for name, _ in found if not headers.name_fault(name)]
    faults += [f"-H: {fault}" for fault in headers.name_faults(good)]
    return tuple(found)


def _once(given: dict[str, list[str]], pairs: Pairs, faults: list[str]) -> dict[str, str]:
    """The value of each option that is given once; its header must not be one of the `pairs` as well."""
    names = {headers.same(name) for name, _ in pairs}
    for option, values in given.items():
        header = headers.OUTBOUND[_ONCE[option]]
        if len(values) > 1:
            faults.append(f"{option}: given {len(values)} times; give it once")
        if values and headers.same(header) in names:
            faults.append(f"{option}: -H sets {header} as well; remove one of them")
        faults += [fault for value in values if (fault := _value_fault(option, value))]
    return {_ONCE[option]: values[-1] for option, values in given.items() if values}


def _value_fault(option: str, value: str) -> str | None:
    if not value:
        return f"{option}: no value; expected is `default` or a value for {headers.OUTBOUND[_ONCE[option]]}"
    fault = headers.value_fault(value)
    return f"{option} {_printable(value)}: {fault}" if fault else None


def _nameservers(texts: Iterable[str], faults: list[str]) -> None:
    for text in texts:
        try:
            ipaddress.ip_address(text)
        except ValueError:
            said = f" {_printable(text)}" if text else ""
            faults.append(f"-N{said}: expected is an IP address, such as 8.8.8.8 or 2001:4860:4860::8888")


def _printable(text: str) -> str:
    """A value in a message: in quotes, control characters escaped, not endless."""
    return repr(text if len(text) <= headers.LONGEST_NAME else text[: headers.LONGEST_NAME] + "…")


def _plan(ports: tuple[PortRange, ...], pairs: Pairs, once: dict[str, str]) -> Plan:
    try:
        return Plan((), (), mode="redirect", outbound_ports=ports, outbound_headers=pairs, **once)  # type: ignore[arg-type]
    except PlanError as error:
        raise UsageError(error.errors) from None


def explain(command: Command) -> Iterator[str]:
    """What to say once at the start. Names of headers only: a value may be a secret."""
    plan = command.plan
    if command.nameservers:
        yield f"-N {', '.join(command.nameservers)}: not needed, as connections keep their destination address"
    names = [name for name, _ in plan.outbound_headers]
    names += [header for field, header in headers.OUTBOUND.items() if getattr(plan, field)]
    yield f"requests to port {', '.join(map(str, plan.outbound_ports))} get {', '.join(names)}"


__all__ = ["HELP", "Command", "UsageError", "explain", "parse", "wants_help"]
