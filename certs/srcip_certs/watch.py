"""Watches the webhook configuration, so that a reset caBundle is repaired at once and not at the next look."""

from __future__ import annotations

from collections.abc import Callable

from srcip_certs.api import CONFIGURATIONS
from srcip_kube.client import Json, Kube
from srcip_kube.watch import Listener, Watch


def watch(kube: Kube, name: str, put: Callable[[Json | None], object], opened: Callable[[], object]) -> Watch:
    """Follows one configuration: `put` gets each state of it (None is that of one that is gone)."""
    listener = Listener(
        listed=lambda found: put((*found, None)[0]),
        changed=lambda found, is_gone: put(None if is_gone else found),
        opened=opened,
    )
    return Watch(kube, CONFIGURATIONS, {"fieldSelector": f"metadata.name={name}"}, listener)
