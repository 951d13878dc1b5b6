"""Self-signed certificates for the tests."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

Pair = tuple[bytes, bytes]


def pair(name: str, *, kind: str = "ec", end: datetime | None = None) -> Pair:
    """Certificate and key in PEM for localhost, with `name` as the common name."""
    key = ec.generate_private_key(ec.SECP256R1()) if kind == "ec" else rsa.generate_private_key(65537, 2048)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    end = end or datetime.now(UTC) + timedelta(days=1)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(datetime(1999, 1, 1, tzinfo=UTC))
    builder = builder.not_valid_after(end)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    certificate = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
    return certificate, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def write(folder: Path, certificate: bytes | None, key: bytes | None) -> None:
    """Put the files in place, each at once."""
    for name, data in (("tls.crt", certificate), ("tls.key", key)):
        if data is not None:
            (folder / "new").write_bytes(data)
            (folder / "new").rename(folder / name)


def common_name(der: bytes) -> str:
    return str(x509.load_der_x509_certificate(der).subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
