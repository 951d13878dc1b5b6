"""Writes docs/annotations.md from the tables: `python -m srcip_webhook.reference > docs/annotations.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import MISSING, fields
from typing import Any

from srcip_webhook.annotations import STATUS, TABLE
from srcip_webhook.policy import REASONS
from srcip_webhook.settings import Settings, variable
from srcip_webhook.values import Duration, Kind, duration_text

_INTRO = """<!-- Written by `python -m srcip_webhook.reference`. Don't edit. -->
# Annotations

Put them on the Pod, or on the Pod template of a Deployment and the like. Only `srcip.io/mode` is needed; with the
webhook's setting for trusted load balancers the rest has defaults. Values are strings: quote `"true"` and `"5"`.
A value that is not allowed refuses the Pod, with every fault at once. `srcip explain -f FILE` tells beforehand.
"""
_AFTER = f"""
The label `srcip.io/inject: "false"` opts a Pod out like the annotation; an opt-out wins over everything else.

`{STATUS}` is written by srcip: what it added and rewrote, so that a Pod that comes back to the webhook (or a manifest
copied from a running Pod) is never injected twice. Don't write it yourself.

The init container needs the capability NET_ADMIN, the sidecar NET_RAW in tproxy mode with inbound ports, else none. In
ebpf mode there is the init container alone: it needs BPF and NET_ADMIN, and the node's /sys/fs/cgroup as a hostPath.
With the agent it needs nothing. The Pod Security levels `baseline` and `restricted` don't allow any of these, and the
webhook can't see the namespace's level, as it never calls the Kubernetes API: a namespace that enforces one of these
rejects the Pod after the webhook, with a message of its own. `srcip explain` tells it before, where the manifest holds
the Namespace.

The label `srcip.io/agent` is written by srcip alone, on Pods for which the agent does the work. A Pod that brings it
along is refused, unless `srcip.io/status` is there, too, as in a copy of a running Pod.

A rewritten HTTP probe carries the alias port in its Host header; state the header in the probe where that matters.

## Decisions

Each decision has one of these reasons, in the log, as a label of `srcip_webhook_decisions_total`, in the audit log and
in `srcip explain`.
"""

_SETTINGS = """
## Settings of the webhook

Environment variables of `srcip-webhook`. A missing or wrong one ends the process at its start, with every fault.
By default no source is trusted, and no setting can trust all sources.
"""


def page() -> str:
    """The whole reference page."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield _INTRO
    yield "| annotation | allowed | default | meaning |"
    yield "| --- | --- | --- | --- |"
    for row in TABLE:
        yield f"| `{row.key}` | {row.kind.allowed} | {row.default_text} | {row.doc} |"
    yield _AFTER
    yield "| reason | meaning |"
    yield "| --- | --- |"
    for reason, doc in REASONS.items():
        yield f"| `{reason}` | {doc} |"
    yield _SETTINGS
    yield "| variable | allowed | default | meaning |"
    yield "| --- | --- | --- | --- |"
    for item in fields(Settings):
        kind: Kind = item.metadata["kind"]
        yield f"| `{variable(item.name)}` | {kind.allowed} | {_default(item.default, kind)} | {item.metadata['doc']} |"


def _default(value: Any, kind: Kind) -> str:
    if value is MISSING:
        return "none: it must be set"
    if isinstance(kind, Duration):
        return duration_text(value * kind.unit_ms)
    return str(value) if value not in ("", (), None) else "empty"


if __name__ == "__main__":
    sys.stdout.write(page())
