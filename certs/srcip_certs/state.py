"""The certificate authorities of one installation, as one JSON document. Pure.

`current` signs. `next` is published and does not sign yet. `retired` no longer sign; their certificates are trusted
until every certificate that they signed has ended. Each change raises `serial`, so that of two documents the newer one
is known; one that was begun later is newer than all that came of an earlier one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from srcip_certs import authority
from srcip_certs.authority import Authority, BadCertificate, Certificate

VERSION = 1


class Unreadable(ValueError):
    """A text is no document of this version."""


class Newer(ValueError):
    """A document that a later release wrote: not ours to change."""


@dataclass(frozen=True)
class Retired:
    """An authority that no longer signs."""

    certificate: Certificate
    until: float
    """Unix seconds when the last certificate that it signed has ended."""

    def trusted(self, now: float) -> bool:
        return now < min(self.until, self.certificate.not_after)


@dataclass(frozen=True)
class Document:
    """All authorities of one installation. There is a current one or a next one, or both."""

    serial: int
    current: Authority | None = None
    next: Authority | None = None
    retired: tuple[Retired, ...] = ()
    request: str = ""
    """The newest request to rotate the authority that was honoured."""
    begun: float = 0.0
    """When the first document of this line was made, in Unix seconds."""

    @property
    def order(self) -> tuple[float, int]:
        """Of two documents the greater one is the newer one."""
        return (self.begun, self.serial)

    def phases(self) -> dict[str, Any]:
        """What is in it, for log lines."""
        return {
            "serial": self.serial,
            "current": self.current.certificate.fingerprint[:12] if self.current else None,
            "next": self.next.certificate.fingerprint[:12] if self.next else None,
            "retired": [each.certificate.fingerprint[:12] for each in self.retired],
        }

    def trusted(self, now: float) -> tuple[Certificate, ...]:
        """The certificates that a caBundle must hold."""
        active = [each.certificate for each in (self.current, self.next) if each and now <= each.certificate.not_after]
        return (*active, *(each.certificate for each in self.retired if each.trusted(now)))


def first(made: Authority, request: str, begun: float, *, settled: bool) -> Document:
    """The first document; `settled` if nothing could be served before, so that nothing can be broken."""
    if settled:
        return Document(1, current=made, request=request, begun=begun)
    return Document(1, next=made, request=request, begun=begun)


def with_next(document: Document, made: Authority | None, request: str) -> Document:
    """The same with another next authority."""
    return replace(document, serial=document.serial + 1, next=made, request=request)


def promoted(document: Document, until: float) -> Document:
    """The next authority signs from now on; what the current one signed ends at `until`."""
    return replaced(document, document.next, until, document.request)


def replaced(document: Document, made: Authority | None, until: float, request: str) -> Document:
    """`made` signs from now on, in place of the current and the next authority."""
    old = [each for each in (document.current, document.next) if each and each != made]
    retired = (*document.retired, *(Retired(each.certificate, until) for each in old))
    return Document(document.serial + 1, made, None, retired, request, document.begun)


def without(document: Document, gone: frozenset[str]) -> Document:
    """The same without the retired authorities of these fingerprints."""
    kept = tuple(each for each in document.retired if each.certificate.fingerprint not in gone)
    if kept == document.retired:
        return document
    return replace(document, serial=document.serial + 1, retired=kept)


def dump(document: Document) -> str:
    """As JSON. It holds private keys."""
    content = {
        "version": VERSION,
        "serial": document.serial,
        "current": _pair(document.current),
        "next": _pair(document.next),
        "retired": [{"certificate": each.certificate.pem, "until": each.until} for each in document.retired],
        "request": document.request,
        "begun": document.begun,
    }
    return json.dumps(content, indent=1)


def load(text: str) -> Document:
    """The document in a text. Raises Unreadable, Newer."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"not JSON: {error}") from None
    if not isinstance(content, dict):
        raise Unreadable("not a JSON object")
    version = content.get("version")
    if isinstance(version, int) and version > VERSION:
        raise Newer(f"version {version} of the document is newer than {VERSION}, which this release knows")
    if version != VERSION:
        raise Unreadable(f"version {str(version)[:40]!r} of the document is not known")
    try:
        return _document(content)
    except (KeyError, TypeError, BadCertificate) as error:
        raise Unreadable(f"{type(error).__name__}: {error}") from None


def _pair(signer: Authority | None) -> dict[str, str] | None:
    return {"certificate": signer.certificate.pem, "key": signer.key} if signer else None


def _document(content: Mapping[str, Any]) -> Document:
    retired = tuple(
        Retired(authority.certificate(_text(each, "certificate")), _seconds(each, "until"))
        for each in _list(content, "retired")
    )
    serial = content["serial"]
    if not isinstance(serial, int) or isinstance(serial, bool) or serial < 1:
        raise TypeError("serial is not a number above 0")
    current, following = _authority(content, "current"), _authority(content, "next")
    if not current and not following:
        raise TypeError("neither a current nor a next authority")
    return Document(serial, current, following, retired, _text(content, "request"), _seconds(content, "begun"))


def _authority(content: Mapping[str, Any], name: str) -> Authority | None:
    pair = content[name]
    if pair is None:
        return None
    if not isinstance(pair, dict):
        raise TypeError(f"{name} is not an object")
    return authority.authority(_text(pair, "certificate"), _text(pair, "key"))


def _list(content: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    value = content[name]
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise TypeError(f"{name} is not a list of objects")
    return value


def _text(content: Mapping[str, Any], name: str) -> str:
    value = content[name]
    if not isinstance(value, str):
        raise TypeError(f"{name} is not a text")
    return value


def _seconds(content: Mapping[str, Any], name: str) -> float:
    value = content[name]
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise TypeError(f"{name} is not a number")
    return float(value)
