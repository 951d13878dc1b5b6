"""What the builder does besides building."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from srcip_e2e import images
from srcip_e2e.images import builder
from srcip_e2e.images.recipe import ROOT, Recipe, reference
from srcip_lab.errors import LabError


def test_an_unknown_image_is_refused_with_the_known_ones() -> None:
    with pytest.raises(LabError, match=r"a: no such image\. Allowed: proxy, webhook, certs, agent\nb: no such image"):
        images.build(["proxy", "b", "a"])


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """A recipe whose files nobody else changes, and a cache of its own."""
    recipe = Recipe("proxy", tmp_path)
    for file in Recipe("proxy").files():
        copy = tmp_path / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)
    (tmp_path / "cache").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(builder, "Recipe", lambda name: recipe)
    return recipe


def test_what_was_built_from_equal_files_is_not_built_again(tree: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """One changed byte, and it is."""

    def refuse() -> None:
        raise LabError("it builds")

    monkeypatch.setattr(builder, "_require", refuse)
    with pytest.raises(LabError, match="it builds"):
        images.build(["proxy"])
    builder._archive(tree).write_text("an archive")
    assert images.build(["proxy"])["proxy"].read_text() == "an archive"
    with (tree.root / "proxy/packages.txt").open("a") as file:
        file.write("\n")
    with pytest.raises(LabError, match="it builds"):
        images.build(["proxy"])


def test_an_interrupted_build_leaves_nothing_under_the_finished_name(tmp_path: Path) -> None:
    finished = tmp_path / "image-x-1.tar"

    def broken(aside: Path) -> None:
        aside.write_text("half")
        raise LabError("no space")

    with pytest.raises(LabError, match="no space"):
        builder._made(finished, broken)
    assert not finished.exists()
    builder._made(finished, lambda aside: aside.write_text("whole"))  # type: ignore[arg-type, return-value]
    assert [path.name for path in tmp_path.iterdir()] == ["image-x-1.tar"]
    assert finished.read_text() == "whole"


@pytest.mark.images
def test_the_command_copies_archives_and_says_how_large_they_are(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "srcip_e2e.images", "--output", str(tmp_path / "dist"), "proxy"]
    done = subprocess.run(command, cwd=ROOT / "e2e", capture_output=True, text=True, check=True)
    assert done.stdout.startswith(reference("proxy"))
    assert "MB compressed" in done.stdout
    assert [path.name for path in (tmp_path / "dist").iterdir()] == ["srcip-proxy.tar"]
