"""The headers that tell an HTTP application who its client is: HAProxy's rules for one request. Pure.

First everything goes that a client could forge, however it is spelled; then what srcip knows is written. The source of
the stream is the client by then.
"""

from __future__ import annotations

from collections.abc import Iterator

from srcip_proxy.headers import FIXED, same
from srcip_proxy.plan import Plan
from srcip_proxy.text import word

CLAIMS = (
    "forwarded-for",
    "x-forwarded",
    "client-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "fastly-client-ip",
    "x-appengine-user-ip",
    "x-original-forwarded-for",
    "x-envoy-external-address",
)
"""Other names that frameworks take a client's address from."""
IPV6 = "{ src -m sub : }"


def rules(plan: Plan) -> Iterator[str]:
    """All rules for one request, in order."""
    yield from limit(plan)
    yield from hops()
    if plan.forwarded_for == "trusted":
        yield from _believe()
    if plan.forwarded_for == "append":
        yield from _remember(plan)
    yield f"  http-request del-header {_forgeable(plan)} -m reg"
    yield from _write(plan)
    for tlv, name in plan.tlv_headers:
        value = f"var(sess.srcip_tlv_{word(tlv.replace('-', '_'))})"
        yield f"  http-request set-header {word(name)} %[{value}] if {{ {value} -m found }}"


def limit(plan: Plan) -> Iterator[str]:
    """One client has only so many requests at once; its address is the source by then."""
    if plan.max_connections_per_client:
        over = f"{{ sc0_conn_cur gt {word(plan.max_connections_per_client)} }}"
        yield "  http-request track-sc0 src table clients"
        yield f"  http-request lua.srcip_too_many_requests if {over}\n  http-request deny deny_status 429 if {over}"


def hops() -> Iterator[str]:
    """`Connection` must not name a header that srcip writes, or the next proxy would take it away; and no upgrade may
    lead to requests that nobody here sees."""
    upgrade = "{ req.hdr(upgrade) -m found }"
    yield "  http-request del-header upgrade if { req.hdr(upgrade) -m reg -i '(h2|tls|http)' }"
    yield f"  http-request del-header connection if !{upgrade}"
    yield f"  http-request set-header connection upgrade if {upgrade}"
    yield "  http-request del-header http2-settings"


def _believe() -> Iterator[str]:
    """Where the connection's own client is trusted, what it says counts: the right-most address of its list that is not
    trusted is the client, and its word for scheme and port is kept."""
    yield "  http-request set-var(txn.srcip_proto) var(sess.srcip_proto)"
    yield "  http-request set-var(txn.srcip_port) var(sess.srcip_port)"
    yield "  http-request lua.srcip_walk"
    yield "  http-request set-src var(txn.srcip_walked) if { var(txn.srcip_walked) -m found }"
    for variable, header, valid in (
        ("proto", "forwarded-proto", "http|https"),
        ("port", "forwarded-port", "[0-9]{1,5}"),
    ):
        said = f"req.fhdr({FIXED[header]})"
        condition = f"{{ var(txn.srcip_believed) -m bool }} {{ req.fhdr_cnt({FIXED[header]}) 1 }}"
        yield f"  http-request set-var(txn.srcip_{variable}) {said} if {condition} {{ {said} -m reg '^({valid})$' }}"


def _remember(plan: Plan) -> Iterator[str]:
    """The lists that came in, each as one line, before they go with all other spellings."""
    for variable, header in _lists(plan).items():
        count = f"req.fhdr_cnt({header})"
        yield f"  http-request set-var(txn.srcip_{variable}) req.fhdr({header}) if {{ {count} 1 }}"
        yield f"  http-request lua.srcip_join_{variable} if {{ {count} gt 1 }}"


def _lists(plan: Plan) -> dict[str, str]:
    """The headers that grow from hop to hop, by the variable that holds what came in."""
    names = {"forwarded-for": plan.forwarded_for_header, "forwarded": FIXED["forwarded"]}
    return {header.replace("-", "_"): word(name) for header, name in names.items() if header in plan.http_headers}


def _forgeable(plan: Plan) -> str:
    """A regular expression of every name that could carry an address: any character may stand for a dash, as CGI and
    its heirs do not tell them apart. HAProxy's names are in lower case."""
    names = ["X-Forwarded-For", *FIXED.values(), plan.forwarded_for_header, *CLAIMS]
    names += [name for _, name in plan.tlv_headers]
    patterns = dict.fromkeys(word(same(name)).replace("-", ".") for name in names)
    return f"'^({'|'.join(patterns)})$'"


def _write(plan: Plan) -> Iterator[str]:
    scope = "txn" if plan.forwarded_for == "trusted" else "sess"
    proto = f"%[var({scope}.srcip_proto)]"
    values = {
        "forwarded-for": (plan.forwarded_for_header, "%[src]"),
        "real-ip": (FIXED["real-ip"], "%[src]"),
        "forwarded-port": (FIXED["forwarded-port"], f"%[var({scope}.srcip_port)]"),
        "forwarded-proto": (FIXED["forwarded-proto"], proto),
        "forwarded": (FIXED["forwarded"], f"for=%[src];proto={proto}"),
    }
    for header in plan.http_headers:
        name, value = values[header]
        yield f"  http-request set-header {word(name)} {value}"
    if "forwarded" in plan.http_headers:  # an IPv6 address stands in brackets and quotes: RFC 7239, section 6
        yield f"  http-request set-header Forwarded 'for=\"[%[src]]\";proto={proto}' if {IPV6}"
    if plan.forwarded_for == "append":
        for variable, header in _lists(plan).items():
            before = f"var(txn.srcip_{variable})"
            value = f"'%[{before}], %[req.fhdr({header})]'"
            yield f"  http-request set-header {header} {value} if {{ {before},length gt 0 }}"
