"""TLS to the webhook as the API server has it: to a ready address of the Service, verified with its caBundle.

The API server keeps its connections, so that its admissions alone would show few handshakes. Here each is a new one.
And what is trusted is what was in force LAG_S seconds ago: so does an API server that hears of changes late.
"""

from __future__ import annotations

import base64
import itertools
import socket
import ssl
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass
from types import TracebackType

from cryptography import x509

from srcip_e2e.cluster.api import Api, Json, Refused
from srcip_e2e.cluster.release import Release
from srcip_lab.errors import LabError

PORT = 8443
PAUSE_S = 0.02
LAG_S = 1.0
TIMEOUT_S = 5


@dataclass(frozen=True)
class Leaf:
    """What identifies a served certificate."""

    serial: int
    authority: bytes
    """Key identifier of the authority that signed it."""


@dataclass(frozen=True)
class Handshake:
    """One try."""

    begin: float
    """When, on the monotonic clock, in seconds."""
    outcome: str
    """good, untrusted (the certificate was not accepted) or unreachable (nobody took the connection)."""
    message: str


class Handshakes:
    """New handshakes, one after the other, while the `with` block lasts."""

    def __init__(self, release: Release) -> None:
        self.release = release
        self.api: Api = release.plane.api("handshakes")
        self.done: list[Handshake] = []
        self._bundles: deque[tuple[float, str]] = deque()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="handshakes", daemon=True)

    def __enter__(self) -> Handshakes:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stopping.set()
        self._thread.join()

    def facts(self, begin: float = 0, end: float = float("inf")) -> Json:
        """What came of those between two moments of the monotonic clock."""
        some = [each for each in list(self.done) if begin <= each.begin < end]
        outcomes = Counter(each.outcome for each in some)
        messages = dict(Counter(each.message for each in some if each.message))
        return {"handshakes": len(some), **{k: outcomes[k] for k in ("untrusted", "unreachable")}, "messages": messages}

    def _work(self) -> None:
        for number in itertools.count():
            if self._stopping.is_set():
                return
            begin = time.monotonic()
            try:
                addresses = ready_addresses(self.api, self.release)
                bundle = self._bundle()
            except (LabError, Refused, OSError) as error:
                self.done.append(Handshake(begin, "unreachable", f"API: {error}"))
                continue
            if addresses:
                self.done.append(self._try(addresses[number % len(addresses)], bundle))
            time.sleep(PAUSE_S)

    def _bundle(self) -> str:
        """The bundle of LAG_S ago."""
        now = time.monotonic()
        self._bundles.append((now, self.release.bundle()))
        while len(self._bundles) > 1 and self._bundles[1][0] <= now - LAG_S:
            self._bundles.popleft()
        return self._bundles[0][1]

    def _try(self, address: str, bundle: str) -> Handshake:
        begin = time.monotonic()
        try:
            context = ssl.create_default_context(cadata=base64.b64decode(bundle).decode())
            connect(self.release, address, context).close()
        except ssl.SSLError as error:
            return Handshake(begin, "untrusted", str(error)[:200])
        except OSError as error:
            return Handshake(begin, "unreachable", str(error)[:200])
        return Handshake(begin, "good", "")


def ready_addresses(api: Api, release: Release) -> list[str]:
    """Addresses of the webhook's Pods that are ready, as the endpoint controller publishes them."""
    path = f"/apis/discovery.k8s.io/v1/namespaces/{release.namespace}/endpointslices"
    slices = api.get(path)["items"]
    points = [point for each in slices for point in each.get("endpoints") or [] if point["conditions"].get("ready")]
    return sorted(address for point in points for address in point["addresses"])


def served(release: Release, address: str) -> Leaf:
    """The certificate that the Pod at `address` serves, trusted or not."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with connect(release, address, context) as connection:
        raw = connection.getpeercert(binary_form=True) or b""
    certificate = x509.load_der_x509_certificate(raw)
    identifier = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    return Leaf(certificate.serial_number, identifier or b"")


def connect(release: Release, address: str, context: ssl.SSLContext) -> ssl.SSLSocket:
    """A TLS connection from the API server's network namespace, for the name that the API server asks for."""
    assert release.plane.site
    plain = release.plane.site.api.open_socket(socket.AF_INET)
    plain.settimeout(TIMEOUT_S)
    try:
        plain.connect((address, PORT))
        return context.wrap_socket(plain, server_hostname=f"{release.service}.{release.namespace}.svc")
    except BaseException:
        plain.close()
        raise
