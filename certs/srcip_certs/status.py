"""What is in force and when it renews: as a dict and as text. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from srcip_certs import rotation
from srcip_certs.authority import Certificate
from srcip_certs.faults import Faults
from srcip_certs.rotation import View
from srcip_certs.settings import Settings

Json = dict[str, Any]


def of(view: View, settings: Settings, faults: Faults) -> Json:
    """The status; `faults` at its end says what is wrong, and is empty if all is well."""
    must = rotation.must_hold(view)
    missing = _missing(view, must)
    wrong = [*faults.present.values(), *_wrong(view, settings), *([missing] if missing else [])]
    return {
        "time": _stamp(view.now),
        "authorities": _authorities(view, settings),
        "leaf": _leaf(view, settings),
        "caBundle": {
            "inForce": not missing,
            "certificates": len(view.published.known) if view.published else 0,
            "mustHold": [each.fingerprint for each in must],
        },
        "lastError": faults.last,
        "faults": wrong,
    }


def text(status: Json) -> str:
    """The same for people."""
    lines = [f"{'authority':<10} {'fingerprint':<14} {'ends':<22} then"]
    lines += [
        f"{each['phase']:<10} {each['fingerprint'][:12]:<14} {each['notAfter']:<22} {each['then']}"
        for each in status["authorities"]
    ]
    leaf, bundle = status["leaf"], status["caBundle"]
    lines.append("")
    lines.append(
        f"this replica's certificate: by {leaf['issuer'][:12]}, ends {leaf['notAfter']}, renews about {leaf['renews']}"
        if leaf
        else "this replica's certificate: none"
    )
    state = "complete" if bundle["inForce"] else "incomplete"
    lines.append(f"caBundle: {state}; {bundle['certificates']} certificates")
    lines.append(f"last error: {status['lastError'] or 'none'}")
    lines += [f"fault: {each}" for each in status["faults"]]
    return "\n".join(lines) + "\n"


def _authorities(view: View, settings: Settings) -> list[Json]:
    document = view.memory
    if document is None:
        return []
    rows = []
    if document.current:
        when = rotation.renewal(document.current.certificate, settings.ca_lifetime_s)
        then = "its successor is published" if document.next else f"its successor is created at {_stamp(when)}"
        rows.append(_row("current", document.current.certificate, then))
    if document.next:
        held = view.in_force_s.get(document.next.certificate.fingerprint)
        seen = "not yet in the caBundle" if held is None else f"in the caBundle for {held:.0f} s"
        rows.append(_row("next", document.next.certificate, f"{seen}; signs after {settings.settle_s:g} s"))
    rows += [
        _row("retired", each.certificate, f"trusted until {_stamp(min(each.until, each.certificate.not_after))}")
        for each in document.retired
    ]
    return rows


def _row(phase: str, certificate: Certificate, then: str) -> Json:
    end = _stamp(certificate.not_after)
    return {"phase": phase, "fingerprint": certificate.fingerprint, "notAfter": end, "then": then}


def _leaf(view: View, settings: Settings) -> Json | None:
    if view.leaf is None:
        return None
    found = view.leaf.certificate
    return {
        "fingerprint": found.fingerprint,
        "issuer": view.leaf.issuer.fingerprint,
        "notAfter": _stamp(found.not_after),
        "renews": _stamp(rotation.renewal(found, settings.leaf_lifetime_s, jitter=True)),
        "names": list(found.names),
    }


def _missing(view: View, must: tuple[Certificate, ...]) -> str:
    """What the bundle in force lacks; empty if it has all."""
    if view.published is None:
        return "the webhook configuration could not be read"
    if not view.published.bundles:
        return "there is no webhook in the webhook configuration"
    lacking = view.published.missing(must)
    return f"the caBundle lacks {', '.join(sorted(each[:12] for each in lacking))}" if lacking else ""


def _wrong(view: View, settings: Settings) -> list[str]:
    found = []
    if view.memory is None:
        found.append("there is no certificate authority")
    if not rotation.works(view, settings):
        found.append("this replica has no certificate that is valid now")
    return found


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
