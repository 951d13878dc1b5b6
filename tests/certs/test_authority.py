"""X.509: what is made is what verifiers accept, and nothing else is read."""

import base64
import subprocess
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from hypothesis import given
from hypothesis import strategies as st

from srcip_certs import authority
from srcip_certs.authority import BACKDATED_S, Authority, BadCertificate, Leaf

NOW = 1_800_000_000.0
LIFE = 1000.0
NAMES = ("srcip-webhook.srcip-system.svc", "srcip-webhook.srcip-system.svc.cluster.local", "srcip-webhook.srcip-system")


@pytest.fixture(scope="module")
def signer() -> Authority:
    return authority.make(NOW, LIFE)


@pytest.fixture(scope="module")
def leaf(signer: Authority) -> Leaf:
    return authority.sign(signer, NAMES, NOW, 100.0)


def verifies(leaf: Leaf, roots: list[authority.Certificate], now: float, name: str = NAMES[0]) -> bool:
    """What an independent strict verifier says."""
    store = Store([x509.load_pem_x509_certificate(each.pem.encode()) for each in roots])
    policy = PolicyBuilder().store(store).time(datetime.fromtimestamp(now, UTC))
    try:
        policy.build_server_verifier(x509.DNSName(name)).verify(
            x509.load_pem_x509_certificate(leaf.certificate.pem.encode()), []
        )
    except VerificationError:
        return False
    return True


def test_a_strict_verifier_accepts_a_leaf_for_each_name_and_no_other(signer: Authority, leaf: Leaf) -> None:
    roots = [signer.certificate]
    assert all(verifies(leaf, roots, NOW, name) for name in NAMES)
    assert not verifies(leaf, roots, NOW, "srcip-webhook.other.svc")
    assert not verifies(leaf, [authority.make(NOW, LIFE).certificate], NOW)


def test_authorities_of_one_name_are_told_apart_in_a_bundle(signer: Authority, leaf: Leaf) -> None:
    """A bundle of old and new authorities verifies the leaves of each, in any order."""
    other = authority.make(NOW, LIFE)
    young = authority.sign(other, NAMES, NOW, 100.0)
    for roots in ([signer.certificate, other.certificate], [other.certificate, signer.certificate]):
        assert verifies(leaf, roots, NOW) and verifies(young, roots, NOW)


def test_times_are_backdated_and_a_leaf_ends_with_its_authority_at_the_latest(signer: Authority) -> None:
    long = authority.sign(signer, NAMES, NOW, 10 * LIFE)
    assert long.certificate.not_after == signer.certificate.not_after == NOW + LIFE
    assert long.certificate.not_before == NOW - BACKDATED_S
    assert verifies(long, [signer.certificate], NOW - BACKDATED_S + 1)
    assert not verifies(long, [signer.certificate], NOW - BACKDATED_S - 1)
    assert not verifies(long, [signer.certificate], NOW + LIFE + 1)


