"""What helm makes of the chart, by behaviour; see tests/golden/chart and --refresh-goldens."""

import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import values_reference
import yaml
from values_reference import CHART

from support.rendering import CASES, KUBERNETES, NAMESPACE, RELEASE, TRUSTING, Helm, merged

FOLDER = Path(__file__).parents[1] / "golden" / "chart"

Golden = Callable[[Path, str | None], None]


@pytest.mark.parametrize("case", CASES)
def test_manifests(case: str, helm: Helm, golden: Golden) -> None:
    """All objects of a release."""
    golden(FOLDER / f"{case}.yaml", helm.template(CASES[case]))


@pytest.mark.parametrize("case", ["default", "everything-on"])
def test_notes(case: str, helm: Helm, golden: Golden, tmp_path: Path) -> None:
    """What helm says after an install: the next command, and what is unusual about these values."""
    chart = tmp_path / "srcip"
    shutil.copytree(CHART, chart)
    shutil.copy(CHART / "templates" / "NOTES.txt", chart / "files")
    # helm shows notes only together with a cluster; as an object of the chart it renders them anywhere
    shown = '{{ tpl (.Files.Get "files/NOTES.txt") . | toJson }}'
    (chart / "templates" / "notes.yaml").write_text(f"kind: Notes\ntext: {shown}\n")
    place = [RELEASE, str(chart), f"--namespace={NAMESPACE}", f"--kube-version={KUBERNETES}"]
    values = merged(TRUSTING, CASES[case], {"webhook": {"replicas": 1}} if case != "default" else {})
    done = helm("template", *place, "--show-only=templates/notes.yaml", values=values)
    assert done.returncode == 0, done.stderr
    golden(FOLDER / f"{case}.notes.txt", yaml.safe_load(done.stdout)["text"])


def test_nothing_golden_is_left_over() -> None:
    """Each golden file belongs to a test."""
    known = {f"{case}.yaml" for case in CASES} | {f"{case}.notes.txt" for case in ("default", "everything-on")}
    assert {path.name for path in FOLDER.iterdir()} == known


@pytest.mark.parametrize("case", CASES)
def test_lint(case: str, helm: Helm) -> None:
    """`helm lint --strict` has nothing to say."""
    kube = f"--kube-version={KUBERNETES}"
    done = helm("lint", "--strict", "--quiet", kube, str(CHART), values=merged(TRUSTING, CASES[case]))
    assert (done.returncode, done.stdout.strip(), done.stderr.strip()) == (0, "", "")


def test_the_table_of_values_is_what_the_comments_say(golden: Golden) -> None:
    """docs/values.md is generated."""
    golden(values_reference.PAGE, values_reference.page((CHART / "values.yaml").read_text()))


def test_there_is_one_version() -> None:
    """That of the project: the images are tagged with it, and the chart asks for them."""
    version = tomllib.loads((CHART.parents[1] / "pyproject.toml").read_text())["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (version, version)


def test_every_value_has_a_comment() -> None:
    """A value without one could not be understood from the table."""
    text = (CHART / "values.yaml").read_text()
    assert [each.name for each in values_reference.values(text) if not each.doc] == []
    assert text.count("# -- ") == len(list(values_reference.values(text)))
