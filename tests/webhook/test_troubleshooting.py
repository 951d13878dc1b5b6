"""The page on troubleshooting has every refusal and every finding of the code."""

import re
from pathlib import Path

import pytest

from srcip_proxy.netfilter import preflight
from srcip_webhook.policy import REASONS

PAGE = (Path(__file__).parents[2] / "docs" / "troubleshooting.md").read_text()


@pytest.mark.parametrize("reason", REASONS)
def test_every_decision_is_explained(reason: str) -> None:
    """Whoever searches the page for a reason of the log finds it."""
    assert f"`{reason}`" in PAGE


def test_no_reason_is_explained_that_does_not_exist() -> None:
    """The table of refusals has no row that the code no longer knows."""
    table = PAGE.partition("denied the request`")[2].partition("###")[0]
    assert set(re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE)) <= set(REASONS)


@pytest.mark.parametrize("module", sorted({module for needs in preflight._NEEDS.values() for module, _, _ in needs}))
def test_every_missing_kernel_module_is_explained(module: str) -> None:
    """Each line that preflight can print about the kernel has a row."""
    assert module in PAGE


def test_links_lead_to_headings_and_pages_that_exist() -> None:
    """No link of the page is dead."""
    headings = {re.sub(r"[^a-z0-9 -]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.*)$", PAGE, re.M)}
    for link in re.findall(r"\]\(([^)\s]+)\)", PAGE.replace("\n", " ")):
        page, _, anchor = link.partition("#")
        if page:
            assert (Path(__file__).parents[2] / "docs" / page).exists(), link
        else:
            assert anchor in headings, link
