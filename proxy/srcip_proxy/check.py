"""`srcip-proxy check`: proof, from inside the Pod, that an intercepted connection reaches its application.

It plays all three parts over lo: the balancer (from an address that only this check may use), the client (an address
of documentation, stated in a PROXY header) and the application. What it proves: interception, the sidecar, the
spoofed source, and the way back of the replies. It needs no capability: `kubectl exec` into the sidecar is enough.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from srcip_proxy.ebpf import counters as ebpf_counters
from srcip_proxy.environment import load
from srcip_proxy.network import CHECK4, LOOPBACK
from srcip_proxy.plan import CHECK_PORT, HEALTH_PORT, Plan
from srcip_proxy.pod import Pod

CLIENTS = {4: ("192.0.2.77", 7777), 6: ("2001:db8::77", 7777)}
"""Who the check claims to be (RFC 5737, RFC 3849)."""
TIMEOUT = 3.0
"""Seconds for each step."""
_QUESTION, _ANSWER = b"question", b"answer"


class CheckError(Exception):
    """One step failed; the text says which and what to look at."""


def main(environment: Mapping[str, str] = os.environ) -> int:
    """Print one line per proof. Exit code 0 when all hold, 1 otherwise."""
    plan, pod = load(environment)
    failed = False
    for name, step in _steps(plan, pod):
        try:
            print(f"ok      {name}: {step()}")
        except CheckError as error:
            failed = True
            print(f"FAILED  {name}: {error}", file=sys.stderr)
    return int(failed)


def _steps(plan: Plan, pod: Pod) -> Iterator[tuple[str, Callable[[], str]]]:
    if plan.attaches_programs and not (plan.may_fall_back and ebpf_counters.fingerprint() is None):
        yield "programs", _programs_answer
        return
    yield "sidecar", _sidecar_is_ready
    if not plan.inbound_ports:
        return  # the sidecar's own connections are exempt from what happens to outgoing ones
    if plan.redirects:
        application = _application(4, plan, pod)
        yield "IPv4 client", lambda: told(4, application, plan, pod)
        yield "IPv6 client", lambda: told(6, application, plan, pod)
        return
    yield "IPv4 client", lambda: round_trip(4, _application(4, plan, pod), pod)
    if pod.ipv6:
        yield "IPv6 client", lambda: round_trip(6, _application(6, plan, pod), pod)
    else:
        yield "IPv6", lambda: "off in this Pod; IPv6 clients follow srcip.io/client-address"


def _application(version: int, plan: Plan, pod: Pod) -> str:
    own = pod.own(version)
    if plan.deliver_to == "pod" and own:
        return str(own)
    return LOOPBACK[version]


def _programs_answer() -> str:
    if ebpf_counters.fingerprint() is None:
        raise CheckError("no program is attached to this Pod: see the log of its init container")
    return "they are attached to this Pod"


def _sidecar_is_ready() -> str:
    try:
        with socket.create_connection(("127.0.0.1", HEALTH_PORT), TIMEOUT) as connection:
            connection.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
            answer = connection.recv(4096).split(b"\r\n")[0].decode("latin-1")
    except OSError as error:
        raise CheckError(f"the sidecar does not answer on port {HEALTH_PORT} ({error}): see its log") from error
    if " 200 " not in answer:
        raise CheckError(f"the sidecar is not ready: {answer}")
    return answer


def told(version: int, application: str, plan: Plan, pod: Pod) -> str:
    """One connection through the whole chain in redirect mode, where the application is told its client. Raises
    CheckError with the likely cause."""
    is_http = bool(plan.http_ports)
    question = b"GET /question HTTP/1.1\r\nHost: check\r\n\r\n" if is_http else _QUESTION
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n" + _ANSWER if is_http else _ANSWER
    with (
        _listener(socket.AF_INET, application) as listener,
        _balancer(pod, version, question) as balancer,
        _accepted(listener, 4) as (connection, _),
    ):
        heard = _exchange(balancer, connection, answer)
    where = "in its headers" if is_http else "in a PROXY header"
    if (plan.http_headers if is_http else plan.emit_proxy_protocol != "off") and not _names(heard, CLIENTS[version][0]):
        raise CheckError(f"the application did not receive {CLIENTS[version][0]} {where}: {heard!r}")
    return f"the application received {CLIENTS[version][0]} {where}, and answered"


def _names(data: bytes, address: str) -> bool:
    """Whether the address is there in any form: as text, in full, as bytes."""
    known = ipaddress.ip_address(address)
    full = ":".join(f"{int(group, 16):x}" for group in known.exploded.split(":")) if known.version == 6 else address
    return any(form in data for form in (address.encode(), full.encode(), known.packed))


@contextmanager
def _listener(family: socket.AddressFamily, application: str) -> Iterator[socket.socket]:
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.settimeout(TIMEOUT)
        listener.bind((application, CHECK_PORT))
        listener.listen()
        yield listener


def round_trip(version: int, application: str, pod: Pod) -> str:
    """One connection through the whole chain. Raises CheckError with the likely cause."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with (
        _listener(family, application) as listener,
        _balancer(pod, version, _QUESTION) as balancer,
        _accepted(listener, version) as (connection, peer),
    ):
        if peer != CLIENTS[version]:
            raise CheckError(f"the application saw {peer[0]} port {peer[1]}, not {CLIENTS[version][0]}")
        _exchange(balancer, connection)
    return f"the application saw {peer[0]} port {peer[1]} and answered it"


@contextmanager
def _balancer(pod: Pod, version: int, question: bytes) -> Iterator[socket.socket]:
    target = str(pod.own(4) or LOOPBACK[4])
    source, port = CLIENTS[version]
    header = f"PROXY TCP{version} {source} {source} {port} {CHECK_PORT}\r\n".encode()
    try:
        with socket.create_connection((target, CHECK_PORT), TIMEOUT, (CHECK4, 0)) as connection:
            connection.sendall(header + question)
            yield connection
    except ConnectionRefusedError as error:
        raise CheckError(
            "connections are not intercepted: check that the init container runs "
            "`srcip-proxy init`, and that no other container removed table inet srcip"
        ) from error
    except OSError as error:
        raise CheckError(f"the sidecar ended the connection ({error}); its log says why") from error


@contextmanager
def _accepted(listener: socket.socket, version: int) -> Iterator[tuple[socket.socket, tuple[str, int]]]:
    try:
        connection, address = listener.accept()
    except TimeoutError as error:
        raise CheckError(
            "no connection came out of the sidecar: the policy routes of srcip are missing (`ip rule`), "
            "or the sidecar lacks CAP_NET_RAW"
        ) from error
    with connection:
        connection.settimeout(TIMEOUT)
        yield connection, (address[0], address[1])


def _exchange(balancer: socket.socket, application: socket.socket, reply: bytes = _ANSWER) -> bytes:
    """Question and answer: the answer proves that replies to a foreign address come back to the sidecar. Returns what
    the application heard."""
    try:
        question = application.recv(4096)
        application.sendall(reply)
        answer = balancer.recv(4096)
    except TimeoutError as error:
        raise CheckError("no reply came back: the policy routes of srcip are missing (`ip rule`)") from error
    if _QUESTION not in question or not answer.endswith(_ANSWER):
        raise CheckError(f"the bytes were changed between client and application: {question!r}, {answer!r}")
    return question
