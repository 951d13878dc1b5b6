"""Facts that have to stand in more than one file agree: an image's recipe cannot import them, nor can a chart."""

import re
import tomllib
from pathlib import Path

import pytest

import srcip_webhook
from srcip_agent import orders
from srcip_certs import injection
from srcip_lab import bpf, lab
from srcip_webhook import names

ROOT = Path(__file__).parents[1]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
"""pyproject.toml owns the version."""
DOCKERFILES = sorted(ROOT.glob("*/Dockerfile"))
COPIES = {
    "the webhook's package": [srcip_webhook.__version__],
    "the chart": re.findall(r"^(?:version|appVersion): (.+)$", (ROOT / "charts/srcip/Chart.yaml").read_text(), re.M),
    **{
        f"{path.parent.name}/Dockerfile": re.findall(r'image\.version="([^"]+)"', path.read_text())
        for path in DOCKERFILES
    },
}


@pytest.mark.parametrize("copy", COPIES)
def test_the_version_is_that_of_pyproject(copy: str) -> None:
    assert COPIES[copy]
    assert set(COPIES[copy]) == {VERSION}


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda path: path.name
)
def test_the_docs_name_images_of_this_version(path: Path) -> None:
    assert set(re.findall(r"srcip/(?:proxy|webhook|certs|agent):(\d[\w.-]*)", path.read_text())) <= {VERSION}


def test_the_programs_are_compiled_alike_in_each_image_and_in_the_lab() -> None:
    """The flags are the lab's; an image adds only what keeps its build directory out of the programs."""
    commands = {
        path.parent.name: re.sub(r"\s*\\\n\s*", " ", found[0]).split()
        for path in DOCKERFILES
        if (found := re.findall(r"clang ((?:[^\n]|\\\n)*?) -c ", path.read_text()))
    }
    assert set(commands) >= {"proxy", "agent"}
    headers = '-I"/usr/include/$(uname'
    for flags in commands.values():
        assert tuple(flags[: flags.index(headers)]) == bpf.FLAGS
        assert flags[flags.index(headers) :] == [headers, '-m)-linux-gnu"', "-fdebug-prefix-map=/build=."]


def test_the_names_of_what_the_webhook_adds_are_the_same_everywhere() -> None:
    """Certs and the agent do not import the webhook."""
    assert injection.WANTED == names.CONTAINERS
    assert orders.GATE == names.INIT
    assert lab.SIDECAR == names.PROXY
