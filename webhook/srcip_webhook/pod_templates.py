"""Where objects of any kind hold their Pod, and annotations of srcip that stand elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from srcip_webhook.annotation_rows import PREFIX
from srcip_webhook.pods import lookup

_TEMPLATE = ("spec", "template")
PATHS: dict[tuple[str, str], tuple[str, ...]] = {
    ("", "Pod"): (),
    ("", "PodTemplate"): ("template",),
    ("", "ReplicationController"): _TEMPLATE,
    ("apps", "Deployment"): _TEMPLATE,
    ("apps", "StatefulSet"): _TEMPLATE,
    ("apps", "DaemonSet"): _TEMPLATE,
    ("apps", "ReplicaSet"): _TEMPLATE,
    ("batch", "Job"): _TEMPLATE,
    ("batch", "CronJob"): ("spec", "jobTemplate", "spec", "template"),
}
"""Where an object of this API group and kind holds its Pod."""

SHAPES = (_TEMPLATE, ("spec", "jobTemplate", "spec", "template"))
"""Where other kinds hold a Pod template."""


def path_of(value: dict[str, Any]) -> tuple[str, ...] | None:
    """Where this object holds its Pod: by its kind, or by its shape (Argo's Rollout, Knative's Service)."""
    known = PATHS.get((str(value.get("apiVersion", "")).rpartition("/")[0], str(value.get("kind"))))
    if known is not None:
        return known
    return next((path for path in SHAPES if isinstance(lookup(value, *path, "spec", "containers"), list)), None)


def misplaced(value: Any) -> Iterator[str]:
    """A sentence for each annotation of srcip where nobody reads it, in an object or in a list of them."""
    return (text for _, text in misplaced_at(value))


def misplaced_at(value: Any, at: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """The same, each with the steps that lead there from `value`, which `at` leads to."""
    if isinstance(value, list):
        if (first := next((index for index, item in enumerate(value) if _own(item)), None)) is not None:
            text = "a list of objects is not a manifest: separate documents with ---, or use kind: List with items"
            yield (*at, first), text
        return
    if not isinstance(value, dict):
        return
    if isinstance(value.get("items"), list) and str(value.get("kind", "")).endswith("List"):
        for index, item in enumerate(value["items"]):
            yield from misplaced_at(item, (*at, "items", index))
        return
    path, own = path_of(value), _own(value)
    key = (*at, "metadata", "annotations", *own[:1])
    if own and path is None:
        yield (
            key,
            f"{title(value)}: {own[0]}: srcip knows no Pod template in this kind of object; check the "
            f"spelling of kind (such as Pod)",
        )
    elif own and path:
        where = ".".join((*path, "metadata", "annotations"))
        yield key, f"{title(value)}: {own[0]}: no effect there; move it to {where}"


def _own(value: Any) -> list[str]:
    annotations = lookup(value, "metadata", "annotations")
    return [str(key) for key in annotations if str(key).startswith(PREFIX)] if isinstance(annotations, dict) else []


def title(value: dict[str, Any]) -> str:
    """`Kind/name` of an object."""
    meta = value.get("metadata")
    name = (meta.get("name") or meta.get("generateName")) if isinstance(meta, dict) else None
    return f"{value.get('kind')}/{name or '(no name)'}"
