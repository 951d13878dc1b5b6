"""A model of what replicas of srcip-certs live in: an API, clocks, faults; and what API servers verify meanwhile.

The replicas are the real code. The store behind the API compares resource versions as etcd does. Bundles stay in use
for `LAG_S` after they were replaced: so long an API server may be behind.
"""

import copy
import random
from dataclasses import dataclass, field
from typing import Any

import jsonpatch

from srcip_certs import authority, published
from srcip_certs.authority import Certificate, Leaf
from srcip_certs.clock import Clock
from srcip_certs.published import Published
from srcip_certs.replica import Replica
from srcip_certs.settings import Settings
from srcip_kube.client import ApiError

Json = dict[str, Any]

STEP_S = 1.0
LAG_S = 5.0
"""How long an API server may use a bundle that was replaced; less than SETTLE_S."""
SETTLE_S = 6.0
LEAF_S = 60.0
CA_S = 400.0
POLL_S = 1.0
"""How long the webhook may serve the old pair of files."""
INFINITE = float("inf")
START = 1_700_000_000.0
SETTINGS = Settings(
    namespace="srcip-system",
    secret="srcip-ca",  # noqa: S106
    webhook_configuration="srcip",
    service="srcip-webhook",
    ca_lifetime_s=CA_S,
    leaf_lifetime_s=LEAF_S,
    settle_s=SETTLE_S,
    check_interval_s=STEP_S,
)


