"""Servers of real libraries that tell each client what they were told of it, as JSON: {"peer": ..., "headers": [...]}.

8081 speaks HTTP/1.1 (Python's own server), 8082 WebSocket (websockets), 8083 gRPC (grpcio). Whatever comes after the
first message of a WebSocket or of a gRPC stream goes back as it came.
"""

from __future__ import annotations

import json
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from websockets.sync.server import ServerConnection, serve

HTTP_PORT, WEBSOCKET_PORT, GRPC_PORT = 8081, 8082, 8083


def told(peer: str, headers: object) -> str:
    """What a client is answered."""
    return json.dumps({"peer": peer.removeprefix("::ffff:"), "headers": headers})


class Http(BaseHTTPRequestHandler):
    """Answers GET and POST; each line of the headers on its own."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = told(self.client_address[0], self.headers.items()).encode() + b"\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        print(f"http {self.client_address[0]} {self.path}", flush=True)


class HttpServer(ThreadingHTTPServer):
    address_family = socket.AF_INET6
    daemon_threads = True


def websocket(connection: ServerConnection) -> None:
    """Say what was seen, then echo."""
    assert connection.request
    connection.send(told(connection.remote_address[0], list(connection.request.headers.raw_items())))
    for message in connection:
        connection.send(message)


def stream(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
    """The same; the trailers say how it ended."""
    yield told(context.peer(), [list(each) for each in context.invocation_metadata()]).encode()
    yield from requests
    context.set_trailing_metadata((("x-end", "reached"),))


def main() -> None:
    calls = grpc.server(ThreadPoolExecutor(4))
    handler = grpc.stream_stream_rpc_method_handler(stream)
    calls.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("e2e.Web", {"Talk": handler}),))
    calls.add_insecure_port(f"[::]:{GRPC_PORT}")
    calls.start()
    listener = socket.create_server(("::", WEBSOCKET_PORT), family=socket.AF_INET6, dualstack_ipv6=True)
    sockets = serve(websocket, sock=listener)
    web = HttpServer(("::", HTTP_PORT), Http)
    for server in (sockets, web):
        threading.Thread(target=server.serve_forever, daemon=True).start()
    print("listening", flush=True)
    signal.sigwait({signal.SIGTERM})


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    main()
