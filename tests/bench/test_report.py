"""What the benchmark prints and draws."""

import xml.etree.ElementTree as ET

from srcip_e2e.bench import plot, report
from srcip_e2e.bench.figures import Cell, Target, Verdict


def parsed(text: str) -> ET.Element:
    return ET.fromstring(text)  # noqa: S314 - our own text


def cell(ratio: float, value: float = 1234.5, errors: int = 0) -> Cell:
    return Cell(value, ratio, ratio, ratio, 10.0, 99.0, 40.0, 12.0, errors, 3)


CELLS = {
    "connect": {"direct": cell(1.0), "srcip": cell(0.6), "nginx <stream>": cell(0.5, errors=7)},
    "request": {"direct": cell(1.0), "srcip": cell(2.5)},
}


def test_every_variant_has_its_line_and_failures_are_told() -> None:
    text = report.whole(CELLS, {"inbound ": {"srcip": {"idle": 18.0, "open": 47.25}}}, [], ["a note"])
    for part in ("new connections, 32 at once", "srcip", "0.60", "1,234", "7 failed connections", "47.2", "a note"):
        assert part in text
    assert "bulk" not in text  # not measured, no table


def test_columns_are_aligned() -> None:
    first, second = report.columns([("a", "1"), ("long name", "1,000")])
    assert first == "a              1"
    assert second == "long name  1,000"


def test_a_missed_target_is_told_as_such() -> None:
    target = Target("start_ms", "Pod start", 150, at_least=False, unit="ms")
    lines = report.verdict_lines([Verdict(target, 151.0), Verdict(target, 149.0), Verdict(target, None)])
    assert [line.split("ms")[-1].strip() for line in lines[1:]] == ["NOT reached", "reached", "not measured"]


def test_the_picture_is_well_formed_and_has_a_bar_for_each_relay() -> None:
    root = parsed(plot.svg(CELLS, 'a "note" <with> signs'))
    bars = list(root.iter("{http://www.w3.org/2000/svg}rect"))
    assert len(bars) == 3  # a direct connection is the dashed line, not a bar
    texts = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"nginx <stream>", "0.60", "new connections/s", 'a "note" <with> signs'} <= set(texts)


def test_no_bar_leaves_the_picture() -> None:
    root = parsed(plot.svg(CELLS, ""))
    width = float(root.attrib["width"])
    for bar in root.iter("{http://www.w3.org/2000/svg}rect"):
        assert 0 <= float(bar.attrib["x"]) + float(bar.attrib["width"]) <= width


def test_the_picture_adapts_to_a_dark_page() -> None:
    assert "prefers-color-scheme: dark" in plot.svg(CELLS, "")


def test_a_picture_of_nothing_is_still_a_picture() -> None:
    assert parsed(plot.svg({}, "nothing was measured")).tag.endswith("svg")
