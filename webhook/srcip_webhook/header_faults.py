"""What is wrong with what a Pod asks for in HTTP headers, where more than one annotation or the Pod itself decides."""

from __future__ import annotations

from collections.abc import Iterator

from srcip_proxy.plan import MOST_REDIRECTED, headers
from srcip_proxy.plan.headers import FIXED, name_faults, same
from srcip_webhook.annotation_table import TABLE, Scope
from srcip_webhook.annotations import MODE, PREFIX, Intent
from srcip_webhook.pods import printable
from srcip_webhook.ports import Ports
from srcip_webhook.reasons import Fault, Reason, about

OUTBOUND = {row.field: row.key for row in TABLE if row.scope & Scope.OUTBOUND}
"""The annotations about what the Pod sends, by their fields."""
CLIENT_FROM = f"{PREFIX}client-from"
FOR_OUTBOUND_ALONE = f"; for {OUTBOUND['outbound_ports']} alone, set {PREFIX}inbound-ports: none"


def stated_outbound(intent: Intent) -> list[str]:
    """The annotations about what the Pod sends that are there, be they right or wrong."""
    return [key for field, key in OUTBOUND.items() if field in intent.stated]


def outbound_faults(intent: Intent) -> Iterator[Fault]:
    """Ports and headers of outgoing requests need each other; what is there but can't be read is told elsewhere."""
    ports, *others = OUTBOUND.values()
    stated = stated_outbound(intent)
    there = [key for key in stated if key != ports]
    if there and ports not in stated:
        yield about(", ".join(there), Reason.NO_PORTS, f"no effect without {ports}; set it, for example to 80")
    if ports in stated and not there:
        named = f"{printable(','.join(map(str, intent.outbound_ports)))} " if intent.outbound_ports else ""
        text = f"{named}without a header to set; set {', '.join(others[:-1])} or {others[-1]}"
        yield about(ports, Reason.NO_HEADERS, text)
    listed = {same(name): name for name, _ in intent.outbound_headers}
    for field, name in headers.OUTBOUND.items():
        if getattr(intent, field) and same(name) in listed:
            text = f"{printable(listed[same(name)])} is also set by {OUTBOUND[field]}; remove one of the two"
            yield about(OUTBOUND["outbound_headers"], Reason.INVALID_ANNOTATION, text)


def redirect_faults(intent: Intent, ports: Ports) -> Iterator[Fault]:
    """What does not fit together about the headers of incoming requests."""
    by_header = intent.client_from == "x-forwarded-for"
    if not intent.redirects:
        if by_header and ports.intercepted and not ports.http and not ports.undeclared:
            text = f"x-forwarded-for needs an HTTP port, and there is none: set {PREFIX}http-ports"
            yield about(CLIENT_FROM, Reason.NO_HEADERS, text)
        return
    if by_header:
        text = f"x-forwarded-for is for tproxy mode; in redirect mode set {PREFIX}forwarded-for: trusted"
        yield about(CLIENT_FROM, Reason.INVALID_ANNOTATION, text)
    names = [intent.forwarded_for_header, *(name for _, name in intent.tlv_headers)]
    for text in name_faults(names, FIXED):
        yield Fault(Reason.INVALID_ANNOTATION, f"{PREFIX}forwarded-for-header and tlv-headers: {text}")
    if sum(r.last - r.first + 1 for r in ports.intercepted) > MOST_REDIRECTED:
        text = f"redirect mode takes at most {MOST_REDIRECTED} ports"
        yield about(f"{PREFIX}inbound-ports", Reason.TOO_MANY_PORTS, text)
    if ports.intercepted and not ports.http and intent.emit_proxy_protocol == "off" and not ports.undeclared:
        text = (
            f"redirect mode passes the client on in HTTP headers or in a PROXY header, and no port has either: "
            f"name HTTP ports in {PREFIX}http-ports, or set {PREFIX}emit-proxy-protocol"
            f"{FOR_OUTBOUND_ALONE if intent.outbound_ports else ''}"
        )
        yield about(MODE, Reason.NO_HEADERS, text)
