"""Addresses and policy routes of the data plane, as `ip -batch -` reads them. Pure."""

from __future__ import annotations

from srcip_proxy.network import CHECK4, LOOPBACK, MARK, PORTS6, PRIORITY, TABLE
from srcip_proxy.plan import Plan
from srcip_proxy.pod import Pod

_SELECTORS = ("fwmark {mark:#x}", "from {loopback} iif lo")


def prepare(version: int) -> str:
    """Commands that may fail: they take away what an earlier run left. For `ip -force`."""
    return "".join(f"rule del {rule}\n" for rule in _rules(version))


def render(version: int, plan: Plan, pod: Pod) -> str:
    """Commands for IP `version` 4 or 6 that must all succeed. Only in tproxy mode replies need help to find their
    way; in redirect mode sockets that are bound to lo (haproxy/redirect.py) need one to the Pod's own address."""
    # scope host: the kernel never chooses such an address as source of a connection that leaves the Pod
    hosts = [f"{LOOPBACK[4]}/32 scope host", f"{CHECK4}/32 scope host"]
    addresses = hosts if version == 4 else [f"{LOOPBACK[6]}/128 nodad"]
    everything = "0.0.0.0/0" if version == 4 else "::/0"
    lines = ["link set lo up", *(f"addr replace {address} dev lo" for address in addresses)]
    if plan.spoofs_source and plan.inbound_ports:
        lines += [f"rule add {rule}" for rule in _rules(version)]
        lines.append(f"route replace local {everything} dev lo table {TABLE}")
    if version == 6 and (plan.redirects or plan.outbound_ports):
        lines.append(f"route replace local {PORTS6}/112 dev lo")
    if plan.redirects and plan.deliver_to != "loopback" and (own := pod.own(version)):
        lines.append(f"route replace local {own} dev lo table local metric {PRIORITY}")
    return "".join(f"{line}\n" for line in lines)


def _rules(version: int) -> list[str]:
    """Replies of the application are led back to the sidecar."""
    selectors = [selector.format(mark=MARK, loopback=LOOPBACK[version]) for selector in _SELECTORS]
    return [f"pref {PRIORITY} {selector} lookup {TABLE}" for selector in selectors]
