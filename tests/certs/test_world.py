"""Replicas in a model world full of faults: what they serve is accepted wherever it may go."""

import base64
import os
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from world import CA_S, LEAF_S, SETTINGS, SETTLE_S, Pod, World, foreign

from srcip_certs import secret

EXAMPLES = int(os.environ.get("SRCIP_EXAMPLES", "25"))
"""Set it to search longer."""
DAY = 86_400.0
YEAR = 365 * DAY


def new_world(seed: int = 0, replicas: int = 2) -> World:
    world = World(seed)
    for index in range(replicas):
        world.pods.append(Pod(world, f"pod-{index}"))
    return world


def advance(world: World, seconds: float) -> None:
    for _ in range(int(seconds)):
        world.step()


# faults: each is done to the world, now


def pod_of(world: World) -> Pod:
    return world.random.choice(world.pods)


def rotate(name: str) -> Callable[[World], None]:
    def do(world: World) -> None:
        if raw := world.objects.get(world.STATE):
            raw["metadata"].setdefault("annotations", {})[name] = f"asked at {world.steady}"
            world.put(world.STATE, raw)

    return do


def delete_secret(world: World) -> None:
    world.objects.pop(world.STATE, None)


def spoil_secret(world: World) -> None:
    if raw := world.objects.get(world.STATE):
        raw["data"][secret.KEY] = world.random.choice(["", "%", base64.b64encode(b'{"version": 1}').decode()])
        world.put(world.STATE, raw)


def restore_secret(world: World) -> None:
    """A backup of the Secret is put back while somebody remembers the newer one."""
    if world.secrets and world.objects.get(world.STATE):
        world.put(world.STATE, world.random.choice(world.secrets))


def reset_bundle(text: Callable[[World], str]) -> Callable[[World], None]:
    def do(world: World) -> None:
        raw = world.objects[world.CONFIGURATION]
        for each in raw["webhooks"]:
            each["clientConfig"]["caBundle"] = text(world)
            if world.chance(0.3):
                break
        world.put(world.CONFIGURATION, raw, fault=True)
        world.wake()

    return do


def some_of_it(world: World) -> str:
    known = [each.pem for each in world.in_force.known.values()]
    return base64.b64encode("".join(pem for pem in known if world.chance(0.5)).encode()).decode()


def of_somebody_else(world: World) -> str:
    return base64.b64encode(foreign(world.now).pem.encode()).decode()


def restart(world: World) -> None:
    pod_of(world).restart()


def replace_pod(world: World) -> None:
    world.pods.remove(pod_of(world))
    world.pods.append(Pod(world, f"pod-{world.version}-{len(world.bundles)}"))


def start_over(world: World) -> None:
    """The Secret is gone and nobody remembers it; some Pods have lost their files as well."""
    world.objects.pop(world.STATE, None)
    for pod in list(world.pods):
        if world.chance(0.3):
            world.pods.remove(pod)
            world.pods.append(Pod(world, f"{pod.name}x"))
        else:
            pod.restart()


def for_some(name: str) -> Callable[[World], None]:
    """A fault of the way to the API, for one replica or for all, that ends after less than a life."""

    def do(world: World) -> None:
        struck = world.pods if world.chance(0.5) else [pod_of(world)]
        for pod in struck:
            setattr(pod, name, True)
        advance(world, world.random.uniform(1, LEAF_S * 0.3))
        for pod in struck:
            setattr(pod, name, False)

    return do


def stop_watching(world: World) -> None:
    world.watching = not world.watching


def own_clock(world: World) -> None:
    pod_of(world).wall_offset += world.random.choice([YEAR, -3 * DAY, 17.0, -17.0])


