"""Every way in which certificates change or are harmed, while Pods are created without a pause: who is refused?

`python -m srcip_e2e.cluster.rotations [FILE.json] [FILE.md]` takes some minutes and writes the figures and a page about
them. A test of ring 3 runs a few of the scenarios.
"""

from __future__ import annotations

import json
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from srcip_e2e.cluster import latency, rotations_page
from srcip_e2e.cluster.api import Json
from srcip_e2e.cluster.controlplane import ControlPlane
from srcip_e2e.cluster.handshakes import Handshakes, Leaf, ready_addresses, served
from srcip_e2e.cluster.load import TRUSTED, Load
from srcip_e2e.cluster.podrunner import PodRunner
from srcip_e2e.cluster.release import CONFIGURATIONS, Release
from srcip_lab.errors import LabError
from srcip_lab.state import wait_until

VALUES: Json = {
    "trustedCIDRs": [TRUSTED],
    "certificates": {"selfManaged": {"settle": "3s", "checkInterval": "1s"}},
}
"""Rotations within seconds: a bundle must have been in force only so long before the next authority signs."""
TIMEOUT_S = 45
OUTAGE_S = 8
AFTER_S = 2
"""How long the load goes on after each scenario: what it broke must still show."""


class Trial:
    """An installed release under load."""

    def __init__(self, release: Release, runner: PodRunner, load: Load, handshakes: Handshakes) -> None:
        self.release, self.runner, self.load, self.handshakes = release, runner, load, handshakes
        self.api = release.api

    def leaves(self) -> dict[str, Leaf]:
        """What each ready Pod serves, by address."""
        return {address: served(self.release, address) for address in ready_addresses(self.api, self.release)}

    def until(self, what: str, condition: Callable[[], object]) -> None:
        """Wait for a condition. Raises LabError."""
        if not wait_until(condition, TIMEOUT_S, every_s=0.1):
            raise LabError(f"{what}: not within {TIMEOUT_S} s")

    def run(self, scenario: Scenario) -> Json:
        """Act, go on for a while, and tell what happened meanwhile."""
        begin = time.monotonic()
        scenario.act(self)
        acted = time.monotonic()
        time.sleep(AFTER_S)
        tally = self.load.tally(begin)
        return {
            "scenario": scenario.name,
            "rotations": scenario.rotations,
            "seconds": round(acted - begin, 1),
            **tally.facts(),
            "window_ms": round(tally.window_ms),
            "tls": self.handshakes.facts(begin),
        }


@dataclass(frozen=True)
class Scenario:
    """Something that happens to certificates."""

    name: str
    act: Callable[[Trial], None]
    rotations: int = 0
    """How many rotations it orders."""
    harmful: bool = False
    """Whether Pods may be refused: nothing can be done against it, only quickly after it."""


def leaf(trial: Trial) -> None:
    """Every replica gets a new certificate."""
    before = trial.leaves()
    trial.release.certs("rotate", "leaf")
    trial.until("new leaves", lambda: all(new != before[ip] for ip, new in trial.leaves().items()))


def authority(trial: Trial) -> None:
    """A new authority is published, settles, and signs the certificates of every replica."""
    before = {each.authority for each in trial.leaves().values()}
    trial.release.certs("rotate", "ca")
    _await_new_authority(trial, before)


def _await_new_authority(trial: Trial, before: set[bytes]) -> None:
    trial.until("a new authority", lambda: not before & {each.authority for each in trial.leaves().values()})


