"""Addresses and policy routes of the data plane, as `ip -batch -` reads them. Pure."""

from __future__ import annotations

from srcip_proxy.network import CHECK4, LOOPBACK, MARK, PORTS6, PRIORITY, TABLE

_SELECTORS = ("fwmark {mark:#x}", "from {loopback} iif lo")


def prepare(version: int) -> str:
    """Commands that may fail: they take away what an earlier run left. For `ip -force`."""
    loopback = LOOPBACK[version]
    return "".join(f"rule del {_rule(s, loopback)}\n" for s in _SELECTORS)


def render(version: int, mode: str = "tproxy") -> str:
    """Commands for IP `version` 4 or 6 that must all succeed. In redirect mode replies find their way by themselves."""
    loopback = LOOPBACK[version]
    everything = "0.0.0.0/0" if version == 4 else "::/0"
    lines = ["link set lo up", *(f"addr replace {a} dev lo" for a in _addresses(version))]
    if mode == "tproxy":
        lines += [f"rule add {_rule(s, loopback)}" for s in _SELECTORS]
        lines.append(f"route replace local {everything} dev lo table {TABLE}")
    elif version == 6:
        lines.append(f"route replace local {PORTS6}/112 dev lo")
    return "".join(f"{line}\n" for line in lines)


def _addresses(version: int) -> list[str]:
    if version == 4:
        return [f"{LOOPBACK[4]}/32 scope host", f"{CHECK4}/32 scope host"]
    return [f"{LOOPBACK[6]}/128 nodad"]


def _rule(selector: str, loopback: str) -> str:
    return f"pref {PRIORITY} {selector.format(mark=MARK, loopback=loopback)} lookup {TABLE}"
