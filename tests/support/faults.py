"""What can happen to a world of replicas, each by its name, and a world without faults again."""

import base64
from collections.abc import Callable

from srcip_certs import secret
from support.world import LEAF_S, SETTLE_S, Pod, World, foreign

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
        world.step()


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


def current(world: World) -> str:
    """The authority that signs, for all replicas."""
    (found,) = {pod.replica.memory.document.current for pod in world.pods if pod.replica.memory.document}
    assert found
    return found.certificate.fingerprint


def issuers(world: World) -> set[str]:
    return {leaf.issuer.fingerprint for pod in world.pods if (leaf := pod.store.read())}
