"""What each fault leads to, in a model world: one at a time, with the times that it takes."""

import base64

import pytest

from srcip_certs import secret
from support.faults import FAULTS, advance, current, delete_secret, issuers, new_world, reset_bundle, rotate
from support.world import CA_S, LAG_S, LEAF_S, SETTLE_S, Pod, foreign


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


def test_a_bundle_that_lost_the_next_authority_settles_anew() -> None:
    """An API server may have the one without it until then."""
    world = new_world()
    advance(world, 3)
    (old,) = issuers(world)
    before = base64.b64encode("".join(each.pem for each in world.in_force.known.values()).encode()).decode()
    rotate(secret.ROTATE_CA)(world)
    advance(world, SETTLE_S - 1)
    reset_bundle(lambda _: before)(world)
    advance(world, SETTLE_S - 1)
    assert issuers(world) == {old} < set(world.in_force.known)
    advance(world, 4)
    assert old not in issuers(world)


def test_a_replica_that_missed_the_rotation_signs_when_it_has_seen_it_settle() -> None:
    """And what it serves meanwhile is in the bundle at once, though the others had taken it out."""
    world = new_world()
    advance(world, 3)
    (old,) = issuers(world)
    world.pods[1].unreachable = True
    rotate(secret.ROTATE_CA)(world)
    advance(world, 3 * LEAF_S)
    assert old not in world.in_force.known
    world.pods[1].unreachable = False
    world.disturbed_until = world.steady + LAG_S + 2  # cut off for longer than a life: its authority was gone
    world.step()
    healed = world.steady
    assert old in world.in_force.known
    while old in issuers(world):
        assert world.serving(world.pods[1])
        world.step()
    assert SETTLE_S <= world.steady - healed <= SETTLE_S + 3


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


def test_a_repair_brings_back_what_others_may_serve_by() -> None:
    """Also an authority that no document knows: whoever serves by it may be out of reach of the API just then."""
    world = new_world()
    advance(world, 3)
    (old,) = issuers(world)
    delete_secret(world)
    for pod in world.pods:
        pod.restart()
    world.pods[1].unreachable = True
    advance(world, 2 * SETTLE_S)
    assert len(issuers(world)) == 2
    FAULTS["empty bundle"](world)
    assert old in world.in_force.known
    assert all(world.serving(pod) for pod in world.pods)


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


def test_a_secret_of_an_earlier_line_does_not_win() -> None:
    """Though many changes had made its serial greater: what was begun anew since is newer."""
    world = new_world()
    advance(world, 3)
    for _ in range(3):
        rotate(secret.ROTATE_CA)(world)
        advance(world, 2 * SETTLE_S)
    backup = world.objects[world.STATE]
    delete_secret(world)
    for pod in world.pods:
        pod.restart()
    advance(world, 3 * SETTLE_S)
    before = current(world)
    world.put(world.STATE, backup)
    advance(world, 3)
    assert current(world) == before


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
