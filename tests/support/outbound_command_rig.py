"""Pods that run `srcip-proxy outbound`, a client in them, and a server outside."""

import re
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from srcip_lab import image
from srcip_lab.lab import Lab
from srcip_lab.namespace import Host
from srcip_lab.plan_pod import IMAGE
from support.rig import OTHER4, PATIENT, POD4, needs_root
from support.waiting import DEADLINE_S, until

PORT, PLAIN_PORT = 8080, 8081
"""Of the server outside; requests to the first get headers."""
NAME = "shop-0"
OPTIONS = ["-P", str(PORT), "-H", "X-Team: shop", "--Set-Forwarded-For", "default", "--Set-Client-Hostname", "default"]
STRICT = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}
ROOT = {**STRICT, "runAsUser": 0, "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "SETUID", "SETGID", "KILL"]}}
"""The least that the one-container form needs."""
ROOT_BY_DEFAULT = {"capabilities": {"add": ["NET_ADMIN"]}}
"""What a manifest of the nginx image says."""
USER = {**STRICT, "runAsUser": 7363, "runAsGroup": 7363, "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]}}
DOCS = Path(__file__).parents[2] / "docs" / "outbound-command.md"
CLIENT = f"""
import json, os, signal, socket, sys, time

LINES = "GET / HTTP/1.1", "Host: a.example", "X-Forwarded-For: 192.0.2.9", "Connection: close", "", ""

def get(host, port={PORT}):
    with socket.create_connection((host, port), 60) as s:
        s.sendall("\\r\\n".join(LINES).encode())
        answer = b"".join(iter(lambda: s.recv(65536), b"")).decode()
    return answer.partition("\\r\\n\\r\\n")[2]

def status(name):
    for pid in filter(str.isdigit, os.listdir("/proc")):
        lines = dict(line.split(":", 1) for line in open(f"/proc/{{pid}}/status").read().splitlines() if ":" in line)
        if lines["Name"].strip() == name:
            return {{key: value.split() for key, value in lines.items()}}

def say(*words):
    print(*words, flush=True)

def server_is_up(port={PLAIN_PORT}):
    while True:
        try:
            return socket.create_connection(({OTHER4!r}, port), 60).close()
        except OSError:
            time.sleep(0.01)

server_is_up()
"""
WRITTEN = {"x-team": ["shop"], "x-forwarded-for": [POD4], "x-client-hostname": [NAME]}


class Server:
    """An HTTP server of a host outside: it answers with the head of the request, as it came."""

    def __init__(self, host: Host, ports: Sequence[int]) -> None:
        self._listeners = [host.listen(port, "::" if host.ipv6 else "0.0.0.0") for port in ports]
        for listener in self._listeners:
            threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, peer = listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(DEADLINE_S)
                head = b""
                while b"\r\n\r\n" not in head:
                    head += connection.recv(65536) or b"\r\n\r\n"
                body = f"{peer[0].removeprefix('::ffff:')}\n".encode() + head
                connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body)

    def close(self) -> None:
        for listener in self._listeners:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()


class Pods:
    """Pods of one test, each with a server outside; they end with it."""

    def __init__(self) -> None:
        needs_root()
        self._running: list[tuple[Lab, Server]] = []

    def outbound(
        self, options: Sequence[str], context: dict[str, Any], *, ipv6: bool = True, restart: str = "Never"
    ) -> Lab:
        """A Pod with one container that runs the command with these options."""
        downward = {"name": "PODIP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
        patient = ["python3", "-I", "-c", f"open('/proc/self/comm', 'w').write('srcip-proxy')\n{PATIENT}"]
        container = {"name": "app", "image": IMAGE, "command": [*patient, "outbound", *options]}
        spec = {"containers": [{**container, "env": [downward], "securityContext": context}], "restartPolicy": restart}
        return self.run(spec, ipv6=ipv6)

    def run(self, spec: dict[str, Any], *, ipv6: bool = True) -> Lab:
        """Any Pod."""
        lab = Lab.up_pod({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": NAME}, "spec": spec}, ipv6=ipv6)
        self._running.append((lab, Server(lab.other, (80, PORT, PLAIN_PORT))))
        return lab

    def end(self) -> None:
        """End them all."""
        for lab, server in self._running:
            server.close()
            lab.down()


def application(code: str) -> list[str]:
    """The end of a command line that runs this Python code as the application."""
    return ["--", "python3", "-I", "-c", CLIENT + code]


def ended(lab: Lab) -> tuple[int | None, str]:
    """Exit code and log of the container, once it has ended."""
    until(lambda: lab.container("app").state == "terminated", lambda: lab.log("app"))
    return lab.container("app").exit_code, lab.log("app")


def waited(lab: Lab, word: str, times: int = 1) -> str:
    """The container's log, once it holds `word` so many times."""
    until(lambda: lab.log("app").count(word) >= times, lambda: lab.log("app"))
    return lab.log("app")


def seen(text: str) -> tuple[str, dict[str, list[str]]]:
    """Whom the server saw, and the headers it got."""
    peer, _, head = text.replace("\r", "").partition("\n")
    headers: dict[str, list[str]] = {}
    for line in head.strip().splitlines()[1:]:
        name, _, value = line.partition(": ")
        headers.setdefault(name.lower(), []).append(value)
    return peer, headers


def rules(lab: Lab) -> str:
    """All that the image's nft lists; the one of this machine may be too old for it."""
    nft = ["chroot", str(image.proxy_rootfs()), "nft"]
    return lab.pod.run([*nft, "list", "ruleset"], capture_output=True, check=True).stdout


def ask(host: Host, address: str, port: int = PORT) -> tuple[str, dict[str, list[str]]]:
    """One request of a process of the Pod, which no container started."""
    code = CLIENT + "sys.stdout.write(get(sys.argv[1], int(sys.argv[2])))"
    words = [sys.executable, "-c", code, address, str(port)]
    return seen(host.run(words, capture_output=True, check=True).stdout)


def wait_for_haproxy(number: int) -> dict[str, str]:
    """The status of the process, once it is HAProxy."""
    until(lambda: _status(number)["Name"].strip() == "haproxy", lambda: _status(number)["Name"])
    return _status(number)


def _status(number: int) -> dict[str, str]:
    lines = Path(f"/proc/{number}/status").read_text().splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def answers(lab: Lab) -> bool:
    """Whether the sidecar is ready, as kubelet asks."""
    try:
        with lab.node.connect(POD4, 15320) as connection:
            connection.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
            return b" 200 " in connection.recv(1024)
    except OSError:
        return False


def documented(kind: str) -> list[str]:
    """The code blocks of the documentation in one language."""
    return re.findall(rf"^```{kind}\n(.*?)^```", DOCS.read_text(), re.MULTILINE | re.DOTALL)
