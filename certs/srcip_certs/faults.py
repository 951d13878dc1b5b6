"""What is wrong at the moment: each fault is logged once when it begins or changes, and once when it is over."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from srcip_certs import logs


@dataclass
class Faults:
    """The present faults by subject."""

    present: dict[str, str] = field(default_factory=dict)
    last: str = ""
    """The newest one, over or not."""

    def begin(self, subject: str, text: str) -> bool:
        """Note a fault; whether it is new."""
        if self.present.get(subject) == text:
            return False
        self.present[subject] = self.last = text
        logs.event(f"{subject} failed", logging.WARNING, error=text)
        return True

    def end(self, subject: str) -> None:
        """Note that a subject is fine."""
        if self.present.pop(subject, None) is not None:
            logs.event(f"{subject} works again")
