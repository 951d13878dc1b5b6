"""What a mode means is said in one place, the properties of a plan's options; nobody else asks which mode it is."""

import ast
from pathlib import Path

import pytest

from srcip_proxy.plan import FALLBACK, WRITTEN_MODES, Options

ROOT = Path(__file__).parents[1]
SHIPPED = [path for package in ("proxy", "webhook") for path in sorted((ROOT / package).rglob("*.py"))]
MEANINGS = {
    "tproxy": {"has_sidecar", "spoofs_source"},
    "redirect": {"has_sidecar", "redirects"},
    "ebpf": {"attaches_programs"},
    FALLBACK: {"attaches_programs", "may_fall_back", "has_sidecar", "spoofs_source"},
}


def asks_which(node: ast.AST) -> bool:
    """Whether it compares the mode of a plan or an intent with something."""
    if not isinstance(node, ast.Compare):
        return False
    names = {each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute)}
    names |= {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
    return not names.isdisjoint(("mode", "fallback", "written_mode", "FALLBACK"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_compares_modes(path: Path) -> None:
    """But for the plan's own, which says three times what a mode means."""
    found = [ast.unparse(node) for node in ast.walk(ast.parse(path.read_text())) if asks_which(node)]
    assert len(found) == (3 if path.match("plan/model.py") else 0), found


@pytest.mark.parametrize("written", WRITTEN_MODES)
def test_each_mode_means_what_it_should(written: str) -> None:
    """Each way to write a mode stands for a set of properties, and is written again as it was."""
    mode, fallback = WRITTEN_MODES[written]
    options = Options(mode=mode, fallback=fallback)
    names = {name for names in MEANINGS.values() for name in names}
    assert {name for name in names if getattr(options, name)} == MEANINGS[written]
    assert options.written_mode == written
    assert bool(options.reserved_ports) == options.has_sidecar