FAULTS: dict[str, Callable[[World], None]] = {
    "rotate ca": rotate(secret.ROTATE_CA),
    "rotate leaf": rotate(secret.ROTATE_LEAF),
    "delete secret": delete_secret,
    "spoil secret": spoil_secret,
    "restore secret": restore_secret,
    "empty bundle": reset_bundle(lambda _: ""),
    "garbage bundle": reset_bundle(lambda _: "Cg=="),
    "part of bundle": reset_bundle(some_of_it),
    "foreign bundle": reset_bundle(of_somebody_else),
    "restart": restart,
    "replace pod": replace_pod,
    "start over": start_over,
    "unreachable": for_some("unreachable"),
    "forbidden": for_some("forbidden"),
    "answers lost": for_some("answers_lost"),
    "watch": stop_watching,
    "own clock": own_clock,
}


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.integers(0, 2**32),
    st.integers(1, 3),
    st.lists(st.tuples(st.sampled_from(sorted(FAULTS)), st.integers(0, 40)), max_size=14),
)
def test_no_handshake_fails_whatever_happens(seed: int, replicas: int, faults: list[tuple[str, int]]) -> None:
    """Through any sequence of faults, each served leaf verifies against each bundle that an API server may hold."""
    world = new_world(seed, replicas)
    advance(world, 2)
    for name, seconds in faults:
        FAULTS[name](world)
        advance(world, seconds)
    heal(world)


def heal(world: World) -> None:
    """Without faults all is well again: one authority, valid leaves, nothing in the bundle that need not be there."""
    world.watching = True
    for pod in world.pods:
        pod.unreachable = pod.forbidden = pod.answers_lost = False
    advance(world, 2 * SETTLE_S)
    assert all(world.serving(pod) for pod in world.pods)
    advance(world, 4 * (LEAF_S + SETTLE_S))
    assert all(world.serving(pod) for pod in world.pods)
    assert all(not pod.replica.faults.present for pod in world.pods)
    assert all(pod.replica.metrics.in_force for pod in world.pods)
    document = world.pods[0].replica.memory.document
    assert document and document.current
    assert {pod.replica.memory.document for pod in world.pods} == {document}
    assert set(world.in_force.known) == {each.fingerprint for each in document.trusted(world.now)}


# what each fault leads to


def current(world: World) -> str:
    """The authority that signs, for all replicas."""
    (found,) = {pod.replica.memory.document.current for pod in world.pods if pod.replica.memory.document}
    assert found
    return found.certificate.fingerprint


def issuers(world: World) -> set[str]:
    return {leaf.issuer.fingerprint for pod in world.pods if (leaf := pod.store.read())}


def test_a_first_start_takes_one_look() -> None:
    """Bundle and leaves are there without any time passing; both replicas agree."""
    world = new_world()
    world.step()
    assert all(world.serving(pod) for pod in world.pods)
    assert issuers(world) == {current(world)} == set(world.in_force.known)


def test_an_authority_is_published_settles_signs_and_retires() -> None:
    """In this order, with the times between that the settings ask for."""
    world = new_world()
    advance(world, 3)
    (old,) = issuers(world)
    rotate(secret.ROTATE_CA)(world)
    world.step()
    published = world.steady
    (new,) = set(world.in_force.known) - {old}
    while issuers(world) != {new}:
        assert issuers(world) == {old} or world.steady >= published + SETTLE_S
        world.step()
    signed = world.steady
    assert SETTLE_S <= signed - published <= SETTLE_S + 3
    while old in world.in_force.known:
        world.step()
    assert 2 * LEAF_S <= world.steady - signed <= 2 * LEAF_S + SETTLE_S + 3


def test_each_request_is_one_rotation() -> None:
    """For the authority and for every leaf."""
    world = new_world()
    advance(world, 3)
    rotate(secret.ROTATE_LEAF)(world)
    advance(world, 5)
    assert [pod.replica.metrics.renewals["leaf"] for pod in world.pods] == [2, 2]
    rotate(secret.ROTATE_CA)(world)
    advance(world, 5 * SETTLE_S)
    assert sum(pod.replica.metrics.renewals["ca"] for pod in world.pods) == 2


def test_nothing_ends_in_years_without_faults() -> None:
    """Authorities and leaves are renewed in time, for several lives of an authority."""
    world = new_world()
    world.step()
    seen = set()
    for _ in range(int(2.5 * CA_S)):
        world.step()
        seen.add(current(world))
        assert all(world.serving(pod) for pod in world.pods)
        for pod in world.pods:
            leaf = pod.store.read()
            assert leaf and leaf.certificate.not_after - world.now > LEAF_S / 4
    assert 3 <= len(seen) <= 5


