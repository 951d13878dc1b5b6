"""Which containers of a Pod are a mesh's proxy, and the users that they run as."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from srcip_proxy.plan import codec
from srcip_webhook import pods
from srcip_webhook.pods import Pod

USERS = {
    "istio-proxy": 1337,
    "linkerd-proxy": 2102,
    "kuma-sidecar": 5678,
    "consul-dataplane": 5995,
}
"""The user of each mesh's proxy, by its container's name, where the container does not say another. A Pod with several
Services has a consul-dataplane for each, with the Service's name behind a dash."""
USER = codec.Users()


@dataclass(frozen=True)
class Meshes:
    """The proxies of meshes in one Pod."""

    containers: frozenset[str]
    """Their names. Their ports are for the mesh, not for clients."""
    users: tuple[int, ...]
    """Sorted, distinct. All that srcip was told of are among them, whether or not a container says that it has one."""

    def __bool__(self) -> bool:
        return bool(self.users)


def of(pod: Pod, told: tuple[int, ...]) -> Meshes:
    """What is known by names, and by the users that an annotation names."""
    found = dict(_found(pod, told))
    return Meshes(frozenset(found), tuple(sorted({*found.values(), *told})))


def _found(pod: Pod, told: tuple[int, ...]) -> Iterator[tuple[str, int]]:
    for container in pods.listeners(pod):
        name, user = container.get("name") or "", own_user(container)
        if usual := _usual(name):
            yield name, user if user and USER.fault((user,)) is None else usual
        elif user is not None and user in told:
            yield name, user


def own_user(holder: dict[str, Any]) -> int | None:
    """The user that the securityContext of a container, or of a Pod's spec, names."""
    user: int | None = (holder.get("securityContext") or {}).get("runAsUser")
    return user


def _usual(name: str) -> int | None:
    return USERS.get("consul-dataplane" if name.startswith("consul-dataplane-") else name)
