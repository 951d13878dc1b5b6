"""Names of HTTP headers and of TLVs: what srcip writes, and what nobody may choose."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

Pairs = tuple[tuple[str, str], ...]
"""Pairs of a name and what belongs to it."""

HEADERS = ("forwarded-for", "real-ip", "forwarded-port", "forwarded-proto", "forwarded")
"""The headers that can be written, by the word for each."""
FIXED = {
    "real-ip": "X-Real-IP",
    "forwarded-port": "X-Forwarded-Port",
    "forwarded-proto": "X-Forwarded-Proto",
    "forwarded": "Forwarded",
}
"""Names of those that have one of their own; that of `forwarded-for` can be chosen."""
OUTBOUND = {"outbound_forwarded_for": "X-Forwarded-For", "outbound_client_hostname": "X-Client-Hostname"}
"""Headers of outgoing requests that have a field of the plan of their own."""
DEFAULT = "default"
"""The value of such a field that stands for the Pod's own address or host name."""
TLVS = (
    "alpn",
    "authority",
    "unique-id",
    "ssl-version",
    "ssl-cn",
    "ssl-cipher",
    "netns",
    "aws-vpce-id",
    "azure-link-id",
    "gcp-psc-connection-id",
)
"""What a PROXY header of version 2 may say besides addresses (proxy-protocol.txt, section 2.2; AWS, Azure, GCP)."""
_HOP_BY_HOP = ("connection", "keep-alive", "proxy-connection", "te", "trailer", "upgrade", "http2-settings")
FRAMING = frozenset(("host", "content-length", "transfer-encoding", "expect", *_HOP_BY_HOP))
"""Names that no setting may use: they frame the message or say where it goes."""
LONGEST_NAME = 64
LONGEST_VALUE = 1024
MOST = 32
"""Most headers of one setting."""

_TOKEN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]*[A-Za-z0-9])?", re.ASCII)
_VALUE = re.compile(r"[\x21-\x7e]+(?: [\x21-\x7e]+)*", re.ASCII)


def name_fault(name: str) -> str | None:
    """Why this cannot be the name of a header, or None. Allowed: letters, digits, - and _, not at the ends."""
    if len(name) > LONGEST_NAME or not _TOKEN.fullmatch(name):
        return f"{name[:LONGEST_NAME]!r} is not a header's name: letters, digits, - and _, at most {LONGEST_NAME}"
    return (
        (f"{name!r} can not be set: it frames the message or names its destination")
        if name.lower() in FRAMING
        else None
    )


def value_fault(value: str) -> str | None:
    """Why this cannot be the value of a header, or None. Nothing at all is fine: it means no header."""
    if len(value) <= LONGEST_VALUE and (not value or _VALUE.fullmatch(value)):
        return None
    allowed = f"printable ASCII, one blank at a time, at most {LONGEST_VALUE} characters"
    return f"{value[:LONGEST_NAME]!r} is not a header's value: {allowed}"


def same(name: str) -> str:
    """How an application may know a header, as CGI and its heirs do: `X_Real-IP` is `x-real-ip`."""
    return name.lower().replace("_", "-")


def name_faults(names: Iterable[str], fixed: dict[str, str] | None = None) -> Iterator[str]:
    """What is wrong with these names of headers that are written together with the fixed ones."""
    listed = list(names)
    if len(listed) > MOST:
        yield f"{len(listed)} headers; at most {MOST} are allowed"
    seen = {same(name) for name in (fixed or {}).values()}
    for name in listed[:MOST]:
        if fault := name_fault(name):
            yield fault
        elif same(name) in seen:
            yield f"{name!r} is given twice"
        seen.add(same(name))
