"""What to do next: a pure decision from what was seen.

The order that no handshake fails in: publish → settle → sign → retire. A new authority is put into the caBundle; when
it has been there for `settle_s`, every API server knows it, and it signs; the old one stays in the bundle until what
it signed has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from srcip_certs import secret, state
from srcip_certs.authority import Authority, Certificate, Leaf
from srcip_certs.published import Published
from srcip_certs.secret import Stored
from srcip_certs.settings import Settings
from srcip_certs.state import Document

RENEW_AT = 2 / 3
"""Part of a certificate's life after which the next one is made."""
JITTER = 1 / 20
"""Replicas renew at different moments, up to this part of a life earlier or later."""
RELOAD_GRACE_S = 2.0
"""For the webhook to take a new leaf: it looks at its files once a second."""
MAX_UNKNOWN = 16
"""So many unknown certificates are kept in a bundle for a while; anything more is dropped."""


@dataclass(frozen=True)
class View:
    """What one replica knows at one moment. Times are the API server's, ages those of a steady clock."""

    now: float
    memory: Document | None
    """The newest document it has seen."""
    stored: Stored | None
    """What the Secret holds; None if it could not be read now."""
    owner: secret.Json | None
    published: Published | None
    """What the configuration publishes, as last seen; None if that was never."""
    in_force_s: Mapping[str, float]
    """For each certificate in every caBundle: how long."""
    unknown_s: Mapping[Certificate, float]
    """Certificates that no document knows, in a caBundle now or until lately: for how long."""
    leaf: Leaf | None
    leaf_requested: bool
    may_create_ca: bool
    """False shortly after an authority was made: clocks that disagree must not make one after the other."""


@dataclass(frozen=True)
class WriteState:
    """Write the document into the Secret."""

    document: Document
    reason: str


@dataclass(frozen=True)
class WriteBundle:
    """Write the certificates into each caBundle."""

    certificates: tuple[Certificate, ...]
    missing: frozenset[str]
    """Fingerprints of those that must be there and are not."""


@dataclass(frozen=True)
class SignLeaf:
    """Sign a new certificate for this replica."""

    issuer: Authority
    reason: str


Step = WriteState | WriteBundle | SignLeaf
CreateAuthority = Callable[[], Authority]


def decide(view: View, settings: Settings, create_ca: CreateAuthority) -> tuple[Step, ...]:
    """What this replica should do now, the first one first. After each step it looks again."""
    steps = (_document(view, settings, create_ca), _bundle(view, settings), leaf_step(view, settings))
    return tuple(each for each in steps if each)


def newest(memory: Document | None, stored: Stored | None) -> Document | None:
    """The document to go by. A Secret that fell behind (deleted, restored from a backup) does not win."""
    found = stored.document if stored else None
    if memory and found:
        return memory if memory.order > found.order else found
    return found or memory


def must_hold(view: View) -> tuple[Certificate, ...]:
    """What each caBundle must hold for all that serves now or may serve soon."""
    trusted = view.memory.trusted(view.now) if view.memory else ()
    own = view.leaf.issuer if view.leaf and view.now <= view.leaf.certificate.not_after else None
    return (*trusted, own) if own and own not in trusted else trusted


def renewal(certificate: Certificate, lifetime_s: float, *, jitter: bool = False) -> float:
    """When a certificate is to be replaced, in Unix seconds. A shortened setting counts at once."""
    spread = (certificate.serial % 1009 / 1008 * 2 - 1) * JITTER if jitter else 0
    # the shorter of both: a setting that was lowered must not wait for the end of what it was before
    life = min(certificate.not_after - certificate.issued, lifetime_s)
    return certificate.issued + life * (RENEW_AT + spread)


# the Secret


def _document(view: View, settings: Settings, create_ca: CreateAuthority) -> WriteState | None:
    stored = view.stored
    # unreadable now, or somebody else's: to write would overwrite what another replica, or another owner, has put there
    if stored is None or not stored.ours:
        return None
    known = newest(view.memory, stored)
    wanted, reason = _advanced(view, settings, create_ca, known)
    if wanted is None:
        return None
    if wanted == stored.document:
        return None if secret.owned(stored, view.owner) else WriteState(wanted, "owner")
    return WriteState(wanted, reason)


