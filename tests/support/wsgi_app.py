"""Python's HTTP servers, unmodified, each with the same application: it answers with the variables it was given.

Usage: wsgi_app.py SERVER PORT. The answer to a request is one line, `saw` and a JSON object.
"""

import json
import socketserver
import sys
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref import simple_server

Environ = dict[str, Any]
ANY = "0.0.0.0"


def read_body(environ: Environ) -> None:
    """All of it, where the server says where it ends."""
    if environ.get("wsgi.input_terminated"):
        environ["wsgi.input"].read()
    elif (environ.get("CONTENT_LENGTH") or "0").isdecimal():
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))


def application(environ: Environ, start_response: Callable[..., object]) -> Iterable[bytes]:
    read_body(environ)
    shown = {name: value for name, value in environ.items() if name.startswith("HTTP_") or name == "PATH_INFO"}
    body = f"saw {json.dumps(shown)}\n".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


class Threaded(socketserver.ThreadingMixIn, simple_server.WSGIServer):
    daemon_threads = True
    request_queue_size = 128


def wsgiref(port: int) -> None:
    simple_server.make_server(ANY, port, application, Threaded).serve_forever()


def werkzeug(port: int) -> None:
    from werkzeug import serving  # noqa: PLC0415 (each process needs one of them)

    serving.WSGIRequestHandler.protocol_version = "HTTP/1.1"  # or it would end each connection
    serving.make_server(ANY, port, application, threaded=True).serve_forever()


def cheroot(port: int) -> None:
    from cheroot import wsgi  # noqa: PLC0415

    wsgi.Server((ANY, port), application, numthreads=40).start()


def gevent(port: int) -> None:
    from gevent import pywsgi  # noqa: PLC0415

    pywsgi.WSGIServer((ANY, port), application).serve_forever()


def eventlet(port: int) -> None:
    import eventlet as library  # noqa: PLC0415
    from eventlet import wsgi  # noqa: PLC0415

    wsgi.server(library.listen((ANY, port)), application)


SERVERS = {each.__name__: each for each in (wsgiref, werkzeug, cheroot, gevent, eventlet)}

if __name__ == "__main__":
    SERVERS[sys.argv[1]](int(sys.argv[2]))
