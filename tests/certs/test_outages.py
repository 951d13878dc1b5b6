"""The API is away, forbids writes or has another time, in a model world; and what must be there and is not."""

from dataclasses import replace

import pytest

from srcip_certs import secret
from support.faults import DAY, YEAR, advance, current, heal, issuers, new_world, rotate
from support.world import CA_S, LEAF_S, SETTINGS, SETTLE_S


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
