"""Kubernetes quantities: CPUs and bytes with their suffixes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from srcip_webhook.pods import printable
from srcip_webhook.values import BadValue

_SUFFIXES = {
    "m": Fraction(1, 1000),
    "": Fraction(1),
    **{unit: Fraction(1000**power) for power, unit in enumerate(("k", "M", "G", "T"), 1)},
    **{unit: Fraction(1024**power) for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti"), 1)},
}
_QUANTITY = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)(m|k|M|G|T|Ki|Mi|Gi|Ti)?", re.ASCII)


@dataclass(frozen=True)
class Quantity:
    """A Kubernetes quantity from `low` to `high`, kept as the text that was written."""

    low: str
    high: str
    example: str

    @property
    def allowed(self) -> str:
        return f"a Kubernetes quantity from {self.low} to {self.high}, such as {self.example}"

    @property
    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": f"^{_QUANTITY.pattern}$"}

    def parse(self, text: str) -> str:
        if not _QUANTITY.fullmatch(text):
            raise BadValue([f"{printable(text)} is not a quantity"])
        if not amount(self.low) <= amount(text) <= amount(self.high):
            raise BadValue([f"{printable(text)} is out of range"])
        return text


def amount(quantity: str) -> Fraction:
    """The number behind a quantity that `Quantity` accepted: bytes, or CPUs."""
    match = _QUANTITY.fullmatch(quantity)
    if match is None:
        raise BadValue([f"{printable(quantity)} is not a quantity"])
    return Fraction(match[1]) * _SUFFIXES[match[2] or ""]


CPU = Quantity("1m", "64", "100m")
MEMORY = Quantity("1Mi", "64Gi", "64Mi")
MEMORY_LIMIT = Quantity("32Mi", "64Gi", "256Mi")
"""The sidecar takes up to 20 MiB when idle; a lower limit would kill it at once."""
