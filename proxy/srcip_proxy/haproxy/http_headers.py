"""The headers that tell an HTTP application who its client is: HAProxy's rules for one request. Pure.

First everything goes that a client could forge, however it is spelled; then what srcip knows is written. Every rule
here costs each request a microsecond, or a good part of one, so what is the same for all requests of a connection is
made once, and nothing is looked for that has just been taken out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from srcip_proxy.plan import Plan
from srcip_proxy.plan.headers import FIXED, same
from srcip_proxy.quoting import word

CLAIMS = (
    # RFC 7239's forerunners, and what proxies call them
    "forwarded-for",
    "forwarded-for-ip",
    "x-forwarded",
    "x-forwarded-by",
    "x-forwarded-client-ip",
    "x-original-forwarded-for",
    "http-x-forwarded-for",
    "x-real-client-ip",
    "x-remote-addr",
    "x-remote-ip",
    "remote-addr",
    "x-originating-ip",
    "x-original-remote-addr",
    "x-envoy-external-address",
    # application servers: WebLogic, HTTP Server plug-ins, PHP and Ruby frameworks
    "client-ip",
    "x-client-ip",
    "http-client-ip",
    "proxy-client-ip",
    "wl-proxy-client-ip",
    "x-proxyuser-ip",
    "x-cluster-client-ip",
    "x-coming-from",
    "coming-from",
    # CDNs and clouds
    "true-client-ip",
    "x-true-client-ip",
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "cf-pseudo-ipv4",
    "cloudfront-viewer-address",
    "fastly-client-ip",
    "fly-client-ip",
    "do-connecting-ip",
    "ali-cdn-real-ip",
    "cdn-src-ip",
    "incap-client-ip",
    "x-sucuri-clientip",
    "x-nf-client-connection-ip",
    "x-vercel-forwarded-for",
    "x-appengine-user-ip",
    "x-appengine-remote-addr",
    "x-azure-clientip",
    "x-azure-socketip",
    "x-ms-forwarded-client-ip",
)
"""Other names that frameworks, application servers and CDNs take a client's address from, by their manuals."""
IPV6 = "{ src -m sub : }"
HOPS = ("connection", "http2-settings")
"""`Connection` must not name a header that srcip writes, or the next proxy would take it away."""
_FAILED = "  http-request deny deny_status 500"
"""HAProxy goes on where an action of Lua fails, so a rule behind it asks for what it sets."""


def connection(plan: Plan, condition: str) -> Iterator[str]:
    """What all requests of a connection have in common, in variables of its session. Its source is the client here."""
    if _one_client(plan):
        yield f"  tcp-request content set-var(sess.srcip_src) src {condition}"
        yield f"  tcp-request content set-var-fmt(sess.srcip_text) %[src] {condition}"
        if "forwarded" in plan.http_headers:
            for value, where in _forwarded("sess"):
                yield f"  tcp-request content set-var-fmt(sess.srcip_forwarded) {value} {condition}{where}"


def _one_client(plan: Plan) -> bool:
    """Whether all requests of a connection have the same client."""
    return plan.forwarded_for != "trusted"


def needs_source(plan: Plan) -> bool:
    """Whether the source of each request's stream must be the client, too."""
    return not _one_client(plan)


def rules(plan: Plan) -> Iterator[str]:
    """All rules for one request, in order."""
    yield from limit(plan, "src" if needs_source(plan) else "var(sess.srcip_src)")
    if plan.forwarded_for == "trusted":
        yield from _believe()
    if plan.forwarded_for == "append":
        # the lists that came in, each as one line, before they go with all other spellings
        for variable, header in _lists(plan).items():
            count = f"req.fhdr_cnt({header})"
            yield f"  http-request set-var(txn.srcip_{variable}) req.fhdr({header}) if {{ {count} 1 }}"
            yield f"  http-request lua.srcip_join_{variable} if {{ {count} gt 1 }}"
            yield f"{_FAILED} if {{ {count} gt 1 }} !{{ var(txn.srcip_{variable}) -m found }}"
    # every name that could carry an address, whoever wrote it: what is added below is then the only one
    listed = ["X-Forwarded-For", *FIXED.values(), plan.forwarded_for_header, *CLAIMS]
    forgeable = names((*listed, *(name for _, name in plan.tlv_headers), *plan.remove_headers, *HOPS))
    yield f"  http-request del-header {forgeable} -m reg"
    yield from upgrade()
    yield from _write(plan)
    for tlv, name in plan.tlv_headers:
        value = f"var(sess.srcip_tlv_{word(tlv.replace('-', '_'))})"
        yield f"  http-request add-header {word(name)} %[{value}] if {{ {value} -m found }}"


