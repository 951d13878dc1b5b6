"""Log lines: one JSON object per line on standard output, never a key."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

LOGGER = logging.getLogger("srcip.certs")
LOGGER.addHandler(logging.NullHandler())


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON; `extra={"fields": {…}}` adds fields."""

    def __init__(self, pod: str) -> None:
        super().__init__()
        self._fixed = {"pod": pod} if pod else {}

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **self._fixed,
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, separators=(",", ":"), default=str)


def setup(level: str, pod: str) -> None:
    """Send our own log lines to standard output, and warnings of the libraries."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter(pod))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.ERROR)
    LOGGER.setLevel(level.upper())


def event(name: str, level: int = logging.INFO, **fields: Any) -> None:
    """Log one event with its fields."""
    LOGGER.log(level, name, extra={"fields": fields})
