"""What the data plane knows of the Pod that it runs in: its addresses, the node's, and whether IPv6 is there."""

from __future__ import annotations

import ipaddress
import json
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class PodError(ValueError):
    """The environment does not describe a Pod; `errors` names every fault."""

    def __init__(self, errors: list[str]) -> None:
        self.errors = tuple(errors)
        super().__init__("; ".join(errors))


@dataclass(frozen=True)
class Pod:
    """The addresses that decide what is intercepted and which claims are refused."""

    addresses: tuple[Address, ...]
    """The Pod's own addresses (`status.podIPs`), at most one per family."""
    node: tuple[Address, ...] = ()
    """Where the node's own traffic comes from: `status.hostIP` and the Pod's default gateways."""
    unusable: tuple[Address, ...] = ()
    """Every address of the Pod's interfaces and their broadcast addresses: no client can have them."""
    ipv6: bool = True
    """Whether the Pod's network namespace has IPv6."""
    max_files: int = 1_048_576
    """How many file descriptors a container of this Pod may open."""
    stated: Address | None = None
    """The address that outgoing requests name: PODIP, POD_IP or that of the primary interface."""
    hostname: str = ""
    """The Pod's host name."""

    @property
    def versions(self) -> tuple[int, ...]:
        """The IP versions that this Pod has: 4, and 6 unless it is off."""
        return (4, 6) if self.ipv6 else (4,)

    def own(self, version: int) -> Address | None:
        """The Pod's address of IP `version` 4 or 6, or None."""
        return next((a for a in self.addresses if a.version == version), None)


def from_environment(environment: Mapping[str, str], ip: Callable[..., str]) -> Pod:
    """The Pod as the downward API (POD_IP, POD_IPS, HOST_IP) and `ip -j` describe it. Raises PodError.

    Without POD_IPS and POD_IP, as outside Kubernetes, the global addresses of the interfaces count.
    """
    links = json.loads(ip("-j", "addr", "show"))
    rows = [row for link in links for row in link["addr_info"] if "local" in row]
    errors: list[str] = []
    addresses = _addresses("POD_IPS", environment, errors) or _addresses("POD_IP", environment, errors)
    node = _addresses("HOST_IP", environment, errors)
    stated = _addresses("PODIP", environment, errors) or _addresses("POD_IP", environment, []) or addresses
    if errors:
        raise PodError(errors)
    stated = stated or _primary(links, _default_interfaces())
    addresses = addresses or [ipaddress.ip_address(r["local"]) for r in rows if r["scope"] == "global"]
    first_of_family = {a.version: a for a in reversed(addresses)}
    return Pod(
        addresses=tuple(first_of_family[v] for v in sorted(first_of_family)),
        node=_distinct([*node, *gateways()]),
        unusable=_distinct([*addresses, *(a for r in rows for a in _of_interface(r["local"], r["prefixlen"]))]),
        ipv6=_has_ipv6(),
        max_files=_max_files(Path("/proc/self/limits").read_text()),
        stated=next(iter(stated), None),
        hostname=socket.gethostname(),
    )


def run_ip(*arguments: str) -> str:
    """The output of `ip`. Raises subprocess.CalledProcessError."""
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout or "[]"


def _of_interface(local: str, prefix: int) -> list[Address]:
    """An interface's address, and the broadcast address of its network: as a source, the kernel would quietly put
    another address in its place."""
    network = ipaddress.ip_interface(f"{local}/{prefix}").network
    ends = [network.network_address, network.broadcast_address] if network.version == 4 and prefix < 31 else []
    return [ipaddress.ip_address(local), *ends]


def _addresses(name: str, environment: Mapping[str, str], errors: list[str]) -> list[Address]:
    found = []
    for text in filter(None, environment.get(name, "").split(",")):
        try:
            found.append(ipaddress.ip_address(text.strip()))
        except ValueError:
            errors.append(f"{name}: {text!r} is not an IP address")
    return found


def gateways(net: Path = Path("/proc/net")) -> list[Address]:
    """The default gateways of this network namespace (proc(5), route; ipv6_route has the same columns in hex)."""
    rows4 = (line.split() for line in _lines(net / "route")[1:])
    rows6 = (line.split() for line in _lines(net / "ipv6_route"))
    found: list[Address] = [
        ipaddress.IPv4Address(int(row[2], 16).to_bytes(4, sys.byteorder)) for row in rows4 if row[1] == "00000000"
    ]
    found += [ipaddress.IPv6Address(bytes.fromhex(row[4])) for row in rows6 if row[:2] == ["0" * 32, "00"]]
    return [address for address in found if not address.is_unspecified]


def _default_interfaces(net: Path = Path("/proc/net")) -> list[str]:
    """The names of the interfaces with a default route, IPv4 first."""
    rows4 = (line.split() for line in _lines(net / "route")[1:])
    rows6 = (line.split() for line in _lines(net / "ipv6_route"))
    names4 = [row[0] for row in rows4 if row[1] == "00000000"]
    return [*names4, *(row[-1] for row in rows6 if row[:2] == ["0" * 32, "00"])]


def _primary(links: list[dict[str, Any]], first: list[str]) -> list[Address]:
    """The global addresses of these interfaces, before those of the others."""
    known = [link for link in links if link.get("ifname") in first]
    known.sort(key=lambda link: first.index(link["ifname"]))
    rows = (row for link in (*known, *links) for row in link["addr_info"] if "local" in row)
    return list(_distinct([ipaddress.ip_address(row["local"]) for row in rows if row["scope"] == "global"]))


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _distinct(addresses: list[Address]) -> tuple[Address, ...]:
    return tuple(dict.fromkeys(addresses))


def _has_ipv6() -> bool:
    """IPv6 is compiled in and not switched off for new interfaces and lo (ip-sysctl.rst, disable_ipv6)."""
    switch = Path("/proc/sys/net/ipv6/conf/lo/disable_ipv6")
    return switch.exists() and switch.read_text().strip() == "0"


def _max_files(limits: str) -> int:
    """The hard limit of `Max open files` (proc(5)); the sidecar has the same one."""
    row = next(line.split() for line in limits.splitlines() if line.startswith("Max open files"))
    return int(row[4]) if row[4].isdigit() else 1_048_576
