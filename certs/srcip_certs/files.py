"""The files that the webhook serves from: each is replaced at once, and the key comes first.

The webhook ignores a certificate whose key is not there yet, and takes the pair with the next look.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

from srcip_certs import authority
from srcip_certs.authority import BadCertificate, Leaf

KEY, ISSUER, CERTIFICATE = "tls.key", "ca.crt", "tls.crt"


class Files:
    """The three files of one replica's certificate. Whoever ends the process takes `lock` first."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.lock = threading.Lock()

    def read(self) -> Leaf | None:
        """The certificate that is in place, None without one. Raises BadCertificate if the files don't fit."""
        try:
            texts = [(self._directory / name).read_text("ascii") for name in (CERTIFICATE, KEY, ISSUER)]
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise BadCertificate(f"{self._directory}: {error}") from None
        return authority.leaf(*texts)

    def write(self, leaf: Leaf) -> None:
        """Put a certificate in place. Raises OSError."""
        with self.lock:
            for name, text in ((KEY, leaf.key), (ISSUER, leaf.issuer.pem), (CERTIFICATE, leaf.certificate.pem)):
                self._replace(name, text)

    def _replace(self, name: str, text: str) -> None:
        """Readable by this user only; the webhook runs as the same one."""
        aside = self._directory / f".{name}.new"
        aside.unlink(missing_ok=True)
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.rename(self._directory / name)
