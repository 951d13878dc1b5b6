"""The network of one lab: four namespaces, and a router between three of them.

    lb     10.77.1.2 ─┐
    other  10.77.2.2 ─┼─ node 10.77.0.1 (forwards; status.hostIP; kubelet's probes come from here)
    pod    10.77.3.2 ─┘

IPv6 is the same under fd77::/16. The addresses are those of every lab: a lab reaches nothing outside its node.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from srcip_lab.errors import raise_all
from srcip_lab.namespace import RUN_NETNS, Host
from srcip_lab.tools import run

SUBNETS = {"lb": 1, "other": 2, "pod": 3}
NODE_IPS = ("10.77.0.1", "fd77::1")
FORWARDING = {"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1"}
NO_IPV6 = {"ipv6/conf/all/disable_ipv6": "1", "ipv6/conf/default/disable_ipv6": "1"}
NO_DAD = {"ipv6/conf/default/accept_dad": "0"}
"""Duplicate address detection would hold back every link-local address, and with it the first connection, for 2 s."""


@dataclass(frozen=True)
class Network:
    """The hosts of a lab."""

    lb: Host
    """The load balancer: trusted by the lab's settings."""
    other: Host
    """Some other host: not trusted."""
    pod: Host
    node: Host
    """The router between the three, and the Pod's node."""
    ipv6: bool

    def part(self, name: str) -> Host:
        """The host with this name."""
        return next(host for host in self.hosts() if host.name == name)

    def hosts(self) -> tuple[Host, ...]:
        """All of them, the node first."""
        return self.node, self.lb, self.other, self.pod


def network(name: str, *, ipv6: bool = True) -> Network:
    """The network of the lab `name`, as it is or would be. Without IPv6 if the kernel has none."""
    ipv6 = ipv6 and Path("/proc/net/if_inet6").exists()
    hosts = {
        part: Host(part, f"srcip-{name}-{part}", _families(f"10.77.{n}.2", f"fd77:0:0:{n}::2", ipv6=ipv6))
        for part, n in SUBNETS.items()
    }
    node = Host("node", f"srcip-{name}-node", _families(*NODE_IPS, ipv6=ipv6))
    return Network(node=node, ipv6=ipv6, **hosts)


def trusted_cidrs(of: Network) -> tuple[str, ...]:
    """The networks of the load balancer."""
    return _families("10.77.1.0/24", "fd77:0:0:1::/64", ipv6=of.ipv6)


def _families(ipv4: str, ipv6_text: str, *, ipv6: bool) -> tuple[str, ...]:
    return (ipv4, ipv6_text) if ipv6 else (ipv4,)


def existing(wanted: Network) -> tuple[str, ...]:
    """Names of its namespaces that are there."""
    return tuple(host.netns for host in wanted.hosts() if (RUN_NETNS / host.netns).exists())


def create(wanted: Network) -> None:
    """Make the namespaces, links, addresses and routes. Raises LabError if one of that name is there already."""
    raise_all(f"network namespace {name}: exists already, and this lab did not make it" for name in existing(wanted))
    for host in wanted.hosts():
        run("ip", "netns", "add", host.netns)
        host.call(lambda: _set(NO_DAD if wanted.ipv6 else NO_IPV6))
    wanted.node.call(lambda: _set(FORWARDING))
    for host, lines in commands(wanted):
        run("ip", "-n", host.netns, "-batch", "-", stdin="\n".join(lines) + "\n")


def delete(netns: Iterable[str]) -> None:
    """Remove the namespaces with these names; those that are gone already are no error."""
    for name in netns:
        if (RUN_NETNS / name).exists():
            run("ip", "netns", "delete", name)


def commands(wanted: Network) -> list[tuple[Host, list[str]]]:
    """For each namespace the `ip` commands that set it up, in order: the node's own first, which makes the links."""
    node = ["link set lo up", f"address add {NODE_IPS[0]}/32 dev lo"]
    node += [f"address add {NODE_IPS[1]}/128 dev lo nodad"] if wanted.ipv6 else []
    for part, n in SUBNETS.items():
        node += _node_side(part, wanted.part(part).netns, n, ipv6=wanted.ipv6)
    hosts = [(wanted.part(part), _host_side(n, ipv6=wanted.ipv6)) for part, n in SUBNETS.items()]
    return [(wanted.node, node), *hosts]


def _node_side(part: str, netns: str, n: int, *, ipv6: bool) -> list[str]:
    """The node is known by its own address on every link, as a node of a cluster is."""
    lines = [
        f"link add {part} type veth peer name eth0 netns {netns}",
        f"address add 10.77.{n}.1/24 dev {part} noprefixroute",
        f"link set {part} up",
        f"route add 10.77.{n}.0/24 dev {part} src {NODE_IPS[0]}",
    ]
    if ipv6:
        lines += [
            f"address add fd77:0:0:{n}::1/64 dev {part} nodad noprefixroute",
            f"route add fd77:0:0:{n}::/64 dev {part} src {NODE_IPS[1]}",
        ]
    return lines


def _host_side(n: int, *, ipv6: bool) -> list[str]:
    lines = ["link set lo up", f"address add 10.77.{n}.2/24 dev eth0"]
    lines += [f"address add fd77:0:0:{n}::2/64 dev eth0 nodad"] if ipv6 else []
    lines += ["link set eth0 up", f"route add default via 10.77.{n}.1"]
    lines += [f"route add default via fd77:0:0:{n}::1"] if ipv6 else []
    return lines


def _set(values: dict[str, str]) -> None:
    """Set sysctls in the namespace of the calling thread; one that the kernel does not have is left out."""
    for name, value in values.items():
        path = Path("/proc/sys/net") / name
        if path.exists():
            path.write_text(value)
