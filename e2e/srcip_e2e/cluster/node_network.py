"""The network of the single-node cluster: two namespaces of this machine, and a wire between them.

    edge  10.245.0.1 ── 10.245.0.2  node ── bridge 10.244.0.1 ── Pods 10.244.0.0/24

The edge is a host outside the cluster: there the load balancer of a test runs, and its clients. It has routes to Pods
and Services, as a load balancer in the same routed network has. Nothing here leads out of the machine.
"""

from __future__ import annotations

from pathlib import Path

from srcip_lab.namespace import Host
from srcip_lab.tools import run

NODE = Host("node", "srcip-k8s-node", ("10.245.0.2", "fd00:10:245::2"))
"""The machine that kubelet, the control plane and all Pods believe to run on."""
EDGE = Host("edge", "srcip-k8s-edge", ("10.245.0.1", "fd00:10:245::1"))
"""The host outside the cluster; its first addresses are the load balancer's."""
STRANGER = ("10.245.0.3", "fd00:10:245::3")
"""More addresses of the edge: a host that nobody trusts."""
CLIENTS = ("203.0.113.0/24", "2001:db8::/64")
"""Networks of which the edge has every address: the clients of the load balancer."""
CLIENT = ("203.0.113.7", "2001:db8::7")
"""Which of them a program of the edge is, if it connects to the balancer and does not choose."""
BALANCER = ("198.51.100.1", "2001:db8:1::1")
"""Where the balancer's clients find it."""
POD_CIDRS = ("10.244.0.0/24", "fd00:10:244::/64")
BRIDGES = ("10.244.0.1", "fd00:10:244::1")
"""The node as its own Pods see it: its addresses on their bridge."""
SERVICE_CIDRS = ("10.96.0.0/16", "fd00:10:96::/112")
API_SERVICE_IP = "10.96.0.1"

_FORWARD = {"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1"}
_NO_DAD = {"ipv6/conf/default/accept_dad": "0"}
_ANY_SOURCE = {"ipv6/ip_nonlocal_bind": "1"}
"""Programs may be any of CLIENTS; IPv4 allows that without."""


def create() -> None:
    """Make both namespaces, the wire, the addresses and the routes."""
    for host in (NODE, EDGE):
        run("ip", "netns", "add", host.netns)
        host.call(lambda: _set(_NO_DAD))
    NODE.call(lambda: _set(_FORWARD))
    for host, lines in commands():
        run("ip", "-n", host.netns, "-batch", "-", stdin="\n".join(lines) + "\n")
    give_clients(EDGE)


def give_clients(host: Host) -> None:
    """Give a namespace the addresses of the balancer and of its clients; done twice is as done once."""
    host.call(lambda: _set(_ANY_SOURCE))
    run("ip", "-n", host.netns, "-batch", "-", stdin="\n".join(_clients()) + "\n")


def delete() -> None:
    """Remove them; what is gone already is no error."""
    for host in (NODE, EDGE):
        if host.path.exists():
            run("ip", "netns", "delete", host.netns)


def processes() -> list[int]:
    """Processes of this machine that are in one of the namespaces."""
    found = (run("ip", "netns", "pids", host.netns) for host in (NODE, EDGE) if host.path.exists())
    return [int(pid) for text in found for pid in text.split()]


def commands() -> list[tuple[Host, list[str]]]:
    """For each namespace the `ip` commands that set it up, in order."""
    node = ["link set lo up", f"link add lan0 type veth peer name eth0 netns {EDGE.netns}"]
    edge = ["link set lo up"]
    for ip in NODE.ips:
        node.append(_address(ip, "lan0"))
    edge += [_address(ip, "eth0") for ip in EDGE.ips]
    # never chosen unless a program asks for it
    edge += [f"{_address(ip, 'eth0')} preferred_lft 0" for ip in STRANGER]
    node += ["link set lan0 up", *(f"route add default via {ip}" for ip in EDGE.ips)]
    edge += ["link set eth0 up"]
    for networks in (POD_CIDRS, SERVICE_CIDRS):
        edge += [f"route add {network} via {via}" for network, via in zip(networks, NODE.ips, strict=True)]
    return [(NODE, node), (EDGE, edge)]


def _clients() -> list[str]:
    lines = [f"address replace {CLIENT[1]}/128 dev lo nodad"]  # IPv6 takes no source that is not on an interface
    lines += [f"route replace local {network} dev lo" for network in CLIENTS]
    pairs = zip(BALANCER, CLIENT, strict=True)
    return lines + [f"route replace local {ip} dev lo src {client}" for ip, client in pairs]


def _address(ip: str, device: str) -> str:
    return f"address add {ip}/64 dev {device} nodad" if ":" in ip else f"address add {ip}/24 dev {device}"


def _set(values: dict[str, str]) -> None:
    """Set sysctls in the namespace of the calling thread; one that the kernel does not have is left out."""
    for name, value in values.items():
        path = Path("/proc/sys/net") / name
        if path.exists():
            path.write_text(value)
