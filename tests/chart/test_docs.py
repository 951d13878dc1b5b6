"""What the pages say about the chart is true: values exist, examples render, commands are understood."""

import re
import shlex
from pathlib import Path

import pytest
import values_reference
import yaml
from values_reference import CHART

from support.rendering import KUBERNETES, TRUSTING, Helm, merged

ROOT = CHART.parents[1]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]
KNOWN = {each.name for each in values_reference.values((CHART / "values.yaml").read_text())}
BRANCHES = {name[:at] for name in KNOWN for at in range(len(name)) if name[at] == "."}
TOP = {name.partition(".")[0] for name in KNOWN}


def exists(name: str) -> bool:
    """Whether a value has this name, or it is a branch of values, or part of a value that is a map."""
    return name in KNOWN | BRANCHES or any(name.startswith(f"{each}.") for each in KNOWN)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.name))
def test_every_value_that_a_page_names_exists(page: Path) -> None:
    """Both those that a command sets and those that a sentence names."""
    text = page.read_text()
    named = set(re.findall(r"--set '?([A-Za-z.]+)=", text.replace("\\\n", " ")))
    named |= {
        each for each in re.findall(r"`([a-zA-Z]+(?:\.[a-zA-Z]+)+)(?:: [^`]*)?`", text) if each.split(".")[0] in TOP
    }
    assert not {name for name in named if not exists(name)}


EXAMPLES = re.findall(r"```yaml\n(# values.yaml\n.*?)```", (ROOT / "docs" / "install.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_examples_of_values_render(example: str, helm: Helm) -> None:
    """Each is a whole file of values."""
    assert helm.refusal(yaml.safe_load(example)) == ""


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == 3


def commands(page: str) -> list[list[str]]:
    """Command lines that render the chart, without what they are piped into."""
    text = (ROOT / "docs" / page).read_text().replace("\\\n", " ")
    lines = re.findall(r"^(helm (?:template|install|upgrade) .*?)(?: \| .*)?$", text, re.MULTILINE)
    return [shlex.split(line) for line in lines]


@pytest.mark.parametrize("page", ["install.md", "upgrade.md", "uninstall.md", "quickstart.md"])
def test_the_commands_are_understood(page: str, helm: Helm) -> None:
    """helm knows the options, and takes the values; those that need a cluster are rendered instead."""
    for _, verb, *arguments in commands(page):
        options = [each for each in arguments if each not in ("--create-namespace", "--wait", "charts/srcip")]
        options = [each for each in options if each not in ("--reset-then-reuse-values", "values.yaml", "--values")]
        version = [] if "--kube-version" in options else [f"--kube-version={KUBERNETES}"]
        trusting = merged(TRUSTING) if verb == "upgrade" else None
        done = helm("template", options[0], str(CHART), *options[1:], *version, values=trusting)
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
    assert commands(page)
