"""What ebpf mode can't do for a Pod that asks for it."""

from __future__ import annotations

from collections.abc import Iterator

from srcip_proxy.plan import LONGEST_IN_KERNEL, TOA
from srcip_webhook.annotations import MODE, PREFIX, Intent
from srcip_webhook.header_faults import CLIENT_FROM, stated_outbound
from srcip_webhook.reasons import Fault, Reason, about


def ebpf_faults(intent: Intent) -> Iterator[Fault]:
    """What needs a sidecar, and what is larger than the programs can hold."""
    if not intent.has_sidecar and (there := stated_outbound(intent)):
        yield _fault(", ".join(there), f"only a sidecar can write headers, and {MODE}: ebpf has none")
    if intent.client_from == "x-forwarded-for":
        yield _fault(CLIENT_FROM, f"only a sidecar can read x-forwarded-for, and {MODE}: ebpf has none")
    if intent.max_header_bytes > LONGEST_IN_KERNEL:
        text = f"{intent.max_header_bytes} is more than the limit of ebpf mode, {LONGEST_IN_KERNEL} bytes"
        yield about(f"{PREFIX}max-header-size", Reason.INVALID_ANNOTATION, text)


def toa_faults(intent: Intent) -> Iterator[Fault]:
    """The option is gone where a sidecar takes the connection: nothing but the kernel sees it."""
    if intent.client_from == TOA and intent.has_sidecar:
        text = f"{TOA} is a TCP option, which only BPF programs can read"
        way_out = f"use {MODE}: ebpf, not {intent.written_mode}"
        yield about(CLIENT_FROM, Reason.INVALID_ANNOTATION, f"{text}; {way_out}")


def _fault(key: str, text: str) -> Fault:
    return about(key, Reason.INVALID_ANNOTATION, f"{text}; use mode tproxy")