@pytest.mark.parametrize("fault", ["empty bundle", "garbage bundle", "foreign bundle"])
def test_a_reset_bundle_is_repaired_without_time_passing(fault: str) -> None:
    """The watch tells it; somebody counts it."""
    world = new_world()
    advance(world, 3)
    for _ in range(5):
        FAULTS[fault](world)
        assert all(world.serving(pod) for pod in world.pods)
    assert sum(pod.replica.metrics.repairs for pod in world.pods) == 5


def test_a_reset_bundle_is_repaired_by_the_next_look_if_nothing_watches() -> None:
    world = new_world()
    advance(world, 3)
    world.watching = False
    FAULTS["empty bundle"](world)
    assert not any(world.serving(pod) for pod in world.pods)
    world.step()
    assert all(world.serving(pod) for pod in world.pods)


def test_a_bundle_that_is_reset_again_and_again_delays_no_rotation_for_ever() -> None:
    """It never settles then; before the authority ends its successor signs all the same."""
    world = new_world()
    advance(world, 3)
    for index in range(int(1.5 * CA_S)):
        if index % 3 == 0:
            FAULTS["empty bundle"](world)
        world.step()
        assert all(world.serving(pod) for pod in world.pods)


def test_somebody_elses_authority_leaves_after_a_life() -> None:
    """It is kept for a while, since somebody may serve by it: another installation mode, say."""
    world = new_world()
    advance(world, 3)
    raw = world.objects[world.CONFIGURATION]
    other = foreign(world.now)
    for each in raw["webhooks"]:
        text = base64.b64decode(each["clientConfig"]["caBundle"]).decode() + other.pem
        each["clientConfig"]["caBundle"] = base64.b64encode(text.encode()).decode()
    world.put(world.CONFIGURATION, raw)
    advance(world, LEAF_S)
    assert other.fingerprint in world.in_force.known
    advance(world, SETTLE_S + 3)
    assert other.fingerprint not in world.in_force.known


def test_a_deleted_secret_comes_back_with_the_same_authorities() -> None:
    world = new_world()
    advance(world, 3)
    before = current(world)
    delete_secret(world)
    world.step()
    assert world.objects[world.STATE]
    assert current(world) == before
    assert sum(pod.replica.metrics.renewals["ca"] for pod in world.pods) == 1


def test_a_secret_from_a_backup_does_not_win() -> None:
    """The authority that was retired since would sign again otherwise."""
    world = new_world()
    advance(world, 3)
    backup = world.objects[world.STATE]
    rotate(secret.ROTATE_CA)(world)
    advance(world, 3 * SETTLE_S + 3 * LEAF_S)
    before = current(world)
    world.put(world.STATE, backup)
    advance(world, 3)
    assert current(world) == before
    assert secret.read(world.objects[world.STATE]).document == world.pods[0].replica.memory.document


def test_starting_over_harms_nobody_who_serves() -> None:
    """Secret and memory are lost: a new authority settles while the old leaves go on and their issuer stays."""
    world = new_world()
    advance(world, 3)
    (old,) = issuers(world)
    delete_secret(world)
    for pod in world.pods:
        pod.restart()
    advance(world, SETTLE_S - 2)
    assert issuers(world) == {old} < set(world.in_force.known)
    assert all(world.serving(pod) for pod in world.pods)
    advance(world, 6)
    assert issuers(world) == {current(world)} != {old}


@pytest.mark.parametrize(
    "change",
    [
        {"type": "kubernetes.io/tls"},
        {"data": {secret.KEY: base64.b64encode(b'{"version": 2}').decode()}},
    ],
)
def test_a_secret_that_is_not_ours_is_left_alone(change: dict[str, object]) -> None:
    """Replicas go on with what they have, and say so; one that starts has nothing to go on with."""
    world = new_world()
    advance(world, 3)
    foreign_secret = world.objects[world.STATE] | change
    world.put(world.STATE, foreign_secret)
    stored = world.objects[world.STATE]
    world.pods.append(Pod(world, "late"))
    advance(world, 2 * LEAF_S)
    FAULTS["empty bundle"](world)
    assert world.objects[world.STATE] == stored
    assert [world.serving(pod) for pod in world.pods] == [True, True, False]
    assert all("using the Secret" in pod.replica.faults.present for pod in world.pods)
    assert [pod.replica.metrics.secret_faults for pod in world.pods] == [1, 1, 1]