def _advanced(
    view: View, settings: Settings, create_ca: CreateAuthority, known: Document | None
) -> tuple[Document | None, str]:
    """The document as it should be, and why it is to be written."""
    asked = view.stored.requests.get(secret.ROTATE_CA, "") if view.stored else ""
    if view.published is None:  # what could be broken is not known
        return known, "restored"
    if known is None:
        # settled at once only where nobody serves by another authority: else API servers do not know this one yet
        return state.first(create_ca(), asked, view.now, settled=not _others_verify(view, None)), "created"
    if known.current and known.current.certificate.valid(view.now):
        return _rotated(view, settings, create_ca, known, asked)
    return _recovered(view, settings, create_ca, known, asked)


def _rotated(
    view: View, settings: Settings, create_ca: CreateAuthority, known: Document, asked: str
) -> tuple[Document, str]:
    """The next step of a rotation while the current authority works."""
    assert known.current
    following = known.next
    # the API server's clock jumped, or the rotation stood still for longer than the authority lives
    if following and not following.certificate.valid(view.now):
        return state.with_next(known, None, known.request), "next authority is not valid"
    if following:
        ready = _settled(view, settings, following) or (_urgent(view, settings, known) and _in_force(view, following))
        return (state.promoted(known, _until(view, settings)), "promoted") if ready else _pruned(view, known)
    requested = bool(asked) and asked != known.request
    if (requested or view.now >= renewal(known.current.certificate, settings.ca_lifetime_s)) and view.may_create_ca:
        return state.with_next(known, create_ca(), asked or known.request), "rotation requested" if requested else "due"
    return _pruned(view, known)


def _recovered(
    view: View, settings: Settings, create_ca: CreateAuthority, known: Document, asked: str
) -> tuple[Document, str]:
    """The way back to an authority that works: all that the old one signed has ended with it."""
    following, until = known.next, _until(view, settings)
    if following and following.certificate.valid(view.now):
        alone = not _others_verify(view, following) and _in_force(view, following)
        ready = alone or _settled(view, settings, following)
        return (state.promoted(known, until), "promoted") if ready else _pruned(view, known)
    if not view.may_create_ca:
        return known, "restored"
    made = create_ca()
    # another authority in the bundle may still verify what some replica serves: then this one waits in the bundle first
    if _others_verify(view, None):
        emptied = state.replaced(known, None, until, known.request)
        return state.with_next(emptied, made, asked), "authority is not valid"
    return state.replaced(known, made, until, asked), "authority is not valid"


def _pruned(view: View, known: Document) -> tuple[Document, str]:
    """Without retired authorities whose time is over and that have left the bundle."""
    there = view.published.known if view.published else {}
    # one that is in the bundle stays in the document: else it would count as unknown, and be kept for longer
    gone = [each.certificate.fingerprint for each in known.retired if not each.trusted(view.now)]
    wanted = state.without(known, frozenset(gone) - there.keys())
    return wanted, "restored" if wanted is known else "pruned"


def _until(view: View, settings: Settings) -> float:
    """A replica that has not heard yet may sign for one more life, and that leaf lives for one."""
    return view.now + 2 * settings.leaf_lifetime_s + settings.settle_s


def _others_verify(view: View, apart_from: Authority | None) -> bool:
    """Whether any other authority in the bundle could verify what somebody serves."""
    known = view.published.known.values() if view.published else ()
    return any(each.valid(view.now) and not (apart_from and each == apart_from.certificate) for each in known)


def _in_force(view: View, signer: Authority) -> bool:
    return signer.certificate.fingerprint in view.in_force_s


def _settled(view: View, settings: Settings, signer: Authority) -> bool:
    return view.in_force_s.get(signer.certificate.fingerprint, -1) >= settings.settle_s