class MemoryStore:
    """The files of one Pod; they outlive the process, not the Pod."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.served: list[tuple[Leaf, float]] = []
        """What the webhook serves and since when."""

    def read(self) -> Leaf | None:
        return self.served[-1][0] if self.served else None

    def write(self, leaf: Leaf) -> None:
        self.served.append((leaf, self.world.steady))

    def serving(self) -> list[Leaf]:
        """The newest pair, and the one before while the webhook may not have looked yet."""
        leaves, ends = [leaf for leaf, _ in self.served], [since for _, since in self.served[1:]]
        return [leaf for leaf, end in zip(leaves, [*ends, INFINITE], strict=False) if self.world.steady <= end + POLL_S]


@dataclass
class Pod:
    """One replica, its files and what is wrong with its way to the API."""

    world: "World"
    name: str
    wall_offset: float = 0.0
    unreachable: bool = False
    forbidden: bool = False
    answers_lost: bool = False
    settings: Settings = SETTINGS
    heard: float = 0.0
    """When it last read the Secret (steady)."""

    def __post_init__(self) -> None:
        self.store = MemoryStore(self.world)
        self.restart()

    def restart(self) -> None:
        """A new process with the same files."""
        world = self.world
        clock = Clock(lambda: world.steady + START + self.wall_offset, lambda: world.steady)
        self.replica = Replica(self.settings, SimulatedApi(world, self), self.store, clock)
        self.replica.start()
        self.heard = world.steady

    @property
    def well(self) -> bool:
        return not (self.unreachable or self.forbidden or self.answers_lost)


class SimulatedApi:
    """The API as one Pod reaches it."""

    def __init__(self, world: "World", pod: Pod) -> None:
        self.world, self.pod = world, pod

    def get(self, path: str) -> Json:
        found = self.find(path)
        if found is None:
            raise ApiError("get", path, 404, "not found")
        return found

    def find(self, path: str) -> Json | None:
        self._pass("get", path)
        if "secrets" in path:
            self.pod.heard = self.world.steady
        return copy.deepcopy(self.world.objects.get(path))

    def create(self, path: str, body: Json) -> Json:
        path = f"{path}/{body['metadata']['name']}"
        self._pass("create", path, write=True)
        if path in self.world.objects:
            raise ApiError("create", path, 409, "exists")
        return self._answered("create", path, body)

    def update(self, path: str, body: Json) -> Json:
        self._pass("update", path, write=True)
        old = self.world.objects.get(path)
        if old is None:
            raise ApiError("update", path, 404, "not found")
        if old["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"]:
            raise ApiError("update", path, 409, "the object has been modified")
        return self._answered("update", path, body)

    def patch(self, path: str, body: list[Json]) -> Json:
        self._pass("patch", path, write=True)
        old = self.world.objects.get(path)
        if old is None:
            raise ApiError("patch", path, 404, "not found")
        try:
            new = jsonpatch.apply_patch(old, body)
        except jsonpatch.JsonPatchException as error:
            raise ApiError("patch", path, 422, f"the patch failed: {error}") from None
        return self._answered("patch", path, new)

    def _pass(self, verb: str, path: str, *, write: bool = False) -> None:
        self.world.others_first(self.pod)
        if self.pod.unreachable:
            raise ApiError(verb, path, 0, "connection refused")
        clock = self.pod.replica.clock
        clock.heard(float(int(self.world.now)), self.world.steady, self.world.steady)
        if write and self.pod.forbidden:
            raise ApiError(verb, path, 403, "forbidden")

    def _answered(self, verb: str, path: str, body: Json) -> Json:
        stored = self.world.put(path, body)
        if self.pod.answers_lost and self.world.chance(0.5):
            raise ApiError(verb, path, 0, "timeout")
        return stored


@dataclass
class World:
    """Everything outside the replicas. `steady` is real time; `now` is the API servers'."""

    seed: int = 0
    steady: float = 1000.0
    api_offset: float = START
    objects: dict[str, Json] = field(default_factory=dict)
    pods: list[Pod] = field(default_factory=list)
    bundles: list[tuple[Published, float, bool]] = field(default_factory=list)
    """Each state of the configuration: from when, and whether a fault made it."""
    watching: bool = True
    version: int = 0
    disturbed_until: float = 0.0
    depth: int = 0
    secrets: list[Json] = field(default_factory=list)
    """All states of the Secret, for those who restore a backup."""

    STATE = "/api/v1/namespaces/srcip-system/secrets/srcip-ca"
    CONFIGURATION = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/srcip"

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)  # noqa: S311
        webhooks = [{"name": f"{name}.srcip.io", "clientConfig": {"service": {}}} for name in "ab"]
        self.put(self.CONFIGURATION, {"metadata": {"name": "srcip"}, "webhooks": webhooks})

    @property
    def now(self) -> float:
        return self.steady + self.api_offset

    def chance(self, part: float) -> bool:
        return self.random.random() < part

    def put(self, path: str, body: Json, *, fault: bool = False) -> Json:
        """Store an object; watches see it at once."""
        self.version += 1
        stored = copy.deepcopy(body)
        stored["metadata"]["resourceVersion"] = str(self.version)
        self.objects[path] = stored
        if path == self.CONFIGURATION:
            self.bundles.append((published.read(stored), self.steady, fault))
            self.objects_seen(stored)
        else:
            self.secrets.append(stored)
        return copy.deepcopy(stored)

    def objects_seen(self, stored: Json) -> None:
        if self.watching:
            for pod in self.pods:
                if not pod.unreachable:
                    pod.replica.seen.put((stored, self.steady))

    def others_first(self, pod: Pod) -> None:
        """Now and then another replica does all its work in the middle of this one's."""
        others = [each for each in self.pods if each is not pod]
        if self.depth == 0 and others and self.chance(0.05):
            self.depth += 1
            self.random.choice(others).replica.tick()
            self.depth -= 1

    def held(self) -> list[Published]:
        """The bundles that API servers may use now, but for those that a fault made."""
        ends = [since for _, since, _ in self.bundles[1:]]
        pairs = zip(self.bundles, [*ends, INFINITE], strict=True)
        return [each for (each, _, fault), end in pairs if end >= self.steady - LAG_S and not fault]

    @property
    def in_force(self) -> Published:
        return self.bundles[-1][0]

    def jump(self, seconds: float) -> None:
        """All API servers' clocks jump. What served before may have ended, and what serves then is too new for some."""
        self.api_offset += seconds
        self.disturbed_until = self.steady + STEP_S + LAG_S

    def step(self) -> None:
        """One interval: each replica looks once, in any order; the watch makes it look again."""
        self.steady += STEP_S
        for pod in self.random.sample(self.pods, len(self.pods)):
            pod.replica.tick()
            self.check()
        self.wake()

    def wake(self) -> None:
        """Whoever the watch has told something looks again."""
        for _ in range(4):
            told = [pod for pod in self.pods if not pod.replica.seen.empty()]
            for pod in told:
                pod.replica.tick()
            self.check()

    # what must hold

    def check(self) -> None:
        """No handshake fails that could succeed: what is served and has not ended verifies wherever it may go.

        A bundle that nothing verifies with, neither what is served nor what any of these Pods has given up, is lost
        to everybody, as at a first start. So is what a new Pod can't know: what was in a bundle that was taken away.
        """
        if self.steady <= self.disturbed_until:
            return
        had = {leaf.issuer for pod in self.pods for leaf, _ in pod.store.served if leaf.certificate.valid(self.now)}
        live = [each for each in self.held() if any(self.verifies(each, issuer) for issuer in had)]
        for pod in self.pods:
            if len(pod.store.served) == 1 and self.recently_harmed():
                continue
            if self.steady - pod.heard > LEAF_S:
                continue  # cut off for longer than a life while the others went on: out of reach for anybody
            for leaf in pod.store.serving():
                for bundle in live if leaf.certificate.valid(self.now) else ():
                    if not self.verifies(bundle, leaf.issuer):
                        raise AssertionError(f"{pod.name}: {leaf} fails with {[*bundle.known]} at {self.steady}")

    def recently_harmed(self) -> bool:
        """Whether a fault made one of the bundles that API servers may use."""
        return any(fault and since >= self.steady - 2 * LAG_S for _, since, fault in self.bundles)

    def verifies(self, bundle: Published, issuer: Certificate) -> bool:
        """Whether an API server that has this bundle accepts what this authority signed."""
        return issuer.fingerprint in bundle.in_force and issuer.valid(self.now)

    def serving(self, pod: Pod) -> bool:
        """Whether an API server that is up to date gets through to this replica."""
        leaf = pod.store.read()
        return bool(leaf and leaf.certificate.valid(self.now) and self.verifies(self.in_force, leaf.issuer))


def foreign(now: float) -> Certificate:
    """An authority of somebody else."""
    return authority.make(now, CA_S).certificate
