"""Asking a container whether it is there, as kubelet does: from the node, to the Pod's address."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from srcip_lab.errors import LabError
from srcip_lab.namespace import Host
from srcip_lab.runtime import Runtime

TIMEOUT_S = 2.0
TCP_LISTEN = "0A"


def ask(probe: Mapping[str, Any], container: Mapping[str, Any], node: Host, pod_ip: str, runtime: Runtime) -> bool:
    """Whether one try of `probe` succeeds. A grpc probe counts as a TCP connection to its port."""
    if "exec" in probe:
        return runtime.exec(container["name"], probe["exec"]["command"], capture_output=True).returncode == 0
    kind = next((name for name in ("httpGet", "tcpSocket", "grpc") if name in probe), None)
    if kind is None:
        raise LabError(f"container {container['name']}: a probe without httpGet, tcpSocket, grpc or exec")
    target = probe[kind]
    address = (target.get("host") or pod_ip, port(container, target["port"]))
    action = (lambda: _http(address, target)) if kind == "httpGet" else (lambda: _tcp(address))
    return _answers(lambda: node.call(action))


def _answers(action: Callable[[], bool]) -> bool:
    try:
        return action()
    except (OSError, http.client.HTTPException):
        return False


def _tcp(address: tuple[str, int]) -> bool:
    socket.create_connection(address, TIMEOUT_S).close()
    return True


def _http(address: tuple[str, int], target: Mapping[str, Any]) -> bool:
    host, number = address
    if str(target.get("scheme", "HTTP")).upper() == "HTTPS":
        context = ssl._create_unverified_context()  # noqa: S323 (kubelet does not verify a probe's certificate either)
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            host, number, timeout=TIMEOUT_S, context=context
        )
    else:
        connection = http.client.HTTPConnection(host, number, timeout=TIMEOUT_S)
    headers = {header["name"]: header["value"] for header in target.get("httpHeaders") or []}
    try:
        connection.request("GET", target.get("path") or "/", headers=headers)
        return 200 <= connection.getresponse().status < 400
    finally:
        connection.close()


def port(container: Mapping[str, Any], wanted: int | str) -> int:
    """The number of a port given by number or by the name of one of the container's ports."""
    if isinstance(wanted, int) or wanted.isdigit():
        return int(wanted)
    for declared in container.get("ports") or []:
        if declared.get("name") == wanted:
            return int(declared["containerPort"])
    raise LabError(f"container {container['name']}: a probe names port {wanted!r}, which it does not declare")


def tcp_ports(container: Mapping[str, Any]) -> set[int]:
    """The TCP ports that `container` declares."""
    ports = container.get("ports") or []
    return {int(entry["containerPort"]) for entry in ports if entry.get("protocol", "TCP") == "TCP"}


def listening(pod: Host) -> set[int]:
    """The TCP ports of the Pod that something listens on, at any address."""
    return pod.call(lambda: _listening(_socket_tables()))


def _socket_tables() -> Iterable[str]:
    for name in ("tcp", "tcp6"):
        path = Path("/proc/thread-self/net") / name
        if path.exists():
            yield path.read_text()


def _listening(tables: Iterable[str]) -> set[int]:
    rows = (line.split() for table in tables for line in table.splitlines()[1:])
    return {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == TCP_LISTEN}
