"""Measuring the adding of HTTP headers, inbound and outbound: every variant proved, figures in rounds, memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from srcip_e2e.bench import http_relays, relays
from srcip_e2e.bench.figures import BASELINE, INBOUND, OUTBOUND, Figure, Run
from srcip_e2e.bench.http_relays import CUSTOM, HOSTNAME
from srcip_e2e.bench.rig import SEEN_PORT, BenchError, Rig, Variant, claimed

NOTES = (
    "HTTP: GET with a browser's headers, an answer of 512 bytes; srcip and nginx are reached by nat redirect",
    "inbound nginx and plain HAProxy share connections to the application between clients; srcip never does",
    "outbound nginx: proxy_pass to a fixed upstream with keepalive; `to any host` is proxy_pass to what Host says, "
    "as a sidecar has it that does not know its destinations",
)
Makers = Mapping[str, Callable[[Rig], Variant]]


def measure(rig: Rig, effort: relays.Effort, notes: list[str]) -> tuple[list[Run], dict[str, Any]]:
    """All runs, and numbers: memory by the beginning of its table's title, and its ratio to nginx's."""
    runs: list[Run] = []
    numbers: dict[str, Any] = {"memory_mib": {}}
    rig.outside()
    for key, makers, figures in (
        ("inbound", http_relays.INBOUND_MAKERS, INBOUND),
        ("outbound", http_relays.OUTBOUND_MAKERS, OUTBOUND),
    ):
        rows = set_up(rig, makers, outbound=key == "outbound")
        more, memory = _measured(rig, rows, effort, figures)
        runs += more
        numbers["memory_mib"][f"{key} HTTP: "] = memory
        numbers[f"{key}_rss"] = memory["srcip"]["after"] / memory["nginx"]["after"]
    notes += NOTES
    return runs, numbers


def _measured(
    rig: Rig, rows: Sequence[Variant], effort: relays.Effort, figures: Sequence[Figure]
) -> tuple[list[Run], dict[str, dict[str, float]]]:
    memory: dict[str, dict[str, float]] = {}
    relays.memory(rig, rows, "idle", memory)
    runs = list(relays.measure(rig, rows, effort, figures))
    relays.memory(rig, rows, "after", memory)
    relays.memory_open(rig, rows, memory, http=True)
    return runs, memory


def set_up(rig: Rig, makers: Makers, *, outbound: bool) -> list[Variant]:
    """No relay, and every relay of `makers`, proved to write the right headers."""
    rows = [Variant(BASELINE, rig.pod(), proxy=False, outbound=outbound), *(make(rig) for make in makers.values())]
    for variant in rows[1:]:
        prove(rig, variant)
    return rows


def prove(rig: Rig, variant: Variant) -> None:
    """Let the server say what it got. Raises BenchError when that has not the right headers, or has forged ones."""
    seed = rig.seed()
    head = str(rig.measure(variant, "seen", seed=seed).get("seen", ""))
    if found := fault(head, expected(variant, seed)):
        raise BenchError(f"{variant.name}: {found}; the server got {head!r}")


def expected(variant: Variant, seed: int) -> dict[str, str]:
    """What must be in the request, by lower-case name."""
    if variant.outbound:
        return {"x-forwarded-for": variant.pod.ip, "x-client-hostname": HOSTNAME, CUSTOM[0].lower(): CUSTOM[1]}
    client = claimed(seed).rpartition(":")[0]
    return {
        "x-forwarded-for": client,
        "x-real-ip": client,
        "x-forwarded-port": str(SEEN_PORT),
        "x-forwarded-proto": "http",
        "forwarded": f"for={client};proto=http",
    }


def fault(head: str, wanted: Mapping[str, str]) -> str | None:
    """What is wrong with the head of a request, or None: each header must be there once, with this value."""
    lines = [line.partition(":") for line in head.split("\r\n")[1:]]
    for name, value in wanted.items():
        found = [text.strip() for key, _, text in lines if key.lower() == name]
        if found != [value]:
            return f"{name} is {found}, not {value}"
    return None
