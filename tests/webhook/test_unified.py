"""The diff is what `diff -u` would say: `patch` makes the new text of the old one."""

import subprocess
from pathlib import Path
from random import Random

import pytest

from srcip_webhook.unified import diff
from support.steps import steps


def texts(chance: Random) -> list[tuple[str, str]]:
    """Some documents, a few of them changed; the last one may end within a line."""
    pairs = []
    for _ in range(chance.randrange(1, 8)):
        old = [chance.choice("abcde") + "\n" for _ in range(chance.randrange(0, 12))]
        new = list(old)
        for _ in range(chance.choice((0, 0, 1, 3))):
            new.insert(chance.randrange(len(new) + 1), chance.choice("abcxyz\r") + "\n")
            if chance.random() < 0.3:
                new.pop(chance.randrange(len(new)))
        pairs.append(("".join(old), "".join(new)))
    if chance.random() < 0.4:
        pairs.append(("{1} ", "{1, 2} "))
        pairs.append(("{2}", chance.choice(("{2}", "{2, 3}", "{2}\n"))))
    return pairs


@pytest.mark.parametrize("seed", range(60))
def test_patch_makes_the_new_text_of_the_old_one(seed: int, tmp_path: Path) -> None:
    pairs = texts(Random(seed))  # noqa: S311
    old, new = ("".join(pair[side] for pair in pairs) for side in (0, 1))
    said = diff(pairs, "file", "file")
    assert (said == "") == (old == new)
    (tmp_path / "file").write_bytes(old.encode())
    if said and old:
        command = ["git", "apply", "-p0", "--whitespace=nowarn", "-"]
        subprocess.run(command, cwd=tmp_path, input=said.encode(), check=True)
        assert (tmp_path / "file").read_bytes().decode() == new


def test_many_documents_are_compared_in_few_steps() -> None:
    """20,000 lines that are all alike; eight times the documents take eight times the steps."""
    old = "---\na: b\nc: d\n" * 10
    pairs = [(old, old), (old, old + "x: y\n")]
    assert diff(pairs * 350, "a", "b").count("@@ -") == 350
    few, many = (steps(lambda times=times: diff(pairs * times, "a", "b")) for times in (5, 40))
    assert many < 10 * few