def openssl(*args: str) -> str:
    done = subprocess.run(["openssl", *args], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_openssl_verifies_the_chain(signer: Authority, leaf: Leaf, tmp_path: Path) -> None:
    """With its strict checks, at that time and for that name."""
    (tmp_path / "ca.crt").write_text(authority.make(NOW, LIFE).certificate.pem + signer.certificate.pem)
    (tmp_path / "tls.crt").write_text(leaf.certificate.pem)
    asked = ["verify", "-x509_strict", "-attime", f"{NOW:.0f}", "-purpose", "sslserver", "-CAfile"]
    files = [f"{tmp_path}/ca.crt", f"{tmp_path}/tls.crt"]
    assert openssl(*asked, files[0], "-verify_hostname", NAMES[0], files[1]).strip().endswith("OK")
    assert "hostname mismatch" in openssl(*asked, files[0], "-verify_hostname", "other.svc", files[1])


def test_extensions_are_those_that_are_asked_for(signer: Authority, leaf: Leaf, tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text(signer.certificate.pem)
    (tmp_path / "tls.crt").write_text(leaf.certificate.pem)
    ca, tls = (openssl("x509", "-in", f"{tmp_path}/{name}.crt", "-noout", "-text") for name in ("ca", "tls"))
    assert "Basic Constraints: critical\n                CA:TRUE, pathlen:0" in ca
    assert "Key Usage: critical\n                Certificate Sign\n" in ca
    assert "Key Usage: critical\n                Digital Signature\n" in tls
    assert "TLS Web Server Authentication\n" in tls
    assert "prime256v1" in ca and "prime256v1" in tls
    key_id = ca.partition("Subject Key Identifier")[2].split("\n")[1].strip()
    assert key_id in tls.partition("Authority Key Identifier")[2].split("\n")[1]


def test_serial_numbers_are_random(signer: Authority) -> None:
    """128 bits or more, and never the same."""
    serials = {authority.sign(signer, NAMES, NOW, 100.0).certificate.serial for _ in range(20)}
    assert len(serials) == 20
    assert max(serials).bit_length() > 128


def test_pairs_that_do_not_fit_are_refused(signer: Authority, leaf: Leaf) -> None:
    """Nor is a leaf taken for an authority, nor a key of another kind for ours."""
    other = authority.make(NOW, LIFE)
    rsa_key = rsa.generate_private_key(65537, 2048)
    rsa_pem = rsa_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    with pytest.raises(BadCertificate, match="does not match"):
        authority.authority(signer.certificate.pem, other.key)
    with pytest.raises(BadCertificate, match="not that of an authority"):
        authority.authority(leaf.certificate.pem, leaf.key)
    with pytest.raises(BadCertificate, match="not an ECDSA key"):
        authority.authority(signer.certificate.pem, rsa_pem)
    with pytest.raises(BadCertificate, match="not a private key"):
        authority.leaf(leaf.certificate.pem, "x", signer.certificate.pem)
    with pytest.raises(BadCertificate, match="not signed by"):
        authority.leaf(leaf.certificate.pem, leaf.key, other.certificate.pem)
    assert authority.leaf(leaf.certificate.pem, leaf.key, signer.certificate.pem) == leaf


def test_a_key_is_never_shown(signer: Authority, leaf: Leaf) -> None:
    """Not even by accident, in a traceback or a log line."""
    assert "PRIVATE" not in repr(signer) + repr(leaf) + str(signer)


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=300))
def test_any_text_is_a_bundle_of_nothing(text: str) -> None:
    found = authority.bundle(text)
    assert found.certificates == ()
    assert found.junk == bool(text.strip())


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
@given(st.data())
def test_a_damaged_certificate_is_read_or_refused(signer: Authority, leaf: Leaf, data: st.DataObject) -> None:
    """No byte of a certificate that others put into the bundle can make this fail in another way."""
    for pem in (signer.certificate.pem, leaf.certificate.pem):
        der = bytearray(x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER))
        for position in data.draw(st.lists(st.integers(0, len(der) - 1), min_size=1, max_size=3)):
            der[position] = data.draw(st.integers(0, 255))
        text = f"-----BEGIN CERTIFICATE-----\n{base64.encodebytes(der).decode()}-----END CERTIFICATE-----\n"
        found = authority.bundle(text)
        assert found.junk or found.certificates
        with suppress(BadCertificate):
            authority.authority(text, signer.key)
        with suppress(BadCertificate):
            authority.leaf(text, leaf.key, signer.certificate.pem)


def test_a_bundle_tells_rubbish_from_authorities(signer: Authority, leaf: Leaf) -> None:
    """A leaf, a broken block, a comment and a second copy are junk; line ends are not."""
    pem, other = signer.certificate.pem, authority.make(NOW, LIFE).certificate
    clean = authority.bundle(pem.replace("\n", "\r\n") + other.pem)
    assert (clean.certificates, clean.junk) == ((signer.certificate, other), False)
    for extra in (leaf.certificate.pem, pem, "# a comment\n", pem.replace("MII", "MIX")):
        found = authority.bundle(pem + extra)
        assert (found.certificates, found.junk) == ((signer.certificate,), True)
