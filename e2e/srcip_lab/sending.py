"""What `srcip lab send` sends, and how its answer reads."""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from srcip_lab import header, http_message, toa
from srcip_lab.errors import LabError, raise_all
from srcip_lab.exchange import Outcome, talk, until_quiet, until_whole
from srcip_lab.header import Endpoint
from srcip_lab.http_message import Request, Response
from srcip_lab.lab import Lab

EPHEMERAL = (32768, 60999)


@dataclass(frozen=True)
class Sent:
    """One connection's bytes and where they went."""

    target: str
    port: int
    header: bytes
    rest: bytes
    """What follows the header."""
    http: str | None
    """The method, where the rest is an HTTP request."""
    option: Endpoint | None = None
    """Whom a TCP option names in place of a header."""

    def whole(self, raw: bytes) -> bool:
        """Whether this answer needs no more bytes."""
        try:
            return http_message.response(raw, self.http or "", closed=False) is not None
        except LabError:
            return True

    def response(self, outcome: Outcome) -> Response | None:
        """The answer as HTTP; None if it is none, or not whole."""
        if self.http is None:
            return None
        try:
            return http_message.response(outcome.answer, self.http, closed=outcome.end == "closed")
        except LabError:
            return None

    def good(self, outcome: Outcome) -> bool:
        """Whether what was asked for came back."""
        return outcome.good and (self.http is None or self.response(outcome) is not None)

    def text(self, outcome: Outcome) -> str:
        """How it ended, in words."""
        broken = self.http is not None and outcome.answer and not self.response(outcome)
        return f"{outcome.text}: no complete HTTP response" if broken else outcome.text

    def readable(self, outcome: Outcome) -> bytes:
        """The answer for a person."""
        read = self.response(outcome)
        return read.text if read else outcome.answer

    def facts(self, outcome: Outcome) -> dict[str, Any]:
        """The whole exchange as `--json` prints it."""
        told = {
            "sent": (self.header + self.rest).hex(),
            "from": outcome.local,
            "to": [self.target, self.port],
            "toa": toa.option(self.option).hex() if self.option else None,
            "end": outcome.end,
            "answer": outcome.answer.decode(errors="replace"),
        }
        if not (read := self.response(outcome)):
            return told
        body = read.body.decode(errors="replace")
        return {**told, "response": {"status": read.status, "headers": read.headers, "body": body}}


def send(options: dict[str, Any]) -> tuple[Sent, Outcome]:
    """Do what the options of `send` ask. Raises LabError with every fault of theirs."""
    current = Lab(options["name"])
    sent = _sent(current, options)
    sender = current.lb if options["origin"] == "lb" else current.other
    read = until_quiet if sent.http is None else until_whole(sent.whole)
    target, payload = (sent.target, sent.port), sent.header + sent.rest
    with toa.stating(current.name, sent.option) if sent.option else nullcontext():
        return sent, talk(sender, target, payload, timeout_s=options["timeout_s"], read=read)


def _sent(current: Lab, options: dict[str, Any]) -> Sent:
    errors: list[str] = []

    def part(make: Callable[[], Any], otherwise: Any) -> Any:
        try:
            return make()
        except LabError as error:
            errors.extend(error.errors)
            return otherwise

    target = part(lambda: _address(current, options), current.pod.ipv4)
    option = part(lambda: _client(options), None) if options["form"] == "toa" else None
    head = part(lambda: _header(current, options), b"")
    data = part(lambda: _data(options["data"]), b"")
    method = ("POST" if options["data"] else "GET") if options["method"] is None else options["method"]
    asked = Request(method, "/" if options["path"] is None else options["path"], options["headers"], data)
    if options["http"]:
        data = part(lambda: http_message.request(asked, target, options["port"]), b"")
    else:
        errors += [f"--{name} is for --http alone" for name in ("path", "method") if options[name] is not None]
        errors += ["--header is for --http alone"] if options["headers"] else []
    raise_all(errors)
    return Sent(target, options["port"], head, data, method if options["http"] else None, option)


def _address(current: Lab, options: dict[str, Any]) -> str:
    if options["target"] is not None:
        return _ip(options["target"])
    if not options["ipv6"]:
        return current.pod.ipv4
    if current.pod.ipv6 is None:
        raise LabError(f"lab {current.name}: it has no IPv6")
    return current.pod.ipv6


def _ip(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise LabError(f"--to: {text!r} is not an IP address") from None


def _header(current: Lab, options: dict[str, Any]) -> bytes:
    """The bytes before the data, as the options of `send` ask."""
    if options["raw"] is not None:
        return _hex(options["raw"])
    if options["form"] in ("none", "toa"):
        return b""
    client = _client(options)
    family = {4: current.pod.ipv4, 6: current.pod.ipv6 or "fd77:0:0:3::2"}
    server = header.endpoint(family[client.ip.version], options["port"])
    return (header.v1 if options["form"] == "v1" else header.v2)(client, server)


def _client(options: dict[str, Any]) -> Endpoint:
    """Whom the header or the TCP option names."""
    if options["client"] is None:
        raise LabError("--client is missing: set the client for the header to name (or --no-header, or --hex)")
    try:
        return header.endpoint(options["client"], random.randint(*EPHEMERAL))  # noqa: S311 (any port will do)
    except ValueError as error:
        raise LabError(f"--client: {error}") from None


def _hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text.replace(":", " "))
    except ValueError as error:
        raise LabError(
            f"--hex: {error}; allowed are pairs of hexadecimal digits, with spaces or colons between"
        ) from None


def _data(text: str) -> bytes:
    try:
        return text.encode("latin-1", "backslashreplace").decode("unicode_escape").encode()
    except UnicodeDecodeError as error:
        raise LabError(f"--data: {error.reason}") from None
