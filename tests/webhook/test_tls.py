"""The served certificate changes whole, whatever the types of key, and never to a pair that does not fit."""

import contextlib
import socket
import ssl
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srcip_webhook.listener import bound
from srcip_webhook.metrics import Metrics
from srcip_webhook.tls import Certificates, not_after
from support.keypairs import common_name, pair, write

RSA_ONLY = "ECDHE-RSA-AES128-GCM-SHA256"


def watched(folder: Path) -> tuple[Certificates, Metrics]:
    metrics = Metrics()
    return Certificates(str(folder / "tls.crt"), str(folder / "tls.key"), metrics), metrics


def served(certificates: Certificates, ciphers: str | None = None) -> str:
    """The common name that a client sees."""
    ours, theirs = socket.socketpair()

    def serve() -> None:
        try:
            with certificates.context.wrap_socket(ours, server_side=True) as connection:
                connection.recv(1)
        except ssl.SSLError:
            ours.close()

    thread = threading.Thread(target=serve)
    thread.start()
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    if ciphers:
        client.maximum_version = ssl.TLSVersion.TLSv1_2
        client.set_ciphers(ciphers)
    try:
        with client.wrap_socket(theirs, server_hostname="localhost") as connection:
            return common_name(connection.getpeercert(binary_form=True) or b"")
    finally:
        theirs.close()
        thread.join()


@pytest.mark.parametrize(("first", "second"), [("ec", "ec"), ("rsa", "rsa"), ("rsa", "ec"), ("ec", "rsa")])
def test_a_new_pair_is_served_at_once(tmp_path: Path, first: str, second: str) -> None:
    certificates, _ = watched(tmp_path)
    for name, kind in (("one", first), ("two", second)):
        write(tmp_path, *pair(name, kind=kind))
        assert certificates.poll() is True
        assert served(certificates) == name
    assert certificates.poll() is False


def test_nothing_of_the_old_pair_is_left_when_the_type_of_key_changes(tmp_path: Path) -> None:
    """A client that knows RSA only must not be served the old certificate: it gets none."""
    certificates, _ = watched(tmp_path)
    write(tmp_path, *pair("old", kind="rsa"))
    certificates.poll()
    assert served(certificates, RSA_ONLY) == "old"
    write(tmp_path, *pair("new", kind="ec"))
    certificates.poll()
    with pytest.raises(ssl.SSLError):
        served(certificates, RSA_ONLY)
    assert served(certificates) == "new"


@pytest.mark.parametrize("broken", ["key", "certificate", "empty", "gone"])
def test_a_pair_that_does_not_fit_changes_nothing(tmp_path: Path, broken: str) -> None:
    certificates, metrics = watched(tmp_path)
    write(tmp_path, *pair("good"))
    certificates.poll()
    certificate, key = pair("other")
    if broken == "gone":
        (tmp_path / "tls.key").unlink()
    else:
        files = {"key": (None, key), "certificate": (certificate, None), "empty": (b"", b"")}
        write(tmp_path, *files[broken])
    assert [certificates.poll() for _ in range(3)] == [False] * 3
    assert served(certificates) == "good"
    assert dict(metrics.reloads) == {"loaded": 1, "ignored": 1}
    write(tmp_path, certificate, key)
    assert certificates.poll() is True
    assert served(certificates) == "other"


def test_an_old_version_of_tls_is_refused(tmp_path: Path) -> None:
    certificates, _ = watched(tmp_path)
    assert certificates.context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_it_is_ready_only_with_a_certificate_that_has_not_ended(tmp_path: Path) -> None:
    certificates, _ = watched(tmp_path)
    assert certificates.not_ready() == "no certificate"
    write(tmp_path, *pair("old", end=datetime(2001, 1, 1, tzinfo=UTC)))
    certificates.poll()
    assert certificates.not_ready() == "the certificate has expired"
    write(tmp_path, *pair("new"))
    certificates.poll()
    assert certificates.not_ready() is None


@pytest.mark.parametrize("year", [2000, 2026, 2049, 2050, 2051, 9999])
@pytest.mark.parametrize("kind", ["ec", "rsa"])
def test_the_end_of_a_certificate_is_read_right(year: int, kind: str) -> None:
    """Up to 2049 as UTCTime, from 2050 on as GeneralizedTime."""
    end = datetime(year, 12, 31, 23, 59, 58, tzinfo=UTC)
    certificate, _ = pair("x", kind=kind, end=end)
    assert not_after(certificate) == end.timestamp()


@given(st.binary(max_size=200), st.integers(0, 600))
def test_a_broken_certificate_is_a_value_error(junk: bytes, cut: int) -> None:
    for pem in (junk, CERTIFICATE[:cut], CERTIFICATE[:60] + CERTIFICATE[60 + cut :]):
        with contextlib.suppress(ValueError):
            assert not_after(pem) > 0


CERTIFICATE, _ = pair("x")


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", ""])
def test_an_answer_of_several_writes_does_not_wait_for_acknowledgements(address: str) -> None:
    """Nagle's algorithm holds the second one until the first is acknowledged, which takes a peer up to 40 ms."""
    (listening,) = bound(address, 0)
    with listening, socket.create_connection((address or "127.0.0.1", listening.getsockname()[1])):
        listening.setblocking(True)
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
