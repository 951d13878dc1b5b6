"""What the annotations of one Pod ask for, before the Pod itself is looked at."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from srcip_proxy.plan import Options, PortRange

BY_AGENT, BY_POD = "agent", "pod"
"""Who does the privileged work for a Pod: the agent on its node, or its own init container."""


@dataclass(frozen=True, kw_only=True)
class Intent(Options):
    """The Plan's options as they will be, and what the webhook itself goes by. None: the webhook's settings or the Pod
    decide."""

    inject: bool = True
    privilege: str | None = None
    inbound_ports: tuple[PortRange | str, ...] | None = None
    exclude_inbound_ports: tuple[PortRange | str, ...] = ()
    without_ports: str = "refuse"
    trusted_cidrs: tuple[str, ...] | None = None
    trust_any_source: bool = False
    rewrite_probes: bool = True
    http_ports: tuple[PortRange | str, ...] | None = None
    proxy_cpu: str | None = None
    proxy_memory: str | None = None
    proxy_cpu_limit: str | None = None
    proxy_memory_limit: str | None = None
    stated: frozenset[str] = frozenset()
    """The fields whose annotation is there: with the default, with another value, or with one that is not allowed,
    which leaves the default here."""


DEFAULTS: dict[str, Any] = {item.name: item.default for item in fields(Intent) if item.name != "stated"}
"""What each field is without its annotation."""
