"""Tells those who ask for srcip and are not heard: warnings alone, never a patch and never a refusal.

A Pod that asks where nobody listens starts without its sidecar, and its application takes a PROXY header for data. Who
applies a Deployment sees its warnings; those of its Pods go to a controller, which shows them to nobody.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from srcip_webhook import pod_templates
from srcip_webhook.annotations import INJECT, INJECTED, LABEL, PREFIX, STATUS
from srcip_webhook.mutate import Outcome, consider
from srcip_webhook.pods import lookup
from srcip_webhook.policy import Reason, Refuse, Skip
from srcip_webhook.review import Request
from srcip_webhook.settings import Settings

MOST = 10
"""Warnings about one object; the API server cuts them all when they are too long together."""


def of_opted_in(request: Request, settings: Settings) -> Outcome:
    """About what holds a Pod template, in a namespace that is opted in: what will become of its Pods."""
    return _outcome(request, Reason.NOT_A_POD, _warnings(request, settings, None))


def of_unlabelled(request: Request, settings: Settings) -> Outcome:
    """About a Pod, or what holds its template, in a namespace without the label: nothing is injected there."""
    no_effect = (
        f"srcip: nothing is injected, as the namespace has no label {LABEL}: enabled: "
        f"kubectl label --overwrite namespace {request.namespace or 'NAME'} {LABEL}=enabled"
    )
    return _outcome(request, Reason.NOT_LABELLED, _warnings(request, settings, no_effect))


def of_excluded_namespace(request: Request, settings: Settings) -> Outcome:
    """About the same in a namespace with the label, where a selector of the chart's leaves it out."""
    no_effect = _excluded("the namespace", "namespaceMatchExpressions")
    return _outcome(request, Reason.EXCLUDED, _warnings(request, settings, no_effect))


def of_excluded_pod(request: Request, settings: Settings) -> Outcome:
    """About a Pod that a selector or a condition of the chart's leaves out."""
    no_effect = _excluded("the Pod", "podMatchExpressions or matchConditions")
    return _outcome(request, Reason.EXCLUDED, _warnings(request, settings, no_effect))


def _excluded(what: str, values: str) -> str:
    where = f"its chart's admission.{values}"
    return f"srcip: nothing is injected, as {where} exclude {what}: ask the administrator of srcip to change them"


def _outcome(request: Request, reason: Reason, warnings: Iterator[str]) -> Outcome:
    found = request.object or {}
    return Outcome(Skip(reason, _short(list(warnings))), reason, found, found)


def _short(warnings: list[str]) -> tuple[str, ...]:
    more = len(warnings) - MOST
    return (*warnings[:MOST], *([f"srcip: and {more} more; run srcip explain for all of them"] if more > 0 else []))


def _warnings(request: Request, settings: Settings, no_effect: str | None) -> Iterator[str]:
    """`no_effect` says why nothing will be injected, and what can be done."""
    found = request.object or {}
    yield from (f"srcip: {text}" for text in pod_templates.misplaced(found))
    path = pod_templates.path_of(found)
    pod = lookup(found, *path) if path is not None else None
    if not isinstance(pod, dict) or not asks(pod):
        return
    if no_effect:
        yield no_effect
    outcome = consider(pod, settings)
    if not no_effect or isinstance(outcome.decision, Skip):
        yield from outcome.decision.warnings
    if not no_effect and isinstance(outcome.decision, Refuse):
        yield from (f"srcip: its Pods will be refused: {text}" for text in outcome.messages)


def asks(pod: dict[str, Any]) -> bool:
    """Whether a Pod seems to want something of srcip: not one that opts out, nor one that `srcip inject` wrote."""
    annotations, labels = (lookup(pod, "metadata", field) for field in ("annotations", "labels"))
    if lookup(annotations, STATUS) is not None or "false" in (lookup(annotations, INJECT), lookup(labels, INJECT)):
        return False
    said = [key for found in (annotations, labels) if isinstance(found, dict) for key in found]
    return any(key.startswith(PREFIX) and key != INJECTED for key in said)
