"""Who may import whom: a table of rooms, which is all there is, and no circle between modules.

A room is a package of srcip_proxy, a module beside them, or another package that ships. An import counts wherever it
stands, within a function, too.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "srcip_proxy": ROOT / "proxy",
    "srcip_webhook": ROOT / "webhook",
    "srcip_certs": ROOT / "certs",
    "srcip_kube": ROOT / "certs",
    "srcip_agent": ROOT / "proxy",
    "srcip_lab": ROOT / "e2e",
    "srcip_e2e": ROOT / "e2e",
}
PROXY = "srcip_proxy"
BASE = frozenset(("capabilities", "capset", "environment", "errors", "network", "notices", "pod", "quoting", "trust"))
"""Modules of srcip_proxy that every room of it may have."""
ROOMS = {
    "plan": frozenset(),
    **dict.fromkeys(BASE, BASE | {"plan"}),
    "netfilter": BASE | {"plan"},
    "haproxy": BASE | {"plan"},
    "ebpf": BASE | {"plan"},
    "gate": BASE | {"plan", "ebpf"},
    "init": BASE | {"plan", "netfilter", "haproxy", "ebpf"},
    "check": BASE | {"plan", "ebpf"},
    "outbound": BASE | {"plan", "netfilter", "init"},
    "__main__": BASE | {"plan", "init", "gate", "check", "ebpf", "outbound"},
}
"""The rooms of srcip_proxy, and which others each may import. The plan is a contract: it knows nobody. The three that
write or load something, netfilter, haproxy and ebpf, don't know each other; init brings them together."""
PACKAGES = {
    "srcip_proxy": frozenset(),
    "srcip_kube": frozenset(),
    "srcip_certs": frozenset(("srcip_kube",)),
    "srcip_agent": frozenset(("srcip_proxy", "srcip_kube")),
    "srcip_webhook": frozenset(("srcip_proxy", "srcip_lab")),
    "srcip_lab": frozenset(("srcip_proxy", "srcip_webhook", "srcip_certs", "srcip_agent")),
    "srcip_e2e": frozenset(("srcip_proxy", "srcip_webhook", "srcip_certs", "srcip_kube", "srcip_agent", "srcip_lab")),
}
"""Which other packages each may import."""


def modules(package: str) -> dict[str, Path]:
    """Every module of a package by its full name."""
    root = FOLDERS[package]
    paths = sorted((root / package).rglob("*.py"))
    return {".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


MODULES = {name: path for package in FOLDERS for name, path in modules(package).items()}


def imported(path: Path) -> Iterator[str]:
    """The modules of ours that this one imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names if each.name in MODULES)
        if isinstance(node, ast.ImportFrom) and node.module:
            for each in node.names:
                full = f"{node.module}.{each.name}"
                if full in MODULES or node.module in MODULES:
                    yield full if full in MODULES else node.module


IMPORTS = {name: set(imported(path)) for name, path in MODULES.items()}


def room(name: str) -> str:
    """Of a module of srcip_proxy."""
    return name.split(".")[1] if "." in name else ""


def package(name: str) -> str:
    return name.partition(".")[0]


def test_each_room_imports_only_those_that_it_may() -> None:
    """Every arrow between two rooms of the data plane stands in the table."""
    arrows = {
        (room(name), room(other), name)
        for name, others in IMPORTS.items()
        for other in others
        if package(name) == package(other) == PROXY and room(name) != room(other)
    }
    assert {name for mine, other, name in arrows if mine and other not in ROOMS[mine]} == set()


def test_the_table_has_every_room() -> None:
    """And none that has gone."""
    assert set(ROOMS) == {room(name) for name in MODULES if package(name) == PROXY} - {""}


def test_each_package_imports_only_those_that_it_may() -> None:
    """What ships imports nothing that doesn't, and the data plane imports nobody."""
    arrows = {(package(name), package(other), name) for name, others in IMPORTS.items() for other in others}
    assert {each for each in arrows if each[0] != each[1] and each[1] not in PACKAGES[each[0]]} == set()


def test_of_the_data_plane_the_webhook_has_the_plan_alone() -> None:
    """It is all that its image copies."""
    others = {other for name, all_of in IMPORTS.items() if package(name) == "srcip_webhook" for other in all_of}
    assert {room(other) for other in others if package(other) == PROXY} == {"plan"}


@pytest.mark.parametrize("name", FOLDERS)
def test_no_modules_import_each_other_in_a_circle(name: str) -> None:
    """Not by a way through others either."""
    graph = {each: others for each, others in IMPORTS.items() if package(each) == name}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' < '.join(error.args[1])}")


def test_packages_load_nothing_that_was_not_named() -> None:
    """Their __init__ files hold a text alone: each command loads what it needs, as init runs in every Pod's start. The
    plan's is the exception, a contract under one name."""
    eager = {name for name, path in MODULES.items() if path.name == "__init__.py" and IMPORTS[name]}
    eager = {name for name in eager if package(name) != "srcip_e2e"}  # it ships with nothing
    assert eager == {"srcip_proxy.plan"}


def test_init_loads_neither_programs_nor_the_check() -> None:
    """Of the data plane, the mode with a sidecar loads what it applies and writes, and nothing else."""
    code = "import sys, srcip_proxy.__main__, srcip_proxy.init; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    rooms = {room(name) for name in loaded if package(name) == PROXY} - {""} - BASE
    assert rooms == {"__main__", "init", "plan", "netfilter", "haproxy"}
