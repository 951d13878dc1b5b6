"""One replica: it looks at the API, decides, and does one step after the other until there is nothing to do."""

from __future__ import annotations

import logging
import queue
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from srcip_certs import authority, logs, published, rotation, secret
from srcip_certs.api import CONFIGURATIONS
from srcip_certs.authority import Authority, BadCertificate, Leaf
from srcip_certs.clock import Clock
from srcip_certs.faults import Faults
from srcip_certs.metrics import Metrics
from srcip_certs.presence import Presence
from srcip_certs.published import Published
from srcip_certs.rotation import SignLeaf, Step, View, WriteBundle, WriteState
from srcip_certs.secret import Stored
from srcip_certs.settings import Settings
from srcip_certs.state import Document
from srcip_kube.client import ApiError, Json

SUBJECTS: dict[type[Step], str] = {
    WriteState: "writing the Secret",
    WriteBundle: "writing the caBundle",
    SignLeaf: "writing the certificate",
}
"""What a step is called in log lines."""
ROUNDS = 12
"""Most looks in one go; a first start needs four."""


Seen = queue.SimpleQueue[tuple[Json | None, float]]
"""Configurations (None is one that is gone) and when they came (steady)."""


class Api(Protocol):
    """What a replica needs of the Kubernetes API; see `srcip_kube.client.Kube`."""

    def get(self, path: str) -> Json: ...
    def find(self, path: str) -> Json | None: ...
    def create(self, path: str, body: Json) -> Json: ...
    def update(self, path: str, body: Json) -> Json: ...
    def patch(self, path: str, body: list[Json]) -> Json: ...


class Store(Protocol):
    """Where the certificate goes; see `files.Files`."""

    def read(self) -> Leaf | None: ...
    def write(self, leaf: Leaf) -> None: ...


@dataclass
class Memory:
    """What a replica has seen and done."""

    document: Document | None = None
    stored: Stored | None = None
    published: Published | None = None
    owner: Json | None = None
    leaf: Leaf | None = None
    leaf_request: str = ""
    """The newest request to rotate the leaf that was honoured."""
    ca_created: float = float("-inf")
    """When it last made an authority (steady)."""


