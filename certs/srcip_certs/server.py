"""/healthz, /metrics and /status over plain HTTP, from a thread."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, str, str]
"""Status, content type, text."""


class Server(ThreadingHTTPServer):
    """Answers GET for the paths in `pages`."""

    daemon_threads = True
    address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET

    def __init__(self, port: int, pages: dict[str, Callable[[], Answer]]) -> None:
        super().__init__(("", port), _Handler)
        self.pages = pages

    def server_bind(self) -> None:
        """Take both IP versions: kubelet's probes come by the Pod's own."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def start(self) -> int:
        """Serve from a thread; the port."""
        threading.Thread(target=self.serve_forever, name="http", daemon=True).start()
        return int(self.server_address[1])


class _Handler(BaseHTTPRequestHandler):
    timeout = 10
    server: Server

    def do_GET(self) -> None:
        page = self.server.pages.get(self.path.partition("?")[0])
        status, kind, text = page() if page else (404, "text/plain; charset=utf-8", "not found\n")
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Probes and scrapes are not worth a line."""


def plain(status: int, text: str) -> Answer:
    return status, "text/plain; charset=utf-8", text


def as_json(content: object) -> Answer:
    return 200, "application/json", json.dumps(content, indent=1) + "\n"
