"""Shared by all tests: golden files and the one flag that writes them anew."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("srcip", deadline=None)  # a busy machine is no fault of the code
settings.load_profile("srcip")

Golden = Callable[[Path, str | None], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--refresh-goldens", action="store_true", help="write the golden files instead of comparing")
    parser.addoption(
        "--connections", type=int, default=10_000, help="of the tests with many new connections, each mode's"
    )
    parser.addoption("--figures", action="store_true", help="print what is measured, which no test judges; with -s")
    parser.addoption("--rate", type=int, default=0, help="of these, how many a second; 0 for as many as there can be")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """Compare a text with its golden file; None means that there must be no such file."""
    refresh = request.config.getoption("--refresh-goldens")

    def check(path: Path, text: str | None) -> None:
        if refresh:
            if text is None:
                path.unlink(missing_ok=True)
            elif not path.exists() or path.read_text() != text:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
        assert (path.read_text() if path.exists() else None) == text, f"{path.name}: see --refresh-goldens"

    return check
