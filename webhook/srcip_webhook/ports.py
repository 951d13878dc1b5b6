"""Finds the TCP ports of a Pod that are to be intercepted."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from srcip_proxy.plan import PortRange, merge
from srcip_webhook import meshes, pods
from srcip_webhook.annotations import PREFIX, Intent
from srcip_webhook.pods import DeclaredPort, Pod, printable
from srcip_webhook.reasons import Fault, Reason, about

INBOUND = PREFIX + "inbound-ports"
EXCLUDE = PREFIX + "exclude-inbound-ports"
HTTP = PREFIX + "http-ports"
HTTP_NAMES = ("http", "http2", "grpc", "h2c", "ws")
"""Names of ports that speak HTTP without TLS, alone or before a dash: the conventions of Services and meshes."""


@dataclass(frozen=True)
class Ports:
    """What became of the asked-for ports."""

    intercepted: tuple[PortRange, ...]
    """Sorted, disjoint, without the excluded ones."""
    declared: tuple[DeclaredPort, ...]
    """Every port that the Pod's containers declare."""
    undeclared: tuple[Fault, ...]
    """One for each asked-for port that no container declares. A range need not be declared."""
    clashes: tuple[Fault, ...]
    """One for each port that is the sidecar's own."""
    idle: tuple[str, ...]
    """A sentence for each exclusion that excludes nothing, and for each range without a declared port."""
    of_meshes: tuple[DeclaredPort, ...]
    """Ports of a mesh's own sidecar, which are left out where no ports are named."""
    http: tuple[PortRange, ...]
    """The intercepted ports that speak HTTP: sorted, disjoint."""


def resolve(pod: Pod, intent: Intent) -> Ports:
    """The ports that this Intent means in this Pod; overlaps are merged quietly."""
    declared = tuple(pods.declared_ports(pod))
    left_out = meshes.of(pod, intent.mesh_proxy_uids).containers if intent.inbound_ports is None else frozenset()
    of_meshes = tuple(port for port in declared if port.container in left_out)
    wanted, undeclared = _wanted(intent, tuple(port for port in declared if port.container not in left_out))
    excluded, unknown = _numbers(intent.exclude_inbound_ports, declared, EXCLUDE)
    intercepted = subtract(merge(wanted), merge(excluded))
    http, strange = _http(intent, declared, intercepted)
    return Ports(
        intercepted=intercepted,
        declared=declared,
        undeclared=(*undeclared, *unknown, *strange),
        clashes=tuple(_clashes(intent, intercepted, declared)),
        idle=(*_idle(wanted, excluded), *_unseen(intent, declared)),
        of_meshes=of_meshes,
        http=http,
    )


def _wanted(intent: Intent, declared: tuple[DeclaredPort, ...]) -> tuple[list[PortRange], list[Fault]]:
    """The asked-for ranges, and what is wrong with them: each single port must be a declared TCP port. Nobody can
    declare a range in a Pod, such as that of FTP's passive connections."""
    tcp = {port.number for port in declared if port.protocol == "TCP"}
    singles = [PortRange(number, number) for number in sorted(tcp)]
    if intent.inbound_ports is None:
        return singles, []
    ranges, faults = _numbers(intent.inbound_ports, declared, INBOUND)
    known = _known(declared)
    for item in intent.inbound_ports:
        if isinstance(item, PortRange) and item.first == item.last and not overlaps(singles, item):
            faults.append(_undeclared(INBOUND, f"no container declares TCP port {item} ({known})"))
    return ranges, faults


def _http(
    intent: Intent, declared: tuple[DeclaredPort, ...], intercepted: tuple[PortRange, ...]
) -> tuple[tuple[PortRange, ...], list[Fault]]:
    """The HTTP ports: as said, else by their names. What is said and not intercepted is a fault."""
    if intent.http_ports is None:
        # the protocol is what stands before the first dash, as meshes read the names of ports
        is_http = [p for p in declared if p.protocol == "TCP" and p.name.partition("-")[0] in HTTP_NAMES]
        named = [PortRange(p.number, p.number) for p in is_http]
        wanted = [] if intent.emit_proxy_protocol != "off" else named
        return common(intercepted, merge(wanted)), []
    ranges, faults = _numbers(intent.http_ports, declared, HTTP)
    strange = subtract(merge(ranges), intercepted)
    faults += [_undeclared(HTTP, f"port {item} is not intercepted") for item in strange]
    return common(intercepted, merge(ranges)), faults


