"""What goes wrong beyond one module."""

from __future__ import annotations


class NotPossibleError(Exception):
    """This node or this Pod can't have ebpf mode; `reasons` names every one, each with what to do.

    `is_untouched`: nothing was attached, so that another mode can take its place.
    """

    def __init__(self, reasons: list[str], is_untouched: bool = True) -> None:
        self.reasons, self.is_untouched = tuple(reasons), is_untouched
        super().__init__("; ".join(reasons))