def test_leaves_are_renewed_while_the_api_is_away() -> None:
    """For many lives of a leaf; the authority in memory signs."""
    world = new_world()
    advance(world, 3)
    for pod in world.pods:
        pod.unreachable = True
    for _ in range(int(3 * LEAF_S)):
        world.step()
        assert all(world.serving(pod) for pod in world.pods)
    for pod in world.pods:
        pod.unreachable = False
        assert "no answer" in pod.replica.faults.last
    heal(world)


def test_writes_may_fail_for_a_while_at_any_step() -> None:
    """A rotation that was asked for waits; nothing else changes."""
    world = new_world()
    advance(world, 3)
    for pod in world.pods:
        pod.forbidden = True
    rotate(secret.ROTATE_CA)(world)
    for _ in range(int(3 * LEAF_S)):
        world.step()
        assert all(world.serving(pod) for pod in world.pods)
    before = current(world)
    for pod in world.pods:
        pod.forbidden = False
    heal(world)
    assert current(world) != before


# clocks


@pytest.mark.parametrize("jump", [2 * YEAR, -10 * DAY, -2 * YEAR, 20.0, -20.0, CA_S])
def test_when_the_api_servers_clock_jumps_one_look_repairs_everything(jump: float) -> None:
    """And again when it jumps back. Whatever ended is made anew; an authority that is still valid stays."""
    world = new_world()
    advance(world, 3)
    for change in (jump, -jump):
        world.jump(change)
        world.step()
        world.step()
        assert all(world.serving(pod) for pod in world.pods), change
        advance(world, 2 * SETTLE_S)
        assert all(world.serving(pod) for pod in world.pods), change
    heal(world)


def test_this_machines_clock_does_not_matter() -> None:
    """Only the API server's does: it is the one that verifies."""
    world = new_world()
    advance(world, 3)
    made = [pod.replica.metrics.renewals["leaf"] for pod in world.pods]
    for jump in (YEAR, -2 * YEAR):
        for pod in world.pods:
            pod.wall_offset += jump
        advance(world, 3)
        assert [pod.replica.metrics.renewals["leaf"] for pod in world.pods] == made
        assert abs(world.pods[0].replica.metrics.skew_s) > YEAR / 2


def test_api_servers_that_disagree_by_years_make_no_storm() -> None:
    """Nothing can be valid for both; authorities are made no faster than they settle."""
    world = new_world()
    advance(world, 3)
    before = sum(pod.replica.metrics.renewals["ca"] for pod in world.pods)
    for index in range(30):
        world.jump(YEAR if index % 2 else -YEAR)
        world.step()
    made = sum(pod.replica.metrics.renewals["ca"] for pod in world.pods) - before
    assert made <= 2 * 30 / SETTLE_S + 2


def test_a_configuration_that_is_missing_stops_nobody() -> None:
    """It can refuse no Pod. Replicas get ready, so that an installation in steps goes on; once there, it is filled."""
    world = new_world()
    empty = world.objects.pop(world.CONFIGURATION)
    advance(world, 3)
    assert len(issuers(world)) == 1
    assert "finding the webhook configuration" in world.pods[0].replica.faults.present
    world.put(world.CONFIGURATION, empty, fault=True)
    world.wake()
    assert all(world.serving(pod) for pod in world.pods)


def test_the_secret_goes_with_the_deployment() -> None:
    """Also after a new installation: the garbage collector would take a Secret whose owner is gone."""
    world = new_world()
    path = "/apis/apps/v1/namespaces/srcip-system/deployments/srcip-webhook"
    for uid in ("one", "two"):
        world.put(path, {"metadata": {"name": "srcip-webhook", "uid": uid}})
        for pod in world.pods:
            pod.settings = replace(SETTINGS, owner="srcip-webhook")
            pod.restart()
        advance(world, 2)
        (reference,) = world.objects[world.STATE]["metadata"]["ownerReferences"]
        assert reference == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "srcip-webhook", "uid": uid}
