"""Where the privileged work for a Pod is done: by its own init container, or by the agent on its node."""

from __future__ import annotations

from collections.abc import Iterator

from srcip_webhook.annotations import AGENT, MODE, PREFIX
from srcip_webhook.intent import BY_AGENT, BY_POD, Intent
from srcip_webhook.pods import Pod, labels_of
from srcip_webhook.reasons import Fault, Reason, about
from srcip_webhook.settings import Settings

PRIVILEGE = PREFIX + "privilege"


def is_by_agent(intent: Intent, settings: Settings) -> bool:
    """Whether the agent does it: the Pod's word, else the settings', for what an agent can do at all."""
    return can_be_by_agent(intent) and (intent.privilege or (BY_AGENT if settings.agent else BY_POD)) == BY_AGENT


def can_be_by_agent(intent: Intent) -> bool:
    """The programs in the kernel alone: what a sidecar needs, rules or NET_RAW, is in the Pod itself."""
    return not intent.has_sidecar


def privilege_faults(intent: Intent, settings: Settings) -> Iterator[Fault]:
    """Of a Pod that asks for the agent, and can't have it."""
    if intent.privilege != BY_AGENT:
        return
    if not can_be_by_agent(intent):
        why = f"agent works with {MODE}: ebpf alone, and {intent.written_mode} needs privilege in the Pod"
        yield about(PRIVILEGE, Reason.NO_AGENT, f"{why}; use {MODE}: ebpf, or {PRIVILEGE}: pod")
    if not settings.agent:
        why = "agent is not possible, as no agent is enabled in this cluster (agent.enabled in the values of the chart)"
        yield about(PRIVILEGE, Reason.NO_AGENT, f"{why}; use {PRIVILEGE}: pod, or leave it out")


def label_faults(pod: Pod) -> Iterator[Fault]:
    """The agent finds its Pods by this label, and srcip alone says which these are."""
    if AGENT in labels_of(pod):
        text = f"label {AGENT} is written by srcip alone, when the agent does the work for a Pod; remove it"
        yield Fault(Reason.NAME_CLASH, text)
