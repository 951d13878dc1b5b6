"""Leads kubelet's probes past the sidecar.

kubelet sends no PROXY header. Where the node's own address is trusted, a probe of an intercepted port would meet the
sidecar; so it is rewritten to an alias port, which the kernel redirects to the real one. Probes with a `host` of
their own go elsewhere and stay as they are. In ebpf mode no probe is touched: one that only connects is answered by the
kernel, whoever it comes from, and `srcip.io/node-proxy-protocol: optional` lets the others through without a header.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from srcip_proxy.plan import RESERVED_PORTS, PortRange, ProbeAlias
from srcip_webhook import pods
from srcip_webhook.annotations import Intent
from srcip_webhook.pods import HANDLERS, HOOKS, PROBES, Container, Pod
from srcip_webhook.ports import covering

FIRST_ALIAS = 15100


class NoAliasError(Exception):
    """There are not enough ports for the aliases: `wanted` and `free` say how many."""

    def __init__(self, wanted: int, free: int) -> None:
        super().__init__(f"{wanted} aliases and {free} ports")
        self.wanted, self.free = wanted, free


@dataclass(frozen=True)
class Target:
    """One probe or hook that connects to a port of its container."""

    path: tuple[str, ...]
    """Where the handler is in the container, such as ("readinessProbe", "httpGet")."""
    said: int | str
    """The port as written: a number or the name of a container port."""
    number: int
    """The port's number."""


def targets(container: Container) -> Iterator[Target]:
    """Every probe and hook of the container that kubelet sends to the Pod's own address."""
    for probe in PROBES:
        if place := container.get(probe):
            yield from _of_place(container, (probe,), place)
    if lifecycle := container.get("lifecycle"):
        for hook in HOOKS:
            yield from _of_place(container, ("lifecycle", hook), lifecycle.get(hook) or {})


def _of_place(container: Container, path: tuple[str, ...], place: dict[str, Any]) -> Iterator[Target]:
    for handler in HANDLERS:
        action = place.get(handler)
        if not action or action.get("host"):  # that host is not the Pod
            continue
        said = action.get("port")
        number = _number(container, said) if isinstance(said, str) else said
        if number:
            yield Target((*path, handler), said, number)


def _number(container: Container, name: str) -> int:
    """The port of this name; of several, the last one. 0 if there is none."""
    return next((port.number for port in reversed(pods.ports_of(container)) if port.name == name), 0)


def aliases(pod: Pod, intent: Intent, intercepted: tuple[PortRange, ...]) -> tuple[ProbeAlias, ...]:
    """One alias for each probed port that is intercepted, from FIRST_ALIAS upward past every port in use. Raises
    NoAliasError."""
    if (
        not intent.has_sidecar
        or not intent.rewrite_probes
        or "off" in (intent.proxy_protocol, intent.node_proxy_protocol)
    ):
        return ()
    probed = {target.number for container in pods.listeners(pod) for target in targets(container)}
    is_covered = covering(intercepted)
    ports = sorted(filter(is_covered, probed))
    if not ports:
        return ()
    # an alias is a real port of the Pod's network: it must not take one that a container, a probe or srcip has
    used = {port.number for port in pods.declared_ports(pod)} | probed | set(RESERVED_PORTS)
    free = (port for port in range(FIRST_ALIAS, 65536) if port not in used and not is_covered(port))
    chosen = list(islice(free, len(ports)))
    if len(chosen) < len(ports):
        raise NoAliasError(len(ports), len(chosen))
    return tuple(ProbeAlias(alias, port) for alias, port in zip(chosen, ports, strict=True))


def rewritten(container: Container, alias_of: Mapping[int, int]) -> tuple[Container, dict[str, int | str]]:
    """The container with its probes led to the aliases, and what each said before, by dotted path."""
    changed, before = container, {}
    for target in targets(container):
        if target.number in alias_of:
            changed = with_port(changed, target.path, alias_of[target.number])
            before[".".join(target.path)] = target.said
    return changed, before


def with_port(container: Container, path: tuple[str, ...], port: int | str) -> Container:
    """The container with another port in the handler at `path`; what is not on the path is shared."""
    return _put(container, (*path, "port"), port)


def _put(node: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    if len(path) == 1:
        return {**node, path[0]: value}
    return {**node, path[0]: _put(node[path[0]], path[1:], value)}