def race(trial: Trial) -> None:
    """Two orders at the same moment, and two replicas that carry them out."""
    before = {each.authority for each in trial.leaves().values()}
    threads = [threading.Thread(target=_order_quietly, args=(trial,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    _await_new_authority(trial, before)


def _order_quietly(trial: Trial) -> None:
    try:
        trial.release.certs("rotate", "ca")
    except LabError as error:
        print(f"one of two orders lost: {error}", file=sys.stderr)


def secret_deleted(trial: Trial) -> None:
    """The Secret with the authorities is deleted, and comes back."""
    trial.api.delete(trial.release.secret)
    trial.until("the Secret", lambda: trial.api.find(trial.release.secret))


def applied(trial: Trial) -> None:
    """The chart's manifests are applied again, as GitOps tools do."""
    trial.release.plane.kubectl("apply", "-n", trial.release.namespace, "-f", "-", stdin=trial.release.manifest())


def applied_server_side(trial: Trial) -> None:
    """The same on the server's side, and whoever owns a field loses it."""
    flags = ("--server-side", "--force-conflicts", "-n", trial.release.namespace, "-f", "-")
    trial.release.plane.kubectl("apply", *flags, stdin=trial.release.manifest())


def upgraded(trial: Trial) -> None:
    """helm upgrade to other values: every Pod is replaced."""
    values = {**trial.release.values, "webhook": {"logLevel": "debug"}}
    trial.release.upgrade(values)
    trial.release.upgrade()


def emptied(trial: Trial) -> None:
    """Somebody takes the bundle away by force."""
    configuration = trial.release.configuration()
    path = f"{CONFIGURATIONS}/{configuration['metadata']['name']}"
    take = [{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}]
    trial.api.patch(path, take, content="application/json-patch+json")
    trial.until("the bundle", trial.release.bundle)


def forbidden(trial: Trial) -> None:
    """srcip-certs may write nothing for a while, and in the middle of it a rotation is ordered."""
    path = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{trial.release.namespace}/rolebindings"
    bindings = [each for each in trial.api.get(path)["items"] if each["metadata"]["name"].startswith("srcip")]
    before = {each.authority for each in trial.leaves().values()}
    for each in bindings:
        trial.api.delete(f"{path}/{each['metadata']['name']}")
    trial.release.certs("rotate", "ca")
    time.sleep(OUTAGE_S)
    for each in bindings:
        trial.api.post(path, {key: each[key] for key in ("subjects", "roleRef")} | {"metadata": _plain(each)})
    _await_new_authority(trial, before)


def _plain(known: Json) -> Json:
    meta = known["metadata"]
    return {key: meta[key] for key in ("name", "labels", "annotations") if key in meta}


def keeper_killed(trial: Trial) -> None:
    """The certs container of a replica dies, in the middle of a rotation."""
    before = {each.authority for each in trial.leaves().values()}
    trial.release.certs("rotate", "ca")
    _kill(trial, "certs")
    _await_new_authority(trial, before)


def replica_deleted(trial: Trial) -> None:
    """A Pod is deleted, in the middle of a rotation, and replaced."""
    before = {each.authority for each in trial.leaves().values()}
    trial.release.certs("rotate", "ca")
    name = trial.runner.of(trial.release.namespace)[0].name.partition("/")[2]
    trial.release.plane.kubectl("delete", "pod", name, "-n", trial.release.namespace)
    _await_new_authority(trial, before)
    trial.until("two replicas", lambda: len(trial.leaves()) == 2)


def webhook_killed(trial: Trial) -> None:
    """The webhook's process of a replica dies on the spot; until its address is taken out some calls meet nobody."""
    _kill(trial, "webhook")
    trial.until("one replica", lambda: len(ready_addresses(trial.api, trial.release)) == 1)
    trial.until("two replicas", lambda: len(ready_addresses(trial.api, trial.release)) == 2)


def _kill(trial: Trial, container: str) -> None:
    process = trial.runner.of(trial.release.namespace)[0].container(container).process
    assert process
    process.send_signal(signal.SIGKILL)


SHORT = (
    Scenario("leaves rotated", leaf, 1),
    Scenario("authority rotated", authority, 1),
    Scenario("Secret deleted", secret_deleted),
    Scenario("manifests applied again", applied),
    Scenario("manifests applied again, server-side, by force", applied_server_side),
    Scenario("caBundle emptied by force", emptied, harmful=True),
)
LONG = (
    *(Scenario("leaves rotated", leaf, 1) for _ in range(12)),
    *(Scenario("authority rotated", authority, 1) for _ in range(8)),
    Scenario("two orders race", race, 1),
    *SHORT[2:],
    *(Scenario("caBundle emptied by force", emptied, harmful=True) for _ in range(4)),
    Scenario("helm upgrade, twice", upgraded),
    Scenario("writes forbidden for a while", forbidden, 1),
    Scenario("certs killed during a rotation", keeper_killed, 1),
    Scenario("replica deleted during a rotation", replica_deleted, 1),
    Scenario("webhook killed", webhook_killed, harmful=True),
)


def trial(release: Release, runner: PodRunner, namespace: str, scenarios: Iterable[Scenario]) -> list[Json]:
    """Run the scenarios one after the other under one load; what happened in each."""
    with Load(release.plane, namespace) as load, Handshakes(release) as handshakes:
        load.wait(50)
        running = Trial(release, runner, load, handshakes)
        return [{**running.run(each), "harmful": each.harmful} for each in scenarios]


def total(rows: Iterable[Json], *, harmful: bool) -> Json:
    """Sums over all scenarios that were harmful or not."""
    some = [row for row in rows if row["harmful"] == harmful]
    names = ("rotations", "admissions", "injected", "untouched", "refused", "failed")
    sums = {name: sum(row[name] for row in some) for name in names}
    tls = {f"tls_{name}": sum(row["tls"][name] for row in some) for name in ("handshakes", "untrusted", "unreachable")}
    return sums | tls


def main() -> None:
    """All scenarios; the figures as JSON."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="srcip-")))
        plane = stack.enter_context(ControlPlane(directory))
        runner = stack.enter_context(PodRunner(plane))
        release = Release(plane, plane.api("rotations"), values=VALUES)
        begin = time.monotonic()
        release.install()
        installed = time.monotonic() - begin
        namespace = release.namespace_for("load")
        latencies = [latency.measure(release, namespace, threads=threads) for threads in (1, 4)]
        rows = trial(release, runner, namespace, LONG)
        sums = {"total": total(rows, harmful=False), "harmful": total(rows, harmful=True)}
        figures = {"install_s": round(installed, 1), "latency": latencies, **sums, "scenarios": rows}
        text = json.dumps(figures, indent=1)
    for path in map(Path, sys.argv[1:]):
        path.write_text(rotations_page.page(figures) if path.suffix == ".md" else text + "\n")
    print(text)


if __name__ == "__main__":
    main()