def _urgent(view: View, settings: Settings, known: Document) -> bool:
    """Whether the current authority ends so soon that no certificate of it can be renewed."""
    left = known.current.certificate.not_after - view.now if known.current else 0
    return left < settings.leaf_lifetime_s * (1 - RENEW_AT)


# the caBundle


def _bundle(view: View, settings: Settings) -> WriteBundle | None:
    published = view.published
    if published is None or not published.bundles:
        return None
    must = must_hold(view)
    missing = published.missing(must)
    lately = view.unknown_s if missing else ()  # what took those away took others as well
    there = dict.fromkeys((*published.known.values(), *lately))
    kept = tuple(each for each in there if each not in must and not _over(view, settings, each))
    if not (must or kept) or (not missing and published.equals((*must, *kept))):
        return None
    return WriteBundle((*must, *kept), missing)


def _over(view: View, settings: Settings, each: Certificate) -> bool:
    """Whether a certificate that need not be there may go. Only who knows the document may say so."""
    if not (view.stored and view.memory and view.stored.document == view.memory):
        return False
    if any(each == retired.certificate for retired in view.memory.retired) or view.now > each.not_after:
        return True
    newest_first = sorted(view.unknown_s, key=lambda each: view.unknown_s[each])
    return view.unknown_s.get(each, 0.0) > kept_s(settings) or each in newest_first[MAX_UNKNOWN:]


def kept_s(settings: Settings) -> float:
    """How long an unknown certificate is kept in the bundle: a replica may serve by it for one life of a leaf."""
    return settings.leaf_lifetime_s + settings.settle_s


# this replica's certificate


def leaf_step(view: View, settings: Settings) -> SignLeaf | None:
    """The new certificate that this replica needs now, if it may have one."""
    current = view.memory.current if view.memory else None
    if current is None or not current.certificate.valid(view.now):
        return None
    reason = _why(view, settings, current)
    if not reason or not _may_sign(view, settings, current):
        return None
    return SignLeaf(current, reason)


def _why(view: View, settings: Settings, current: Authority) -> str:
    """Why a new leaf is needed; empty if it is not."""
    leaf = view.leaf
    if leaf is None:
        return "none"
    life, end = settings.leaf_lifetime_s, min(view.now + settings.leaf_lifetime_s, current.certificate.not_after)
    due = view.now >= renewal(leaf.certificate, life, jitter=True)
    faults = {
        "ended": view.now > leaf.certificate.not_after,
        "not valid yet": view.now < leaf.certificate.not_before,
        "other names": set(leaf.certificate.names) != set(settings.dns_names),
        "requested": view.leaf_requested,
        "other authority": leaf.issuer != current.certificate,
        "due": due and end > leaf.certificate.not_after + 1,  # an authority at its end has nothing more to give
    }
    return next((name for name, found in faults.items() if found), "")


def works(view: View, settings: Settings) -> bool:
    """Whether the API server accepts this replica's leaf, if it knows its authority."""
    leaf = view.leaf
    return bool(leaf and leaf.certificate.valid(view.now) and set(settings.dns_names) <= set(leaf.certificate.names))


def _may_sign(view: View, settings: Settings, current: Authority) -> bool:
    """Whether a leaf by this authority is accepted wherever the present one is."""
    leaf = view.leaf
    if leaf and leaf.issuer == current.certificate:
        return True  # whoever accepts the present leaf accepts this one
    # Without a look at the configuration nobody knows which authorities the API servers have: a leaf of the wrong one
    # would refuse every Pod (failurePolicy: Fail), and the present leaf may still be accepted.
    if view.published is None:
        return False
    # nothing to lose: any leaf that some API server accepts is better than one that none does
    if not works(view, settings):
        return _in_force(view, current) or not view.published.bundles
    assert leaf
    # An API server reads a new caBundle some seconds after it is written, and until then rejects what it signs: so a
    # new authority waits for settle_s, unless the leaf would end before this replica looks again.
    last_look = leaf.certificate.not_after - 2 * settings.check_interval_s - RELOAD_GRACE_S
    return _settled(view, settings, current) or (view.now > last_look and _in_force(view, current))