def limit(plan: Plan, client: str = "src") -> Iterator[str]:
    """One client has only so many requests at once; `client` says where its address is."""
    if plan.max_connections_per_client:
        over = f"{{ sc0_conn_cur gt {word(plan.max_connections_per_client)} }}"
        yield f"  http-request track-sc0 {client} table clients"
        yield f"  http-request lua.srcip_too_many_requests if {over}\n  http-request deny deny_status 429 if {over}"


def upgrade() -> Iterator[str]:
    """No tunnel and no upgrade may lead to requests that nobody here sees. What is left is named in `Connection`, which
    is gone."""
    yield "  http-request deny deny_status 405 if METH_CONNECT"
    yield "  http-request del-header upgrade if { req.hdr(upgrade) -m reg -i '(h2|tls|http)' }"
    yield "  http-request add-header connection upgrade if { req.hdr(upgrade) -m found }"


def _believe() -> Iterator[str]:
    """Where the connection's own client is trusted, what it says counts: the right-most address of its list that is not
    trusted is the client, and its word for scheme and port is kept."""
    yield "  http-request set-var(txn.srcip_proto) var(sess.srcip_proto)"
    yield "  http-request set-var(txn.srcip_port) var(sess.srcip_port)"
    yield f"  http-request lua.srcip_walk\n{_FAILED} if !{{ var(txn.srcip_believed) -m found }}"
    yield "  http-request set-src var(txn.srcip_walked) if { var(txn.srcip_walked) -m found }"
    for variable, header, valid in (
        ("proto", "forwarded-proto", "http|https"),
        ("port", "forwarded-port", "[0-9]{1,5}"),
    ):
        said = f"req.fhdr({FIXED[header]})"
        condition = f"{{ var(txn.srcip_believed) -m bool }} {{ req.fhdr_cnt({FIXED[header]}) 1 }}"
        yield f"  http-request set-var(txn.srcip_{variable}) {said} if {condition} {{ {said} -m reg '^({valid})$' }}"


def _lists(plan: Plan) -> dict[str, str]:
    """The headers that grow from hop to hop, by the variable that holds what came in."""
    names = {"forwarded-for": plan.forwarded_for_header, "forwarded": FIXED["forwarded"]}
    return {header.replace("-", "_"): word(name) for header, name in names.items() if header in plan.http_headers}


def names(listed: Iterable[str]) -> str:
    """A regular expression of these names: any character may stand for a dash, as CGI and its heirs do not tell them
    apart. HAProxy's names are in lower case."""
    patterns = dict.fromkeys(word(same(name)).replace("-", ".") for name in listed)
    return f"'^({'|'.join(patterns)})$'"


def _forwarded(scope: str) -> Iterator[tuple[str, str]]:
    """Values of Forwarded and the conditions for them, the last one that holds counts: an IPv6 address stands in
    brackets and quotes (RFC 7239, section 6)."""
    proto = f"%[var({scope}.srcip_proto)]"
    yield f"for=%[src];proto={proto}", ""
    yield f"'for=\"[%[src]]\";proto={proto}'", f" {IPV6}"


def _write(plan: Plan) -> Iterator[str]:
    """The headers; all others of these names are gone, so that nothing has to be looked for and replaced."""
    scope, client = ("sess", "%[var(sess.srcip_text)]") if _one_client(plan) else ("txn", "%[src]")
    values = {
        "forwarded-for": (plan.forwarded_for_header, client),
        "real-ip": (FIXED["real-ip"], client),
        "forwarded-port": (FIXED["forwarded-port"], f"%[var({scope}.srcip_port)]"),
        "forwarded-proto": (FIXED["forwarded-proto"], f"%[var({scope}.srcip_proto)]"),
        "forwarded": (FIXED["forwarded"], "%[var(sess.srcip_forwarded)]"),
    }
    for header in plan.http_headers:
        name, value = values[header]
        if header == "forwarded" and not _one_client(plan):
            for text, where in _forwarded(scope):
                yield f"  http-request set-header {name} {text}{' if' if where else ''}{where}"
        else:
            yield f"  http-request add-header {word(name)} {value}"
    if plan.forwarded_for == "append":
        for variable, header in _lists(plan).items():
            before = f"var(txn.srcip_{variable})"
            value = f"'%[{before}], %[req.fhdr({header})]'"
            yield f"  http-request set-header {header} {value} if {{ {before},length gt 0 }}"
