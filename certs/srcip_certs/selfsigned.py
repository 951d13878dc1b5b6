"""A certificate authority and one server certificate, for webhooks that live minutes: the lab and tests."""

from __future__ import annotations

import time
from pathlib import Path

from srcip_certs import authority

LIFE_S = 3600.0


def write(directory: Path, address: str) -> tuple[Path, Path, Path]:
    """Write ca.crt, tls.crt and tls.key for a server at the IP `address`; the three paths in this order."""
    now = time.time()
    issuer = authority.make(now, LIFE_S)
    leaf = authority.sign(issuer, (address,), now, LIFE_S)
    paths = directory / "ca.crt", directory / "tls.crt", directory / "tls.key"
    paths[0].write_text(issuer.certificate.pem)
    paths[1].write_text(leaf.certificate.pem)
    paths[2].touch(mode=0o600)
    paths[2].write_text(leaf.key)
    return paths
