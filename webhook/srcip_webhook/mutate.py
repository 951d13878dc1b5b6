"""The whole way of one Pod, pure: decoded in, decision and patched Pod out.

The webhook, `srcip inject`, `srcip explain` and the lab all go through `consider`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from srcip_webhook import patch, pods, review, status, stripped, unquoted
from srcip_webhook.inject import injected, is_whole
from srcip_webhook.patch import Operation
from srcip_webhook.pods import Pod
from srcip_webhook.policy import Decision, Fault, Inject, Reason, Refuse, Skip, decide, skip_reason
from srcip_webhook.review import Request
from srcip_webhook.settings import Settings

MOST_FIELDS = 20
"""Fields of the wrong type that are told one by one."""


@dataclass(frozen=True)
class Outcome:
    """What becomes of one Pod."""

    decision: Decision
    reason: Reason
    """The word for metrics and logs; of several faults, the first one's."""
    before: Pod
    after: Pod
    """The Pod as it should be; the same object as `before` if nothing changes."""

    @property
    def verb(self) -> str:
        """`inject`, `skip` or `refuse`."""
        return type(self.decision).__name__.lower()

    @property
    def messages(self) -> list[str]:
        """Every fault, as sentences; empty unless refused."""
        return [fault.message for fault in self.decision.faults] if isinstance(self.decision, Refuse) else []

    def operations(self) -> list[Operation]:
        """The JSON patch from `before` to `after`."""
        return patch.operations(self.before, self.after)


def consider(pod: Any, settings: Settings) -> Outcome:
    """Decide about a Pod, or a Pod template with its `metadata` and `spec`, and render the result."""
    if faults := pods.shape_errors(pod):
        return _misshapen(pod, faults, settings)
    try:
        base = status.undo(pod)
    except ValueError:
        return _unreadable(pod, settings)
    # no status was undone, and yet srcip's containers are there: another webhook removed the annotation
    if base is pod and not skip_reason(pod) and (said := stripped.status_of(pod)):
        return _stripped(pod, status.without(pod, said), settings)
    decision = decide(base, settings)
    if isinstance(decision, Inject):
        return _injected(pod, base, decision, settings)
    reason = decision.reason if isinstance(decision, Skip) else decision.faults[0].reason
    return Outcome(decision, reason, pod, base if isinstance(decision, Skip) else pod)


def _injected(pod: Pod, base: Pod, decision: Inject, settings: Settings) -> Outcome:
    after = injected(base, decision, settings)
    # compared by digest, as other webhooks and the API server fill fields into srcip's containers
    if base is not pod and is_whole(pod, after):
        return Outcome(decision, Reason.UNCHANGED, pod, pod)
    return Outcome(decision, Reason.REQUESTED if base is pod else Reason.CHANGED, pod, after)


def _stripped(pod: Pod, base: Pod, settings: Settings) -> Outcome:
    """A Pod that lost the annotation by which srcip knows what it added, `base` being the Pod without that."""
    decision = decide(base, settings)
    if isinstance(decision, Inject):
        after = injected(base, decision, settings)
        if stripped.is_ours(pod, after):
            return Outcome(decision, Reason.CHANGED, pod, after)
        decision = Refuse((Fault(Reason.NAME_CLASH, stripped.message(pod)),), decision.warnings)
    reason = decision.reason if isinstance(decision, Skip) else decision.faults[0].reason
    return Outcome(decision, reason, pod, pod)


def _unreadable(pod: Pod, settings: Settings) -> Outcome:
    """Refused for its status and for whatever else can be seen beside it, unless the Pod never asked for us: then its
    faults are not ours to tell."""
    if why := skip_reason(pod):
        return Outcome(Skip(why), why, pod, pod)
    return Outcome(_beside(pod, settings), Reason.INVALID_STATUS, pod, pod)


def _misshapen(pod: Any, errors: list[str], settings: Settings) -> Outcome:
    """Refused for fields of the wrong type, and for whatever else can be seen beside them."""
    if why := skip_reason(pod):
        return Outcome(Skip(why), why, pod, pod)
    # a number or boolean without quotes makes the whole map of annotations ill-typed: say so about its key, once
    own = unquoted.faults(pod)
    keys = {fault.key for fault in own}
    errors = pods.shape_errors(unquoted.without(pod, keys)) if own else errors
    rest = [Fault(Reason.INVALID_POD, text) for text in errors[:MOST_FIELDS]]
    if len(errors) > MOST_FIELDS:
        rest.append(Fault(Reason.INVALID_POD, f"Pod: and {len(errors) - MOST_FIELDS} more fields of the wrong type"))
    decision = _beside(unquoted.quoted(pod), settings) if isinstance(pod, dict) else Skip(Reason.INVALID_POD)
    others = decision.faults if isinstance(decision, Refuse) else ()
    faults = [*own, *rest, *(fault for fault in others if fault.key not in keys)]
    return Outcome(Refuse(tuple(faults), decision.warnings), faults[0].reason, pod, pod)


_OF_THE_WHOLE = (Reason.NO_CONTAINERS, Reason.UNDECLARED_PORT, Reason.NO_PORTS, Reason.NO_HEADERS)
"""Faults that may come of a field that was left out."""


def _beside(pod: Pod, settings: Settings) -> Decision:
    """What else is wrong with a Pod whose unquoted values are texts by now; its misshapen fields are left out."""
    readable = pods.fitting(pod) or {}
    try:
        decision, faults = decide(status.undo(readable), settings), list[Fault]()
    except ValueError as error:
        decision = decide(status.without(readable, status.NOTHING), settings)
        faults = [Fault(Reason.INVALID_STATUS, str(error))]
    if isinstance(decision, Refuse):
        faults += [each for each in decision.faults if readable is pod or each.reason not in _OF_THE_WHOLE]
    return Refuse(tuple(faults), decision.warnings) if faults else Skip(Reason.INVALID_POD, decision.warnings)


def judge(request: Request, settings: Settings) -> Outcome:
    """What becomes of the object in an admission request."""
    pod = request.object or {}
    if (request.kind.group, request.kind.kind) != ("", "Pod") or request.sub_resource:
        return Outcome(Skip(Reason.NOT_A_POD), Reason.NOT_A_POD, pod, pod)
    if request.operation != "CREATE":
        return Outcome(Skip(Reason.NOT_CREATE), Reason.NOT_CREATE, pod, pod)
    return consider(pod, settings)


def answer(request: Request, outcome: Outcome) -> dict[str, Any]:
    """The AdmissionReview that carries the outcome back."""
    audit = {"decision": outcome.verb, "reason": str(outcome.reason)}
    warnings = outcome.decision.warnings
    if isinstance(outcome.decision, Refuse):
        return review.refused(request.uid, outcome.messages, warnings, audit)
    return review.allowed(request.uid, outcome.operations(), warnings, audit)


def mutate(body: Any, settings: Settings) -> dict[str, Any]:
    """One decoded AdmissionReview in, one out. Raises ReviewError if it is not one."""
    request = review.from_dict(body)
    return answer(request, judge(request, settings))
