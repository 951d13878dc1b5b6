"""docs/agent.md has every reason, state, series and capability of the agent, and no others."""

import re
from pathlib import Path

import pytest

from srcip_agent.__main__ import NEEDED
from srcip_agent.ledger import REFUSALS, STATES, Ledger

PAGE = (Path(__file__).parents[2] / "docs" / "agent.md").read_text()
METRICS = Ledger(lambda *_, **__: None).page()
SERIES = sorted(set(re.findall(r"^# TYPE (\w+) ", METRICS, re.MULTILINE)))


def first_column(heading: str) -> set[str]:
    """The words in backquotes that begin the rows of the table with this heading; without any, its bare words."""
    table = PAGE.partition(f"| {heading} |")[2].partition("\n\n")[0]
    cells = [row.split("|")[1] for row in table.splitlines()[2:]]
    return {word for cell in cells for word in (re.findall(r"`([\w]+)", cell) or re.split(r",\s*", cell.strip()))}


def test_every_reason_is_explained() -> None:
    """Whoever meets a reason in the agent's log or metrics finds what to do."""
    assert first_column("reason in the agent's log") == set(REFUSALS)


def test_every_series_is_explained() -> None:
    """With each of its states, where it has some."""
    assert first_column("series") == set(SERIES)
    (row,) = re.findall(r"^\| `srcip_agent_pods\{state\}` \| (.*) \|$", PAGE, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", row)) == set(STATES)


def test_every_capability_is_explained() -> None:
    assert first_column("capability") == set(NEEDED)


@pytest.mark.parametrize("alert", re.findall(r"`(Srcip\w+)`", PAGE))
def test_every_alert_that_is_named_exists(alert: str) -> None:
    rules = Path(__file__).parents[2] / "charts" / "srcip" / "templates" / "prometheusrule.yaml"
    assert f"- alert: {alert}\n" in rules.read_text()


def test_links_lead_to_headings_and_pages_that_exist() -> None:
    """No link of the page is dead."""
    for page, anchor in re.findall(r"\]\(([\w.-]*)(?:#([\w-]+))?\)", PAGE.replace("\n", " ")):
        text = (Path(__file__).parents[2] / "docs" / page).read_text() if page else PAGE
        headings = {
            re.sub(r"[^a-z0-9_ -]", "", h.lower()).replace(" ", "-")
            for h in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        }
        assert not anchor or anchor in headings, f"{page}#{anchor}"
