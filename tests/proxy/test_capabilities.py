"""Which capabilities a process lacks is read from its status, with the reason."""

from pathlib import Path

import pytest

from srcip_proxy import capabilities

BOTH = 1 << 39 | 1 << 12


@pytest.mark.parametrize(
    ("permitted", "bounding", "said"),
    [
        (BOTH, BOTH, []),
        (1 << 12, BOTH, ["CAP_BPF is missing: the file capabilities of python3 are missing in this image"]),
        (1 << 39, 1 << 39, ["CAP_NET_ADMIN is missing: the container's securityContext does not add it"]),
        (
            0,
            1 << 12,
            [
                "CAP_BPF is missing: the container's securityContext does not add it",
                "CAP_NET_ADMIN is missing: the file capabilities of python3 are missing in this image",
            ],
        ),
    ],
)
def test_each_missing_capability_is_named_with_its_reason(
    tmp_path: Path, permitted: int, bounding: int, said: list[str]
) -> None:
    """The image is at fault where the container may have it, else the container's securityContext."""
    status = tmp_path / "status"
    status.write_text(f"Name:\tpython3\nCapPrm:\t{permitted:016x}\nCapEff:\t0\nCapBnd:\t{bounding:016x}\n")
    assert capabilities.missing("BPF", "NET_ADMIN", files="python3", status=status) == said
