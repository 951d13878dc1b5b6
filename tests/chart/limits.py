"""Writes charts/srcip/files/limits.yaml from the settings: `python tests/chart/limits.py`.

What a process of the chart refuses as a setting helm refuses as a value, in the same words and before anything is
changed: the templates read this file (templates/_validate.tpl), which is made from the tables of those processes.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from srcip_certs import settings as certs
from srcip_webhook import settings as webhook
from srcip_webhook.values import duration_text

FILE = Path(__file__).parents[2] / "charts" / "srcip" / "files" / "limits.yaml"
_BANNER = (
    "# Written by `python tests/chart/limits.py` from the settings of the webhook and of srcip-certs. Don't edit.\n"
)
OWN = "certificates.selfManaged."
QUANTITIES = {
    "proxy.resources.requests.cpu": "proxy_cpu",
    "proxy.resources.requests.memory": "proxy_memory",
    "proxy.resources.limits.cpu": "proxy_cpu_limit",
    "proxy.resources.limits.memory": "proxy_memory_limit",
}
"""Values of the chart, and the setting of the webhook that each becomes."""
DURATIONS = {
    f"{OWN}caLifetime": "ca_lifetime_s",
    f"{OWN}leafLifetime": "leaf_lifetime_s",
    f"{OWN}settle": "settle_s",
    f"{OWN}checkInterval": "check_interval_s",
}
"""Likewise, of srcip-certs."""


def kinds(settings: type) -> Mapping[str, Any]:
    """How each setting is read."""
    return {each.name: each.metadata["kind"] for each in fields(settings)}


def limits() -> dict[str, Any]:
    """What the templates know of the settings."""
    of_webhook, of_certs = kinds(webhook.Settings), kinds(certs.Settings)
    value_of = {setting: name for name, setting in DURATIONS.items()}
    wait = of_webhook["request_timeout_ms"]
    wait_bounds = {"low": duration_text(wait.low), "high": duration_text(wait.high), "allowed": wait.allowed}
    return {
        "quantities": {name: _bounds(of_webhook[setting]) for name, setting in QUANTITIES.items()},
        "durations": {
            "webhook.requestTimeout": wait_bounds,
            **{name: _bounds(of_certs[setting]) for name, setting in DURATIONS.items()},
        },
        "parts": [
            {"short": value_of[short], "part": part, "long": value_of[long]} for short, part, long in certs.PARTS
        ],
        "networks": of_webhook["trusted_cidrs"].allowed,
        "image": {"pattern": of_webhook["proxy_image"].schema["pattern"], "allowed": of_webhook["proxy_image"].allowed},
    }


def _bounds(kind: Any) -> dict[str, str]:
    return {"low": kind.low, "high": kind.high, "allowed": kind.allowed}


def text() -> str:
    """The whole file."""
    return _BANNER + yaml.safe_dump(limits(), sort_keys=False, width=200)


if __name__ == "__main__":
    sys.stdout.write(text())