@dataclass
class Replica:
    """A replica and all it works with."""

    settings: Settings
    api: Api
    store: Store
    clock: Clock
    metrics: Metrics = field(default_factory=Metrics)
    faults: Faults = field(default_factory=Faults)
    memory: Memory = field(default_factory=Memory)
    seen: Seen = field(default_factory=queue.SimpleQueue)
    """What the watch brought."""

    def __post_init__(self) -> None:
        gap = max(self.settings.settle_s, 3 * self.settings.check_interval_s)
        self.presence = Presence(longest_gap_s=gap, keep_s=rotation.kept_s(self.settings))
        self.view_told = self.view()
        """What it knew after its last look; for other threads."""
        self._unreachable = False
        names = self.settings
        self._secrets = f"/api/v1/namespaces/{names.namespace}/secrets"
        self._secret = f"{self._secrets}/{names.secret}"
        self._configuration = f"{CONFIGURATIONS}/{names.webhook_configuration}"
        self._deployment = f"/apis/apps/v1/namespaces/{names.namespace}/deployments/{names.owner}"

    def start(self) -> None:
        """Take over the certificate of an earlier process in the same place."""
        try:
            self.memory.leaf = self.store.read()
            self.faults.end("certificate files")
        except BadCertificate as error:
            self.faults.begin("certificate files", str(error))
        if self.memory.leaf:
            logs.event("certificate found", notAfter=stamp(self.memory.leaf.certificate.not_after))

    def tick(self) -> bool:
        """Look at everything and do what is needed. False if a call failed, so that it is worth another try soon."""
        if renewal := rotation.leaf_step(self.view(), self.settings):  # it needs no API, and that may hang
            self._apply(renewal)
        failed = self.look()
        for _ in range(ROUNDS):
            wanted = rotation.decide(self.view(), self.settings, self._create_ca)
            steps = [step for step in wanted if type(step) not in failed]
            if not steps:
                break
            failed |= self._apply(steps[0])  # the others may look different after it
        for kind in SUBJECTS.keys() - failed:  # done, by somebody else perhaps, or not needed any more
            self.faults.end(SUBJECTS[kind])
        self._report()
        return not failed

    # looking

    def look(self) -> set[type[Step]]:
        """Read the Secret and the configuration; the kinds of steps that make no sense now."""
        self.memory.stored = None
        self._drain()
        self._unreachable = False
        if not self._try("reading the webhook configuration", self._read_configuration) and self._unreachable:
            return {WriteState, WriteBundle}  # the other calls would take their time too
        if not self.memory.owner and self.settings.owner:
            self._try("reading the owner", self._read_owner)
        return set() if self._try("reading the Secret", self._read_secret) else {WriteState}

    def _drain(self) -> None:
        while not self.seen.empty():
            raw, when = self.seen.get()
            self.presence.look(published.read(raw), when, when)

    def _read_configuration(self) -> None:
        asked = self.clock.steady()
        raw = self.api.find(self._configuration)
        if raw is None:
            self.faults.begin("finding the webhook configuration", f"there is no {self._configuration}")
        else:
            self.faults.end("finding the webhook configuration")
        self._noted(raw, asked)

    def _noted(self, raw: Json | None, asked: float) -> None:
        self.memory.published = published.read(raw)
        self.presence.look(self.memory.published, asked, self.clock.steady())

    def _read_owner(self) -> None:
        self.memory.owner = secret.owner_reference(self.api.get(self._deployment))

    def _read_secret(self) -> None:
        self._know(secret.read(self.api.find(self._secret)))
        assert self.memory.stored
        if self.memory.stored.fault:
            self.metrics.secret_faults += self.faults.begin("using the Secret", self.memory.stored.fault)
        else:
            self.faults.end("using the Secret")

    def _know(self, stored: Stored) -> None:
        self.memory.stored = stored
        self.memory.document = rotation.newest(self.memory.document, stored)

    def view(self) -> View:
        """What it knows now."""
        memory, steady = self.memory, self.clock.steady()
        now = self.clock.now()
        there = memory.published.known if memory.published else {}
        held = {each: self.presence.for_seconds(each) for each in there}
        return View(
            now,
            memory.document,
            memory.stored,
            memory.owner,
            memory.published,
            {each: seconds for each, seconds in held.items() if seconds is not None},
            self.presence.unknown(there.values(), self._known_fingerprints(), steady),
            memory.leaf,
            self._leaf_requested(),
            steady - memory.ca_created >= self.settings.settle_s,
        )

    def _known_fingerprints(self) -> set[str]:
        document = self.memory.document
        if document is None:
            return set()
        active = [each.certificate for each in (document.current, document.next) if each]
        return {each.fingerprint for each in (*active, *(old.certificate for old in document.retired))}

    def _leaf_requested(self) -> bool:
        asked = self._asked_for_leaf()
        return bool(asked) and asked != self.memory.leaf_request and self.memory.leaf is not None

    def _asked_for_leaf(self) -> str:
        return self.memory.stored.requests.get(secret.ROTATE_LEAF, "") if self.memory.stored else ""

    # doing

    def _create_ca(self) -> Authority:
        return authority.make(self.clock.now(), self.settings.ca_lifetime_s)

    def _apply(self, step: Step) -> set[type[Step]]:
        """Do a step; its kind if that failed."""
        do = {WriteState: self._write_state, WriteBundle: self._write_bundle, SignLeaf: self._sign}[type(step)]
        return set() if self._try(SUBJECTS[type(step)], lambda: do(step)) else {type(step)}

    def _try(self, subject: str, do: Callable[[], None]) -> bool:
        """Do it and note how that went; a conflict is no fault, since one looks again."""
        try:
            do()
        except ApiError as error:
            self._unreachable = error.unreachable
            self.metrics.api_failures[error.verb] += 1
            self.faults.begin(subject, str(error))
            return False
        except OSError as error:
            self.faults.begin(subject, str(error))
            return False
        self.faults.end(subject)
        return True

    def _write_state(self, step: Step) -> None:
        assert isinstance(step, WriteState) and self.memory.stored
        stored, settings = self.memory.stored, self.settings
        body = secret.body(stored, step.document, settings.namespace, settings.secret, self.memory.owner)
        try:
            raw = self.api.update(self._secret, body) if stored.raw else self.api.create(self._secrets, body)
        except ApiError as error:
            if not error.conflict:
                raise
            self.metrics.conflicts += 1
            self._read_secret()
            return
        self._note_created(step.document)
        logs.event("authorities written", reason=step.reason, **step.document.phases())
        self._know(secret.read(raw))

    def _note_created(self, document: Document) -> None:
        """Count an authority that was not there before."""
        known = self._known_fingerprints()
        active = [each.certificate.fingerprint for each in (document.current, document.next) if each]
        if new := [each for each in active if each not in known]:
            self.memory.ca_created = self.clock.steady()
            self.metrics.renewals["ca"] += len(new)

    def _write_bundle(self, step: Step) -> None:
        assert isinstance(step, WriteBundle) and self.memory.published
        asked = self.clock.steady()
        try:
            raw = self.api.patch(self._configuration, published.patch(self.memory.published, step.certificates))
        except ApiError as error:
            if not error.conflict:
                raise
            self.metrics.conflicts += 1
            self._read_configuration()
            return
        lost = step.missing & self.presence.seen
        self.metrics.repairs += bool(lost)
        what, level = ("caBundle repaired", logging.WARNING) if lost else ("caBundle written", logging.INFO)
        logs.event(
            what,
            level,
            certificates=[each.fingerprint[:12] for each in step.certificates],
            missing=sorted(each[:12] for each in lost),
        )
        self._noted(raw, asked)

    def _sign(self, step: Step) -> None:
        assert isinstance(step, SignLeaf)
        made = authority.sign(step.issuer, self.settings.dns_names, self.clock.now(), self.settings.leaf_lifetime_s)
        self.store.write(made)
        self.faults.end("certificate files")
        self.memory.leaf = made
        self.memory.leaf_request = self._asked_for_leaf() or self.memory.leaf_request
        self.metrics.renewals["leaf"] += 1
        end = stamp(made.certificate.not_after)
        logs.event("certificate written", reason=step.reason, authority=made.issuer.fingerprint[:12], notAfter=end)

    # telling

    def _report(self) -> None:
        memory, metrics = self.memory, self.metrics
        current = memory.document.current if memory.document else None
        metrics.not_after["ca"] = current.certificate.not_after if current else 0.0
        metrics.not_after["leaf"] = memory.leaf.certificate.not_after if memory.leaf else 0.0
        there, self.view_told = memory.published, self.view()
        must = rotation.must_hold(self.view_told)
        metrics.in_force = bool(there and there.bundles and must and not there.missing(must))
        metrics.skew_s = self.clock.skew()


def stamp(seconds: float) -> str:
    """A time for people."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
