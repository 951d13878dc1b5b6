"""The work of one review: bytes in, bytes out. Pure, so it can be done in any thread or process."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from srcip_webhook import hints, pods, review
from srcip_webhook.mutate import Outcome, answer, judge
from srcip_webhook.settings import Settings

MAX_LOGGED = 5
"""Messages and warnings of one decision that are logged; all of them go to the API server."""
MOST_VALUES = 500_000
"""Most values in the JSON of a request: each takes some hundred bytes of memory, however short it is in the request."""
VALUE_SIGNS = (b",", b"[", b"{")
"""Each value but the first follows one of these."""


JUDGES: dict[str, Callable[[review.Request, Settings], Outcome]] = {
    "/mutate": judge,
    "/hint": hints.of_opted_in,
    "/hint/unlabelled": hints.of_unlabelled,
    "/hint/excluded/namespace": hints.of_excluded_namespace,
    "/hint/excluded/pod": hints.of_excluded_pod,
}
"""Who decides about a review, by the path that it comes to."""


class HttpFault(Exception):
    """A request that can't be answered with a review: a status and a sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True)
class Answered:
    """What the work of one review comes to, little enough for the event loop whatever its size."""

    verb: str
    reason: str
    content: bytes
    """The AdmissionReview that carries it back."""
    logged: dict[str, Any]


def answered(path: str, body: bytes | bytearray, settings: Settings) -> Answered:
    """The work of one review. Raises HttpFault."""
    if sum(map(body.count, VALUE_SIGNS)) > MOST_VALUES:
        raise HttpFault(413, f"the body holds more than {MOST_VALUES} values")
    try:
        asked = review.read(body)
    except review.ReviewError as error:
        raise HttpFault(400, str(error)) from None
    outcome = JUDGES[path](asked, settings)
    content = json.dumps(answer(asked, outcome), separators=(",", ":")).encode()
    return Answered(outcome.verb, str(outcome.reason), content, _logged(asked, outcome))


def _name(asked: review.Request, outcome: Outcome) -> str:
    given, generated = (pods.lookup(outcome.before, "metadata", field) for field in ("name", "generateName"))
    return str(given or (f"{generated}*" if generated else asked.name))[:253]


def _logged(asked: review.Request, outcome: Outcome) -> dict[str, Any]:
    """The fields of the line about a decision."""
    fields: dict[str, Any] = {
        "decision": outcome.verb,
        "reason": str(outcome.reason),
        "namespace": asked.namespace,
        "pod": _name(asked, outcome),
        "uid": asked.uid,
        "dryRun": bool(asked.dry_run),
    }
    if messages := outcome.messages:
        fields["errors"] = messages[:MAX_LOGGED]
    if outcome.decision.warnings:
        fields["warnings"] = outcome.decision.warnings[:MAX_LOGGED]
    return fields
