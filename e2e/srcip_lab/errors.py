"""What can go wrong in the lab, as text for the person at the terminal."""

from __future__ import annotations

from collections.abc import Iterable


class LabError(Exception):
    """The lab cannot do what was asked; `errors` holds every reason, one line each."""

    def __init__(self, *errors: str) -> None:
        self.errors = errors
        super().__init__("\n".join(errors))


def raise_all(errors: Iterable[str]) -> None:
    """Raise one LabError with all of `errors`, if there is any."""
    if found := tuple(errors):
        raise LabError(*found)
