"""One HTTP/1.1 request and its response, as `srcip lab send --http` needs them. Pure."""

from __future__ import annotations

import http.client
import io
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

from srcip_lab.errors import LabError, raise_all

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?|")
_TARGET = re.compile(r"/[\x21-\x7e]*")


@dataclass(frozen=True)
class Request:
    """What is asked for, as the options of `send` say it."""

    method: str
    path: str
    headers: tuple[str, ...]
    """Lines `Name: value`."""
    body: bytes


@dataclass(frozen=True)
class Response:
    """A response with its body as it was before the transfer: no chunks."""

    status: str
    """The status line."""
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def text(self) -> bytes:
        """It for a person: status line, headers, an empty line, the body."""
        head = [self.status, *(f"{name}: {value}" for name, value in self.headers), "", ""]
        return "\n".join(head).encode("latin-1", "replace") + self.body


def request(asked: Request, address: str, port: int) -> bytes:
    """The bytes of a request. Host, Content-Length and Connection are added where they are not said.

    Raises LabError with every fault.
    """
    pairs = [(name, value.strip(" \t")) for name, _, value in (line.partition(":") for line in asked.headers)]
    raise_all(_faults(asked, pairs))
    host = f"[{address}]" if ipaddress.ip_address(address).version == 6 else address
    added = {"Host": f"{host}:{port}", "Connection": "close"}
    if asked.body:
        added["Content-Length"] = str(len(asked.body))
    said = {name.lower() for name, _ in pairs}
    lines = [f"{asked.method} {asked.path} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in added.items() if name.lower() not in said]
    lines += [f"{name}: {value}" for name, value in pairs]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + asked.body


def _faults(asked: Request, pairs: list[tuple[str, str]]) -> Iterable[str]:
    if not _TOKEN.fullmatch(asked.method):
        yield f"--method: {asked.method!r} is not a method such as GET"
    if not _TARGET.fullmatch(asked.path):
        yield f"--path: {asked.path!r} is not a path: it must begin with /, without blanks, in ASCII"
    for line, (name, value) in zip(asked.headers, pairs, strict=True):
        if ":" not in line or not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
            yield f"--header: {line!r} is not 'Name: value' in printable ASCII"


def response(raw: bytes, method: str, *, closed: bool) -> Response | None:
    """The final response in these bytes, or None while it is not whole.

    `closed`: no more bytes will come, which may be the end of a body. Raises LabError if it is no HTTP.
    """
    if not b"HTTP/".startswith(raw[:5]):
        raise LabError("the answer is not HTTP")
    if b"\r\n\r\n" not in raw:
        return None
    message = http.client.HTTPResponse(_Bytes(raw), method=method)  # type: ignore[arg-type] # it only makes a file of it
    try:
        message.begin()
        if message.length is None and not message.chunked and not closed:
            return None
        body = message.read()
    except (http.client.IncompleteRead, ConnectionError):
        return None
    except http.client.HTTPException as error:
        raise LabError(f"the answer is not HTTP: {error!r}") from None
    version = f"HTTP/{message.version // 10}.{message.version % 10}"
    return Response(f"{version} {message.status} {message.reason}".strip(), tuple(message.getheaders()), body)


class _Bytes:
    """What http.client takes for a socket."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def makefile(self, _mode: str) -> io.BytesIO:
        """The bytes to read."""
        return io.BytesIO(self._raw)
