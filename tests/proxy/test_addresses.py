"""Each client of each listener is shown as docs/addresses.md says, or refused: none ends in silence."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from srcip_proxy.plan import PortRange
from support.addresses import APPS, DELIVERIES, REFUSED, Row, document, facts
from support.rig import HTTP_APP, Rig, RigFactory, plan, v2
from support.web import ask, get

DOCS = Path(__file__).parents[2] / "docs" / "addresses.md"
CLIENT_PORTS = itertools.count(20_000)
HTTP = (PortRange(7000, 7099),)


def test_the_table_is_documented(golden: Callable[[Path, str], None]) -> None:
    golden(DOCS, document())


def peer_of(rig: Rig, row: Row) -> str:
    """What the application shows of one connection."""
    try:
        seen = rig.seen(v2((row.address, next(CLIENT_PORTS))) + b"x", row.port, to=row.to)
    except ConnectionRefusedError:
        return REFUSED
    return row.word(seen.peer[0]) if seen.peer else REFUSED if seen.refused else f"nothing, and {seen.end}"


@pytest.mark.dataplane
@pytest.mark.parametrize("client_address", ["best-effort", "ip", "exact"])
@pytest.mark.parametrize("deliver_to", DELIVERIES)
def test_tproxy_mode(rigs: RigFactory, deliver_to: str, client_address: str) -> None:
    rig = rigs(plan(deliver_to=deliver_to, client_address=client_address), app=APPS)
    assert facts(lambda row: peer_of(rig, row)) == facts(lambda row: row.expected("tproxy", deliver_to, client_address))


def header_of(rig: Rig, row: Row) -> str:
    """What the headers of one request say."""
    try:
        saw = ask(rig, get(), v2((row.address, next(CLIENT_PORTS))), row.port, to=row.to)
    except ConnectionRefusedError:
        return REFUSED
    return (
        row.word(saw.written()["X-Forwarded-For"]) if saw.status == 200 else REFUSED if saw.status == 503 else repr(saw)
    )


@pytest.mark.dataplane
@pytest.mark.parametrize("deliver_to", DELIVERIES)
def test_redirect_mode(rigs: RigFactory, deliver_to: str) -> None:
    rig = rigs(plan(mode="redirect", deliver_to=deliver_to, http_ports=HTTP), app=APPS, program=HTTP_APP)
    assert facts(lambda row: header_of(rig, row)) == facts(lambda row: row.expected("redirect", deliver_to, "ip"))
