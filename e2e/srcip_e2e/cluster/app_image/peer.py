"""A small application that tells each client who it seems to be. Port 8080 speaks HTTP; port 9000 speaks first.

Standard output has one line for each connection. SIGTERM ends it as a decent server does: no new connections, and the
open ones may end. GET /die makes it hang: it accepts no more, and its probes must fail.
"""

from __future__ import annotations

import os
import signal
import socket
import socketserver
import threading
import time
from http.server import BaseHTTPRequestHandler

HTTP_PORT, LINE_PORT = 8080, 9000
_ends = threading.Event()


def peer(address: tuple[str, int]) -> str:
    """Address and port as one word each."""
    return f"{address[0].removeprefix('::ffff:')} {address[1]}"


class Http(BaseHTTPRequestHandler):
    """Answers any GET with the client's address, its port and the Pod's name."""

    protocol_version = "HTTP/1.1"
    timeout = 5

    def do_GET(self) -> None:
        if self.path == "/die" and isinstance(self.server, Server):
            self.server.socket.close()
        body = f"{peer(self.client_address)} {socket.gethostname()}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        if _ends.is_set():
            self.close_connection = True

    def log_request(self, code: object = "-", size: object = "-") -> None:
        print(f"http {peer(self.client_address)} {self.path}", flush=True)


class Lines(socketserver.StreamRequestHandler):
    """Greets each client with its address, then gives every line back."""

    def handle(self) -> None:
        print(f"line {peer(self.client_address)}", flush=True)
        self.wfile.write(f"hello {peer(self.client_address)} {socket.gethostname()}\n".encode())
        for line in self.rfile:
            self.wfile.write(line)
        print(f"end {peer(self.client_address)}", flush=True)


class Server(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6
    allow_reuse_address = True
    daemon_threads = False
    request_queue_size = 128

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


def main() -> None:
    servers = [Server(("::", HTTP_PORT), Http), Server(("::", LINE_PORT), Lines)]
    for server in servers:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    print("listening", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: _ends.set())
    _ends.wait()
    print(f"SIGTERM at {time.time():.3f}", flush=True)
    for server in servers:
        server.shutdown()
        server.server_close()  # waits for the open connections, as their threads are no daemons
    print(f"done at {time.time():.3f}", flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
