"""HAProxy's configuration for outgoing connections: each HTTP request gets its headers. Pure.

The kernel leads a connection of the application to the sidecar (netfilter/outbound.py), which makes an ordinary one to
where it was to go. A connection begins as TCP; if its first bytes begin a request, it becomes an HTTP one, and each of
its requests is a stream of its own, to which the rules of the frontend apply again.
"""

from __future__ import annotations

from collections.abc import Iterator

from srcip_proxy.haproxy.sections import ANYWHERE, connections
from srcip_proxy.network import PORTS6
from srcip_proxy.plan import OUTBOUND_PORT, OUTBOUND_WAIT_MS, Plan
from srcip_proxy.plan.headers import DEFAULT, OUTBOUND, value_fault
from srcip_proxy.pod import Pod, PodError
from srcip_proxy.quoting import quoted, word

LISTEN = {4: "127.0.0.1", 6: "[::]"}
"""The kernel redirects to the address of lo; for IPv6, to one that says the port."""
HTTP = "{ var(sess.srcip_http) -m bool }"
FIRST = "var(txn.srcip_first)"
PREFACE = "PRI \\* HTTP/2\\.0\\r\\n\\r\\nSM\\r\\n\\r\\n"
"""HTTP/2 by prior knowledge begins with it (RFC 9113, section 3.4)."""
REQUEST = f"'^({PREFACE}|[A-Za-z][A-Za-z_-]* [^\\r\\n]+ HTTP/1\\.[01]\\r?\\n)'"
"""HTTP: that, or the first line of a request."""
_LINE = "(4[1-9A-F]|5[0-9A]|6[1-9A-F]|7[0-9A])([2-7][0-9A-F])*+(0D)?"
_HALF = "505249202A20485454502F322E300D0A(0D(0A(53(4D(0D(0A(0D)?)?)?)?)?)?)?"
PERHAPS = f"'^({_LINE}|{_HALF})$'"
"""What may become one, in hexadecimal: a letter first, only printable characters, and no end of the line yet; or that
much of the preface."""
GONE = "\n".join(f"  errorfile {status} /dev/null" for status in (400, 502, 503, 504))
"""Where a server says nothing, or the application has gone, the connection ends without an answer of ours."""
NOBODY = "abns@srcip-nobody"
"""In place of a server that refuses."""
REFUSED = "{ srv_name -m beg refused }"
RESET = "silent-drop rst-ttl 64"
CONNECT_S = 150
"""Longer than the kernel tries (tcp_syn_retries of ip-sysctl.rst: 127 s), so that it decides."""


def sections(plan: Plan, pod: Pod) -> Iterator[Iterator[str]]:
    """All sections for outgoing connections."""
    for version in pod.versions:
        yield _frontend(plan, pod, version)
        yield _backends(version)
    yield _nobody()


def values(plan: Plan, pod: Pod) -> dict[str, str]:
    """Every header that is set, and its value; an empty value takes the header away. Raises PodError where the Pod's
    own value is asked for and cannot be had."""
    found = dict(plan.outbound_headers)
    for field, name in OUTBOUND.items():
        said = getattr(plan, field)
        if said:
            found[name] = _own(field, pod) if said == DEFAULT else said
    return found


def _own(field: str, pod: Pod) -> str:
    what, value = {
        "outbound_forwarded_for": ("the Pod's address", str(pod.stated or "")),
        "outbound_client_hostname": ("the Pod's host name", pod.hostname),
    }[field]
    if not value or value_fault(value):
        raise PodError([f"{what} is {value!r}, which {OUTBOUND[field]} cannot have: set a value instead of default"])
    return value


def room(plan: Plan, pod: Pod) -> int:
    """How many bytes the headers may need besides those that come in; HAProxy keeps some for each in its buffer."""
    return sum(len(name) + len(value) + 16 for name, value in values(plan, pod).items()) if plan.outbound_ports else 0


