"""What the benchmark makes of its runs."""

from collections.abc import Container

import pytest

from srcip_e2e.bench.figures import (
    BASELINE,
    EVERY,
    FIGURES,
    INBOUND,
    OUTBOUND,
    P99_TARGETS,
    RATIO_TARGETS,
    Figure,
    Run,
    Target,
    ratio,
    ratios,
    table,
    verdicts,
)
from srcip_e2e.bench.http_relays import INBOUND_MAKERS, OUTBOUND_MAKERS
from srcip_e2e.bench.relays import MAKERS, UNTRUSTED


def runs(figure: str = "connect", **values: list[float]) -> list[Run]:
    return [
        Run(figure, name.replace("_", " "), n, value) for name, row in values.items() for n, value in enumerate(row)
    ]


def test_a_ratio_compares_runs_of_the_same_round() -> None:
    """When the machine is half as fast in one round, both variants are, and the ratio stays."""
    drifting = runs(direct=[100, 50, 100], srcip=[60, 30, 60])
    assert ratio(drifting, "connect", "srcip", BASELINE) == pytest.approx(0.6)


def test_the_median_of_the_ratios_shrugs_off_one_bad_round() -> None:
    disturbed = runs(direct=[100, 100, 100], srcip=[60, 1, 62])
    assert ratio(disturbed, "connect", "srcip", BASELINE) == pytest.approx(0.6)
    assert ratios(disturbed, "connect", "srcip", BASELINE) == pytest.approx([0.6, 0.01, 0.62])


def test_rounds_that_only_one_of_two_has_do_not_count() -> None:
    assert ratios(runs(direct=[100], srcip=[60, 90]), "connect", "srcip", BASELINE) == [0.6]
    assert ratios(runs(direct=[0.0], srcip=[60]), "connect", "srcip", BASELINE) == []
    assert ratio(runs(srcip=[60]), "connect", "srcip", BASELINE) is None


def test_figures_are_not_mixed() -> None:
    mixed = runs(direct=[100], srcip=[50]) + runs("request", direct=[100], srcip=[80])
    assert ratio(mixed, "request", "srcip", BASELINE) == 0.8
    assert {figure: list(row) for figure, row in table(mixed).items()} == {
        "connect": ["direct", "srcip"],
        "request": ["direct", "srcip"],
    }


def test_a_cell_holds_medians_and_every_failed_connection() -> None:
    rows = [Run("connect", "srcip", n, value=n, p50_us=n, p99_us=10 * n, errors=1) for n in (1, 2, 9)]
    cell = table(rows)["connect"]["srcip"]
    assert (cell.value, cell.p50_us, cell.p99_us, cell.errors, cell.rounds) == (2, 2, 20, 3, 3)


@pytest.mark.parametrize(("at_least", "value", "reached"), [(True, 1.0, True), (True, 0.99, False), (False, 1.0, True),
                                                           (False, 1.01, False)])  # fmt: skip
def test_a_target_is_reached_on_its_limit(at_least: bool, value: float, reached: bool) -> None:
    assert Target("key", "text", 1.0, at_least=at_least).reached(value) is reached


def test_what_was_not_measured_is_neither_reached_nor_missed() -> None:
    assert {verdict.reached for verdict in verdicts([], {})} == {None}


def test_every_target_gets_its_number() -> None:
    both = runs("request", srcip=[110], plain_HAProxy=[100])
    judged = {v.target.key: v for v in verdicts(both, {"start_ms": 151.0, "rss_idle_mib": 19.0})}
    by_key = {key: judged[key].reached for key in ("start_ms", "rss_idle_mib")}
    assert by_key == {"start_ms": False, "rss_idle_mib": True}
    assert judged["request:srcip/plain HAProxy"].value == pytest.approx(1.1)


def test_a_percentile_is_compared_like_a_rate() -> None:
    slower = [Run("http-request", name, 0, 1.0, p99_us=p99) for name, p99 in (("srcip", 120.0), ("nginx", 100.0))]
    assert ratio(slower, "http-request", "srcip", "nginx", "p99_us") == pytest.approx(1.2)
    judged = {v.target.key: v.reached for v in verdicts(slower, {})}
    assert (judged["http-request:srcip/nginx"], judged["http-request p99:srcip/nginx"]) == (True, False)


@pytest.mark.parametrize(("figures", "names"), [(FIGURES, {*MAKERS, UNTRUSTED, BASELINE}),
                                                (INBOUND, INBOUND_MAKERS), (OUTBOUND, OUTBOUND_MAKERS)])  # fmt: skip
def test_ratio_targets_name_variants_that_exist(figures: tuple[Figure, ...], names: Container[str]) -> None:
    """A renamed variant would silently leave its target unmeasured."""
    keys = {figure.name for figure in figures}
    targets = [target for target in (*RATIO_TARGETS, *P99_TARGETS) if target[0] in keys]
    assert targets
    assert all(one in names and other in names for _, one, other, _ in targets)


def test_ratio_targets_name_figures_that_exist() -> None:
    assert {figure for figure, *_ in (*RATIO_TARGETS, *P99_TARGETS)} <= {figure.name for figure in EVERY}
