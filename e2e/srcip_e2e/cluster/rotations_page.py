"""The figures of `cluster.rotations` as a page for docs/."""

from __future__ import annotations

from collections.abc import Iterable

from srcip_e2e.cluster.api import Json

BANNER = "<!-- Written by `python -m srcip_e2e.cluster.rotations docs/rotations.md`. -->"


def page(figures: Json) -> str:
    """The whole page, Markdown."""
    parts = [
        BANNER,
        "# Certificate rotations under admission load",
        _introduction(figures),
        "## Method",
        _table(_grouped(figures["scenarios"])),
        "## When Pods may be refused",
        _harmful(figures["scenarios"]),
        "## What an admission costs",
        _latency(figures["latency"]),
    ]
    return "\n\n".join(parts) + "\n"


def _introduction(figures: Json) -> str:
    sums = figures["total"]
    return (
        "A real kube-apiserver, the chart with two replicas, and four clients that create Pods (dry run) without a "
        "pause, while certificates are rotated and harmed. Beside them one client makes new TLS handshakes with the "
        "webhook all the time, and trusts what was in `caBundle` one second ago.\n\n"
        f"**{sums['rotations']} forced rotations, {sums['admissions']} admissions: {sums['refused']} refused, "
        f"{sums['failed']} failed, {sums['untouched']} not injected. {sums['tls_handshakes']} new handshakes: "
        f"{sums['tls_untrusted']} not trusted, {sums['tls_unreachable']} without an answer.**"
    )


def _grouped(rows: Iterable[Json]) -> dict[str, list[Json]]:
    found: dict[str, list[Json]] = {}
    for row in rows:
        if not row["harmful"]:
            found.setdefault(row["scenario"], []).append(row)
    return found


def _table(groups: dict[str, list[Json]]) -> str:
    lines = ["| what | times | seconds each | admissions | refused | handshakes | failed |", "| --- |" + " ---: |" * 6]
    for name, rows in groups.items():
        seconds = sum(row["seconds"] for row in rows) / len(rows)
        bad = sum(row["refused"] + row["failed"] + row["untouched"] for row in rows)
        tls = [row["tls"] for row in rows]
        cells = (
            name,
            len(rows),
            f"{seconds:.1f}",
            sum(row["admissions"] for row in rows),
            bad,
            sum(each["handshakes"] for each in tls),
            sum(each["untrusted"] + each["unreachable"] for each in tls),
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _harmful(rows: Iterable[Json]) -> str:
    head = "| what | over after, s | admissions meanwhile | refused | from the first to the last refused, ms |"
    lines = [head, "| --- |" + " ---: |" * 4]
    for row in rows:
        if row["harmful"]:
            bad = row["refused"] + row["failed"] + row["untouched"]
            cells = row["scenario"], row["seconds"], row["admissions"], bad, row["window_ms"]
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _latency(measured: Iterable[Json]) -> str:
    lines = ["| clients | what | p50 ms | p90 ms | p99 ms |", "| --- | --- |" + " ---: |" * 3]
    notes = []
    for each in measured:
        for kind, name in (("without", "a Pod that does not ask"), ("with", "a Pod that asks")):
            cells = " | ".join(f"{each[kind][f'p{p}_ms']}" for p in (50, 90, 99))
            lines.append(f"| {each['threads']} | {name} | {cells} |")
        seen = each["webhook"]
        notes.append(
            f"- clients: {each['threads']}; {seen['calls']} calls of the webhook took {seen['mean_ms']} ms on average; "
            f"99 % at most {seen['p99_at_most_ms']:g} ms"
        )
    told = (
        "As the API server saw it (`apiserver_admission_webhook_admission_duration_seconds`, whose buckets are coarse):"
    )
    head = "Whole requests (dry run) as their client saw them, on a machine with two cores that runs everything:"
    return "\n\n".join([head, "\n".join(lines), told, "\n".join(notes)])