def _frontend(plan: Plan, pod: Pod, version: int) -> Iterator[str]:
    yield f"# what the Pod sends to srcip.io/outbound-ports, over IPv{version}"
    yield f"frontend outbound{version}"
    yield f"  maxconn {word(connections(plan, pod))}"
    yield f"  bind {LISTEN[version]}:{OUTBOUND_PORT}{' v6only' if version == 6 else ''}"
    if version == 4:
        # a connection that was not redirected has this port as destination, and would come back here for ever
        yield f"  tcp-request connection reject if {{ dst_port {OUTBOUND_PORT} }}"
    else:
        # HAProxy asks the kernel for the original destination over IPv4 alone: netfilter/outbound.py hides it in here
        yield f"  tcp-request connection reject if !{{ dst {PORTS6}/112 }}"
        yield "  tcp-request connection set-dst-port dst,bytes(14,2),be2dec(,2)"
        yield "  tcp-request connection set-dst src"
    yield f"  tcp-request inspect-delay {OUTBOUND_WAIT_MS}ms"
    # the streams of a connection that has become an HTTP one pass these rules again
    yield f"  tcp-request content accept if {HTTP}"
    # HTTP by its first line. What cannot become one passes at once, and what is late passes then
    yield "  tcp-request content set-var(txn.srcip_first) req.payload(0,0) if { req.len gt 0 }"
    yield f"  tcp-request content set-var(sess.srcip_http) bool(true) if {{ {FIRST} -m reg {REQUEST} }}"
    yield "  tcp-request content unset-var(txn.srcip_wait)"
    yield f"  tcp-request content set-var(txn.srcip_wait) bool(true) if {{ {FIRST},hex -m reg {PERHAPS} }}"
    yield "  tcp-request content unset-var(txn.srcip_first)"
    yield f"  tcp-request content switch-mode http if {HTTP}"
    yield "  tcp-request content accept if !{ var(txn.srcip_wait) -m bool }"
    yield "  tcp-request content accept if WAIT_END"
    for name, value in values(plan, pod).items():
        yield (
            f"  http-request set-header {word(name)} {quoted(value)}"
            if value
            else (f"  http-request del-header {word(name)}")
        )
    # an upgraded connection could carry requests that no rule sees; HAProxy itself drops `Upgrade: h2c` and writes a
    # `Connection` of its own
    asked = "{ req.hdr(upgrade) -m reg -i '(h2|tls|http)' } or { req.hdr(http2-settings) -m found }"
    yield f"  http-request del-header '^(upgrade|http2-settings|connection)$' -m reg if {asked}"
    yield f"  use_backend outbound-http2-{version} if {HTTP} {{ fc_http_major 2 }}"
    yield f"  use_backend outbound-http{version} if {HTTP}"
    yield f"  default_backend outbound-raw{version}"


def _backends(version: int) -> Iterator[str]:
    # keep-alives find servers that are gone: those of the application end here
    common = f"  timeout connect {CONNECT_S}s\n  option srvtcpka"
    yield "# to where the Pod connects, byte by byte"
    yield f"backend outbound-raw{version}\n{common}\n  tcp-response content {RESET} if {REFUSED}"
    yield from _servers(version, "")
    for name, options in (("http", ""), ("http2-", " proto h2")):
        yield "# to where the Pod connects, request by request"
        yield f"backend outbound-{name}{version}\n  mode http\n{common}\n{GONE}"
        # a connection belongs to one connection of the application; it ends when that one does. Without no-delay, each
        # piece of a body would wait 200 ms for the next one
        yield "  http-reuse never\n  option abortonclose\n  option http-no-delay"
        yield f"  http-response {RESET} if {REFUSED}"
        yield from _servers(version, options)


def _servers(version: int, options: str) -> Iterator[str]:
    """A server with any address is the one that the connection was to go to. Where it refuses, the
    second one is tried at once (sections.servers says why there is a third)."""
    yield f"  retries 1\n  use-server there if TRUE\n  server there {ANYWHERE[version]} weight 0{options}"
    yield from (f"  server refused{number} {NOBODY}{options}" for number in (1, 2))


def _nobody() -> Iterator[str]:
    """Says something to anybody, at once: what it says is never passed on, but a sign to reset the connection. HAProxy
    itself would close it, which looks like an answer."""
    yield f"frontend nobody\n  mode http\n  bind {NOBODY}\n  timeout client 1s\n  timeout http-request 20ms"
    yield "  http-request return status 503"
