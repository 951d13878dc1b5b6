"""X.509: certificate authorities, the certificates they sign, and bundles of them. Pure but for random numbers.

All times are Unix seconds. ECDSA P-256, as Go (the API server) verifies it fastest. Whoever verifies must find all
certificates of a chain within their validity, the root included, so no certificate outlives its authority.
"""

from __future__ import annotations

import datetime
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_NAME = "srcip CA"
LEAF_NAME = "srcip webhook"
BACKDATED_S = 3600.0
"""Certificates begin this long before they are made, for API servers whose clocks are behind."""


UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What the library raises for certificates of others."""


class BadCertificate(ValueError):
    """A text is no certificate, no key, or the two do not belong together."""


@dataclass(frozen=True)
class Certificate:
    """One certificate; equal if its bytes are."""

    pem: str
    fingerprint: str
    """SHA-256 of its bytes, in hexadecimal."""
    not_before: float
    not_after: float
    serial: int
    is_authority: bool
    names: tuple[str, ...]
    """DNS names and IP addresses it is for."""

    @property
    def issued(self) -> float:
        """When it was made, if this module made it."""
        return self.not_before + BACKDATED_S

    def valid(self, now: float) -> bool:
        """Whether a verifier whose clock says `now` accepts its times."""
        return self.not_before <= now <= self.not_after


@dataclass(frozen=True)
class Authority:
    """A certificate authority that can sign."""

    certificate: Certificate
    key: str
    """PEM; never shown in logs."""

    def __repr__(self) -> str:
        return f"Authority({self.certificate.fingerprint[:12]})"


@dataclass(frozen=True)
class Leaf:
    """A server's certificate with its key, and the authority's certificate that verifies it."""

    certificate: Certificate
    key: str
    issuer: Certificate

    def __repr__(self) -> str:
        return f"Leaf({self.certificate.fingerprint[:12]} by {self.issuer.fingerprint[:12]})"


@dataclass(frozen=True)
class Bundle:
    """The certificates in a caBundle, and whether it holds anything else."""

    certificates: tuple[Certificate, ...]
    junk: bool


def make(now: float, lifetime_s: float) -> Authority:
    """A new certificate authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    usage = _key_usage(key_cert_sign=True)
    builder = _builder(AUTHORITY_NAME, AUTHORITY_NAME, key, now, now + lifetime_s)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(usage, critical=True)
    return Authority(_signed(builder, key), _key_pem(key))


def sign(authority: Authority, names: Sequence[str], now: float, lifetime_s: float) -> Leaf:
    """A new server certificate for `names`; it ends with its authority at the latest."""
    signer = _private_key(authority.key)
    key = ec.generate_private_key(ec.SECP256R1())
    end = min(now + lifetime_s, authority.certificate.not_after)
    builder = _builder(LEAF_NAME, AUTHORITY_NAME, key, now, end)
    for extension, critical in (
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_key_usage(digital_signature=True), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
        (x509.SubjectAlternativeName([_general_name(name) for name in names]), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False),
    ):
        builder = builder.add_extension(extension, critical=critical)
    return Leaf(_signed(builder, signer), _key_pem(key), authority.certificate)


@lru_cache(maxsize=512)
def certificate(pem: str) -> Certificate:
    """The certificate in a PEM text. Raises BadCertificate."""
    try:
        return _described(x509.load_pem_x509_certificate(pem.encode()))
    except UNREADABLE as error:
        raise BadCertificate(f"not a certificate: {error}") from None


@lru_cache(maxsize=64)
def authority(certificate_pem: str, key_pem: str) -> Authority:
    """A certificate authority from its two texts. Raises BadCertificate."""
    found = certificate(certificate_pem)
    if not found.is_authority:
        raise BadCertificate("the certificate is not that of an authority")
    _check_key(found, key_pem)
    return Authority(found, key_pem)


def leaf(certificate_pem: str, key_pem: str, issuer_pem: str) -> Leaf:
    """A server certificate from its three texts. Raises BadCertificate if they do not belong together."""
    found, issuer = certificate(certificate_pem), certificate(issuer_pem)
    _check_key(found, key_pem)
    try:
        _loaded(found).verify_directly_issued_by(_loaded(issuer))
    except (*UNREADABLE, InvalidSignature):
        raise BadCertificate("the certificate was not signed by this authority") from None
    return Leaf(found, key_pem, issuer)


_BLOCK = re.compile(r"-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----")


def bundle(text: str) -> Bundle:
    """What a caBundle holds; blocks that are no certificate of an authority count as junk."""
    found: dict[str, Certificate] = {}
    junk = bool(_BLOCK.sub("", text).strip())
    for block in _BLOCK.findall(text):
        try:
            each = certificate(block)
        except BadCertificate:
            junk = True
            continue
        junk = junk or not each.is_authority or each.fingerprint in found
        if each.is_authority:
            found[each.fingerprint] = each
    return Bundle(tuple(found.values()), junk)


def _described(loaded: x509.Certificate) -> Certificate:
    return Certificate(
        loaded.public_bytes(serialization.Encoding.PEM).decode(),
        loaded.fingerprint(hashes.SHA256()).hex(),
        loaded.not_valid_before_utc.timestamp(),
        loaded.not_valid_after_utc.timestamp(),
        loaded.serial_number,
        _is_authority(loaded),
        _names(loaded),
    )


def _is_authority(loaded: x509.Certificate) -> bool:
    try:
        return bool(loaded.extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
    except x509.ExtensionNotFound:
        return False


def _names(loaded: x509.Certificate) -> tuple[str, ...]:
    try:
        found = loaded.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    addresses = found.get_values_for_type(x509.IPAddress)
    return (*found.get_values_for_type(x509.DNSName), *map(str, addresses))


def _loaded(known: Certificate) -> x509.Certificate:
    return x509.load_pem_x509_certificate(known.pem.encode())


def _check_key(known: Certificate, key_pem: str) -> None:
    try:
        public = _loaded(known).public_key()
    except UNREADABLE as error:
        raise BadCertificate(f"the certificate's key can't be read: {error}") from None
    if public != _private_key(key_pem).public_key():
        raise BadCertificate("the key does not match its certificate")


def _private_key(pem: str) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(pem.encode(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise BadCertificate("not a private key without a password") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise BadCertificate("not an ECDSA key")
    return key


def _builder(
    subject: str, issuer: str, key: ec.EllipticCurvePrivateKey, now: float, end: float
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_time(now - BACKDATED_S))
        .not_valid_after(_time(end))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _signed(builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey) -> Certificate:
    return _described(builder.sign(key, hashes.SHA256()))


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(encoding, form, serialization.NoEncryption()).decode()


def _key_usage(*, key_cert_sign: bool = False, digital_signature: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general_name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _time(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(int(seconds), datetime.UTC)
