"""Keys, certificates and kubeconfigs of a control plane that lives for one test run."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFE = datetime.timedelta(days=2)
BACK_DATED = datetime.timedelta(minutes=5)
ADMINISTRATORS = "system:masters"
"""The group that may do everything; RBAC's own rules are not asked for its members."""


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes

    def write(self, directory: Path, name: str) -> Pair:
        """Write `name`.crt and `name`.key; the key is for its owner only."""
        (directory / f"{name}.crt").write_bytes(self.certificate)
        write_private(directory / f"{name}.key", self.key)
        return self


@dataclass(frozen=True)
class Authority:
    """What signs the certificates of one control plane."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def create(cls, name: str) -> Authority:
        """A new one."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _builder(subject, subject, key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        return cls(builder.sign(key, hashes.SHA256()), key)

    @property
    def pair(self) -> Pair:
        """Its own certificate and key."""
        return Pair(self.certificate.public_bytes(serialization.Encoding.PEM), _private(self.key))

    def issue(self, name: str, *, groups: Sequence[str] = (), hosts: Sequence[str] = ()) -> Pair:
        """A certificate for the user or server `name`; `hosts` are its DNS names and IP addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
        subject = x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = _builder(subject, self.certificate.subject, key.public_key())
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        if hosts:
            names = x509.SubjectAlternativeName([_general(host) for host in hosts])
            builder = builder.add_extension(names, critical=False)
        certificate = builder.sign(self.key, hashes.SHA256())
        return Pair(certificate.public_bytes(serialization.Encoding.PEM), _private(key))


def service_account_keys() -> tuple[bytes, bytes]:
    """The private key that signs the tokens of service accounts, and its public key; both PEM."""
    key = rsa.generate_private_key(65537, 2048)
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return _private(key), public


def kubeconfig(server: str, ca: bytes, user: Pair | str, *, namespace: str = "default") -> str:
    """How `user`, a client certificate or a token, reaches the API server; JSON, which is YAML too."""
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "srcip",
        "clusters": [{"name": "srcip", "cluster": {"server": server, "certificate-authority-data": _base64(ca)}}],
        "users": [{"name": "srcip", "user": _user(user)}],
        "contexts": [{"name": "srcip", "context": {"cluster": "srcip", "user": "srcip", "namespace": namespace}}],
    }
    return json.dumps(document, indent=1)


def write_private(path: Path, content: str | bytes) -> None:
    """Write a file that nobody but its owner may read, at any moment."""
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def _user(user: Pair | str) -> dict[str, str]:
    if isinstance(user, str):
        return {"token": user}
    return {"client-certificate-data": _base64(user.certificate), "client-key-data": _base64(user.key)}


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACK_DATED)
        .not_valid_after(now + LIFE)
    )


def _private(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