def common(ranges: tuple[PortRange, ...], others: tuple[PortRange, ...]) -> tuple[PortRange, ...]:
    """The ports of both; sorted and disjoint as they are."""
    return () if not others else subtract(ranges, subtract(ranges, others))


def _numbers(
    items: tuple[PortRange | str, ...], declared: tuple[DeclaredPort, ...], key: str
) -> tuple[list[PortRange], list[Fault]]:
    """Names looked up among the declared TCP ports; a name may stand for several."""
    ranges: list[PortRange] = []
    faults: list[Fault] = []
    by_name: dict[str, list[DeclaredPort]] = {}
    for port in declared:
        by_name.setdefault(port.name, []).append(port)
    known = _known(declared)
    for item in items:
        if isinstance(item, PortRange):
            ranges.append(item)
            continue
        found = by_name.get(item, [])
        ranges += [PortRange(port.number, port.number) for port in found if port.protocol == "TCP"]
        if not any(port.protocol == "TCP" for port in found):
            why = f"is a {found[0].protocol} port" if found else "is declared by no container"
            faults.append(_undeclared(key, f"port {printable(item)} {why} ({known})"))
    return ranges, faults


def _undeclared(key: str, text: str) -> Fault:
    return about(key, Reason.UNDECLARED_PORT, text)


def _known(declared: tuple[DeclaredPort, ...]) -> str:
    tcp = sorted({(port.number, port.name) for port in declared if port.protocol == "TCP"})
    words = [f"{number} {name[:15]}".strip() for number, name in tcp[:10]]
    return f"declared: {', '.join(words)}" if words else "none is declared; add containerPorts"


def covering(ranges: Sequence[PortRange]) -> Callable[[int], bool]:
    """`covers` of these ranges, for many ports."""
    firsts, lasts = [item.first for item in ranges], [0, *(item.last for item in ranges)]
    return lambda port: lasts[bisect_right(firsts, port)] >= port


def covers(ranges: Sequence[PortRange], port: int) -> bool:
    """Whether one of these sorted, disjoint ranges holds the port."""
    return overlaps(ranges, PortRange(port, port))


def overlaps(ranges: Sequence[PortRange], item: PortRange) -> bool:
    """Whether one of these sorted, disjoint ranges shares a port with `item`."""
    index = bisect_right(ranges, item.last, key=lambda r: r.first)
    return index > 0 and ranges[index - 1].last >= item.first


def subtract(ranges: Iterable[PortRange], holes: Sequence[PortRange]) -> tuple[PortRange, ...]:
    """`ranges` without `holes`; both sorted and disjoint, and so is what comes out. One walk through each."""
    if not holes:
        return tuple(ranges)
    left: list[PortRange] = []
    at = 0
    for item in ranges:
        first = item.first
        while at < len(holes) and holes[at].last < first:
            at += 1
        while at < len(holes) and holes[at].first <= item.last:
            if first < holes[at].first:
                left.append(PortRange(first, holes[at].first - 1))
            first = holes[at].last + 1
            if first > item.last:  # this hole may reach into the next range
                break
            at += 1
        if first <= item.last:
            left.append(PortRange(first, item.last))
    return tuple(left)


def _clashes(intent: Intent, intercepted: tuple[PortRange, ...], declared: tuple[DeclaredPort, ...]) -> Iterator[Fault]:
    reserved = [port for port in declared if port.number in intent.reserved_ports and port.protocol == "TCP"]
    for own in intent.reserved_ports:
        owners = sorted({port.container for port in reserved if port.number == own})
        if owners:
            text = (
                f"port {own} of container {printable(owners[0])} is the sidecar's own; move the application to another"
            )
            yield Fault(Reason.PORT_CLASH, text)
        elif covers(intercepted, own):
            yield about(INBOUND, Reason.PORT_CLASH, f"port {own} is the sidecar's own; add it to {EXCLUDE}")


def _unseen(intent: Intent, declared: tuple[DeclaredPort, ...]) -> Iterator[str]:
    ranges = [item for item in intent.inbound_ports or () if isinstance(item, PortRange) and item.first < item.last]
    numbers = merge(PortRange(port.number, port.number) for port in declared if port.protocol == "TCP")
    for item in ranges:
        if not overlaps(numbers, item):
            yield f"{INBOUND}: no container declares a port of {item}; it is intercepted anyway"


def _idle(wanted: list[PortRange], excluded: list[PortRange]) -> Iterator[str]:
    before = merge(wanted)
    for hole in merge(excluded):
        if not overlaps(before, hole):
            yield f"{EXCLUDE}: {hole} is not intercepted anyway"
