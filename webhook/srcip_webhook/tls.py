"""The certificate that the webhook serves, exchanged while it runs.

Each pair of files is read once, loaded from memory into a context of its own (which proves that certificate and key
belong together), and only then served. The listener's context stays the same; it hands each handshake to the current
one. A pair is thus exchanged whole: loading a new pair into the listener's context would leave the old certificate in
it when the type of key changes (OpenSSL keeps one for RSA and one for ECDSA).
"""

from __future__ import annotations

import hashlib
import logging
import os
import ssl
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from srcip_webhook import logs
from srcip_webhook.metrics import Metrics

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2; those of 1.3 are all good."""


class Certificates:
    """Watches a certificate file and its key file, and serves the newest pair that is whole."""

    def __init__(self, cert_file: str, key_file: str, metrics: Metrics) -> None:
        self._files = (Path(cert_file), Path(key_file))
        self._metrics = metrics
        self._seen = ""
        self._current: ssl.SSLContext | None = None
        self.context = _context()
        # called for each handshake, with or without SNI: a new pair needs no restart, and open connections keep theirs
        self.context.sni_callback = self._hand_over

    def poll(self) -> bool:
        """Look at the files once. True if a new pair is served now; a bad pair changes nothing but a log line."""
        try:
            cert, key = (path.read_bytes() for path in self._files)
        except OSError as error:
            return self._ignored(str(error), seen=str(error))
        # certificate and key are two files: between two writes they do not match, which must not end the service
        digest = hashlib.sha256(cert + b"\0" + key).hexdigest()
        if digest == self._seen:
            return False
        try:
            self._current, end = _loaded(cert, key), not_after(cert)
        except (ssl.SSLError, ValueError) as error:
            return self._ignored(f"certificate and key do not work together: {error}", seen=digest)
        self._seen = digest
        self._metrics.certificate_not_after = end
        self._metrics.reloads["loaded"] += 1
        logs.event("certificate loaded", notAfter=datetime.fromtimestamp(end, UTC).isoformat())
        return True

    async def poll_async(self) -> None:
        """For callers that await; two small files are read without yielding."""
        self.poll()

    def not_ready(self) -> str | None:
        """Why no client could connect, or None."""
        if self._current is None:
            return "no certificate"
        ended = self._metrics.certificate_not_after < time.time()
        return "the certificate has expired" if ended else None

    def _ignored(self, error: str, seen: str) -> bool:
        if seen != self._seen:
            self._seen = seen
            self._metrics.reloads["ignored"] += 1
            logs.event("certificate ignored", logging.WARNING, error=error)
        return False

    def _hand_over(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        if self._current is not None:
            connection.context = self._current


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    return context


def _loaded(cert: bytes, key: bytes) -> ssl.SSLContext:
    """A context with this pair. Raises ssl.SSLError if the two do not belong together."""
    context = _context()
    # The ssl module loads from paths only; memory files keep the pair exactly as it was read.
    with _memory_file(cert) as cert_file, _memory_file(key) as key_file:
        context.load_cert_chain(f"/proc/self/fd/{cert_file.fileno()}", f"/proc/self/fd/{key_file.fileno()}", "")
    return context


def _memory_file(data: bytes) -> BinaryIO:
    file = os.fdopen(os.memfd_create("srcip-tls"), "wb")
    file.write(data)
    file.flush()
    return file


def not_after(pem: bytes) -> float:
    """When the first certificate in a PEM text ends, in Unix seconds. Raises ValueError if that can't be read."""
    head, tail = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
    _, begin, rest = pem.partition(head)
    inner, end, _ = rest.partition(tail)
    if not begin or not end:
        raise ValueError("no certificate in PEM form")
    try:
        return _validity_end(ssl.PEM_cert_to_DER_cert((head + inner + tail).decode("ascii")))
    except (IndexError, UnicodeDecodeError):
        raise ValueError("the certificate is not in DER form") from None


def _validity_end(der: bytes) -> float:
    """RFC 5280, 4.1: Certificate { tbs { [0] version, serial, signature, issuer, validity { notBefore, notAfter }}}."""
    _, start, _ = _element(der, 0)
    _, position, _ = _element(der, start)
    tag, _, _ = _element(der, position)
    fields_before_validity = 4 if tag == 0xA0 else 3
    for _ in range(fields_before_validity):
        _, _, position = _element(der, position)
    _, not_before, _ = _element(der, position)
    _, _, position = _element(der, not_before)
    tag, start, end = _element(der, position)
    return _seconds(tag, der[start:end].decode("ascii"))


def _element(der: bytes, position: int) -> tuple[int, int, int]:
    """Tag, start and end of the content of the element at `position`."""
    tag, length, start = der[position], der[position + 1], position + 2
    if length & 0x80:
        size = length & 0x7F
        length, start = int.from_bytes(der[start : start + size]), start + size
    return tag, start, start + length


def _seconds(tag: int, text: str) -> float:
    """UTCTime (two digits of the year, RFC 5280, 4.1.2.5.1) or GeneralizedTime."""
    if tag == 0x17:
        text = ("19" if text[:2] >= "50" else "20") + text
    elif tag != 0x18:
        raise ValueError("the certificate's validity is not a time")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()
