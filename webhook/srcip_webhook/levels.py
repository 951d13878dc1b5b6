"""What the Pod Security level of a namespace says about srcip's own containers, where a manifest holds the Namespace.

Only what srcip adds is judged: the containers of the Pod's owner are another's to judge, the API server's for one.
https://kubernetes.io/docs/concepts/security/pod-security-standards/
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from srcip_webhook.mutate import Outcome
from srcip_webhook.pods import lookup
from srcip_webhook.policy import Inject
from srcip_webhook.privilege import PRIVILEGE, can_be_by_agent

ENFORCE = "pod-security.kubernetes.io/enforce"
STRICT = ("baseline", "restricted")
"""The levels that allow none of the capabilities that srcip adds, and no hostPath. A namespace without the label has
the cluster's default, which no manifest tells."""


def of(objects: Iterable[Any]) -> dict[str, str]:
    """The enforced level of each Namespace among these objects, by its name; of a List, too."""
    found: dict[str, str] = {}
    for each in objects:
        items = lookup(each, "items")
        found |= of(items) if isinstance(items, list) else {}
        name, level = lookup(each, "metadata", "name"), lookup(each, "metadata", "labels", ENFORCE)
        if lookup(each, "kind") == "Namespace" and isinstance(name, str) and isinstance(level, str):
            found[name] = level
    return found


def namespace_of(document: Any, path: Iterable[str | int]) -> str | None:
    """The namespace of the Pod at this path of a document: what the innermost object around it says."""
    node, found = document, lookup(document, "metadata", "namespace")
    for step in path:
        node = node[step]
        said = lookup(node, "metadata", "namespace")
        found = said if said is not None else found
    return found if isinstance(found, str) else None


def verdict(outcome: Outcome, namespace: str | None, levels: Mapping[str, str]) -> str | None:
    """A sentence about a Pod that gets something; None where the level is not known."""
    level = levels.get(namespace or "")
    if level is None or not isinstance(outcome.decision, Inject):
        return None
    where = f"{level} in namespace {namespace}"
    if level not in STRICT or outcome.decision.is_by_agent:
        return f"{where}, which allows what srcip adds"
    way_out = f"; with {PRIVILEGE}: agent it would allow that" if can_be_by_agent(outcome.decision.intent) else ""
    return f"{where}, which refuses the Pod for what srcip adds{way_out}"
