"""Every TCP case of the PROXY protocol collection, through real sockets to an application behind the programs."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from support import rig
from support.ebpf_rig import ALL_PORTS, Pod, Pods
from support.rig import SHORT, Client, Seen

pytestmark = pytest.mark.dataplane

CASES = json.loads(Path(rig.__file__).with_name("cases.json").read_text())["cases"]
TCP = [case for case in CASES if case["context"]["transport"] == "tcp"]
INCOMPLETE = [case for case in TCP if case["expect"] == "incomplete"]
WHOLE = [case for case in TCP if case.get("split_at_every_byte")]
POLICY = {"require": "required", "optional": "optional"}
QUIET = 0.02


def pod_for(case: dict[str, Any], pods: Pods, **changes: object) -> Pod:
    context = case["context"]
    app = ("0.0.0.0", "7000") if context.get("pod_families") == ["ipv4"] else ALL_PORTS
    versions = tuple(context.get("versions", (1, 2)))
    return pods(app, proxy_protocol=POLICY[context["mode"]], proxy_protocol_versions=versions, **changes)


def outcome(client: Client, seen: Seen) -> str:
    """The word of the collection for what happened."""
    if seen.peer is None:
        return "reject" if seen.end == "reset" else f"no answer, {seen.end}"
    return "local" if seen.peer == client.sock.getsockname()[:2] else "accept"


def expected(case: dict[str, Any]) -> str:
    """An untrusted sender stays native here, and an AF_INET socket cannot be shown an IPv6 client."""
    if case["context"]["peer"] == "untrusted" or case["name"] == "policy_ipv6_source_ipv4_only_pod":
        return "local"
    return "accept" if case["name"] == "v2_tcp4_port_zero" else str(case["expect"])


def send(client: Client, case: dict[str, Any], *, bytewise: bool) -> None:
    try:
        client.send(bytes.fromhex(case["hex"]), bytewise=bytewise)
        if case["then"] == "fin":
            client.finish()
    except OSError:
        assert "reject" in (case["expect"], *case["also_ok"])


def run(case: dict[str, Any], pod: Pod, *, bytewise: bool = False) -> None:
    untrusted = case["context"]["peer"] == "untrusted"
    rest = bytes.fromhex(case["hex"] if untrusted else case["rest_hex"] or "")
    before = pod.accepted()
    with pod.connect(host=pod.net.other if untrusted else pod.net.lb) as client:
        send(client, case, bytewise=bytewise)
        ends = case["then"] == "fin"
        seen = client.end(rest=len(rest)) if ends else client.seen(rest=len(rest), quiet=QUIET)
        assert outcome(client, seen) == expected(case), seen
    if expected(case) == "reject":
        assert pod.accepted() == before, "the application must not see a refused connection"
        assert pod.half_open() == 0
    else:
        check_delivered(case, seen, rest)


def check_delivered(case: dict[str, Any], seen: Seen, rest: bytes) -> None:
    assert seen.rest == rest + (b"<end>" if case["then"] == "fin" else b"")
    if expected(case) == "accept":
        rig_address = rig.ipaddress.ip_address(case["src"])
        address = getattr(rig_address, "ipv4_mapped", None) or rig_address
        assert seen.peer == (str(address), case["sport"])


@pytest.mark.parametrize("case", [c for c in TCP if c not in INCOMPLETE], ids=lambda case: case["name"])
def test_case(case: dict[str, Any], pods: Pods) -> None:
    run(case, pod_for(case, pods))


@pytest.mark.parametrize("case", WHOLE, ids=lambda case: case["name"])
def test_case_with_every_byte_in_a_segment_of_its_own(case: dict[str, Any], pods: Pods) -> None:
    run(case, pod_for(case, pods), bytewise=True)


def test_headers_that_stay_incomplete_are_refused_when_their_time_is_over(pods: Pods) -> None:
    """They are waited for in silence; the application sees none of them, and no half-open connection is left."""
    pod = pod_for(INCOMPLETE[0], pods, **SHORT)
    before, started = pod.accepted(), time.monotonic()
    clients = [pod.connect() for _ in INCOMPLETE]
    for client, case in zip(clients, INCOMPLETE, strict=True):
        send(client, case, bytewise=False)
    for client, case in zip(clients, INCOMPLETE, strict=True):
        seen = client.seen()
        assert (seen.peer, seen.end) == (None, "reset"), case["name"]
        client.sock.close()
    assert time.monotonic() - started > SHORT["header_timeout_ms"] / 1000
    assert (pod.accepted(), pod.half_open()) == (before, 0)
