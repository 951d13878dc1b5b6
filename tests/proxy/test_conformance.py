"""Every TCP case of the PROXY protocol collection, through real sockets against the running data plane."""

import ipaddress
import json
import time
from pathlib import Path
from typing import Any

import pytest

from support import reference
from support.rig import SHORT, Client, Rig, RigFactory, Seen, plan

pytestmark = pytest.mark.dataplane

CASES = json.loads(Path(reference.__file__).with_name("cases.json").read_text())["cases"]
TCP = [case for case in CASES if case["context"]["transport"] == "tcp"]
WHOLE = [case for case in TCP if case.get("split_at_every_byte")]
POLICY = {"require": "required", "optional": "optional"}
FIRST_USABLE_PORT = 1024
"""Below it the sidecar may not bind, so the application sees the client's address with another port."""


def rig_for(case: dict[str, Any], rigs: RigFactory) -> Rig:
    context = case["context"]
    versions = tuple(context.get("versions", (1, 2)))
    times = SHORT if waits_for_the_timeout(case) else {}
    wanted = plan(proxy_protocol=POLICY[context["mode"]], proxy_protocol_versions=versions, **times)
    return rigs(wanted, ipv6=context.get("pod_families") != ["ipv4"])


def waits_for_the_timeout(case: dict[str, Any]) -> bool:
    """What is not whole is refused then; that it comes in time is part of no other case."""
    return case["expect"] == "incomplete"


def outcome(client: Client, seen: Seen) -> str:
    """The word of the collection for what happened."""
    if seen.peer is None:
        return "reject" if seen.end == "reset" else f"no answer, {seen.end}"
    return "local" if seen.peer == client.sock.getsockname()[:2] else "accept"


def run(case: dict[str, Any], rig: Rig, *, bytewise: bool = False) -> None:
    untrusted = case["context"]["peer"] == "untrusted"
    data = bytes.fromhex(case["hex"])
    before, began = rig.accepted(), time.monotonic()
    with rig.connect(host=rig.lab.other if untrusted else rig.lab.lb) as client:
        try:
            client.send(data, bytewise=bytewise)
            if case["then"] == "fin":
                client.finish()
        except OSError:
            assert "reject" in (case["expect"], *case["also_ok"])
        if case["expect"] == "incomplete":
            return check_incomplete(client, rig, before, began)
        rest = data if untrusted else bytes.fromhex(case["rest_hex"] or "")
        seen = client.end(rest=len(rest)) if case["then"] == "fin" else client.seen(rest=len(rest))
        got = outcome(client, seen)
        if untrusted:
            assert (got, seen.rest) == ("local", data)  # native: its own address, and every byte
            return None
        assert got in allowed(case, rig), seen
        if got == "reject":
            assert rig.accepted() == before, "the application must not see a refused connection"
        else:
            check_delivered(case, seen, got, rest)
    return None


def allowed(case: dict[str, Any], rig: Rig) -> set[str]:
    """What the case expects. Without IPv6 in the Pod an IPv6 client cannot be shown: the balancer is, and logged."""
    if case["name"] == "policy_ipv6_source_ipv4_only_pod":
        assert "the application sees the balancer's address instead of client" in rig.log()
        return {"local"}
    if case["name"] == "v2_tcp4_port_zero":
        return {"accept"}
    return {case["expect"]}


def check_delivered(case: dict[str, Any], seen: Seen, got: str, rest: bytes) -> None:
    end = b"<end>" if case["then"] == "fin" else b""
    assert seen.rest == rest + end
    if got == "accept":
        address = ipaddress.ip_address(case["src"])
        address = getattr(address, "ipv4_mapped", None) or address
        assert ipaddress.ip_address(seen.peer[0]) == address
        if case["sport"] >= FIRST_USABLE_PORT:
            assert seen.peer[1] == case["sport"]


def check_incomplete(client: Client, rig: Rig, before: int, began: float) -> None:
    """It is waited for, in silence, and refused when its time is over."""
    seen = client.seen()
    assert (seen.peer, seen.end) == (None, "reset")
    assert time.monotonic() - began > 0.9 * SHORT["header_timeout_ms"] / 1000
    assert rig.accepted() == before


@pytest.mark.parametrize("case", TCP, ids=lambda case: case["name"])
def test_case(case: dict[str, Any], rigs: RigFactory) -> None:
    run(case, rig_for(case, rigs))


@pytest.mark.parametrize("case", WHOLE, ids=lambda case: case["name"])
def test_case_with_every_byte_in_a_segment_of_its_own(case: dict[str, Any], rigs: RigFactory) -> None:
    run(case, rig_for(case, rigs), bytewise=True)
