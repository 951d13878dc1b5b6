"""Each kind of value takes what it says it allows and nothing else."""

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srcip_proxy.plan import PortRange
from srcip_webhook.port_values import PortList
from srcip_webhook.quantities import CPU, MEMORY, MEMORY_LIMIT, amount
from srcip_webhook.values import (
    BadValue,
    Duration,
    Flag,
    Kind,
    NetworkList,
    Number,
    Versions,
    Word,
    duration_text,
)

MS = Duration(100, 60_000)
S = Duration(0, 86_400, unit_ms=1000)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (MS, "500ms", 500),
        (MS, "5s", 5000),
        (MS, "1m", 60_000),
        (MS, "0.1s", 100),
        (MS, "1.5s", 1500),
        (S, "1h30m", 5400),
        (S, "0s", 0),
        (S, "1000ms", 1),
        (Flag(), "true", True),
        (Flag(), "false", False),
        (Versions(), "1,2", (1, 2)),
        (Number(0, 9), "007", 7),
        (Word(("a",)), "a", "a"),
        (PortList(), " 80 , 8000-8010,http", (PortRange(80, 80), PortRange(8000, 8010), "http")),
        (NetworkList(), "192.0.2.1", ("192.0.2.1/32",)),
        (NetworkList(), "2001:DB8::/32,192.0.2.0/24", ("192.0.2.0/24", "2001:db8::/32")),
        (NetworkList(), "10.0.0.0/9,\n10.128.0.0/9,10.1.0.0/16", ("10.0.0.0/8",)),
        (CPU, "1.5", "1.5"),
        (MEMORY, "100M", "100M"),
    ],
)
def test_an_allowed_text_is_read(kind: Kind, text: str, value: Any) -> None:
    assert kind.parse(text) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        *(
            (MS, text)
            for text in ("5", "", "5 s", "-5s", "+5s", "5S", "1e3ms", "99ms", "61s", "0.5ms", "\u0665s", "5s\n", "1d")
        ),
        *((S, text) for text in ("1500ms", "25h", "0.5s")),
        *((Flag(), text) for text in ("True", "1", "yes", "", " true", "true\n")),
        *((Number(1, 9), text) for text in ("0", "10", "-1", "1.0", "\u0663", "1_0", "", "1" * 5000)),
        *((Versions(), text) for text in ("", "3", "2,1", "1,1", "1, 2")),
        *(
            (PortList(), text)
            for text in ("", ",", "80,", "0", "70000", "80-79", "80-", "http_", "HTTP", "-a", "a--b", "a" * 16)
        ),
        *((PortList(), text) for text in ("\u0668\u0660", "80;", "1.5", "0_50", "+80", "80\x0080", "1," * 256 + "1")),
        *(
            (NetworkList(), text)
            for text in ("", ",", "10.0.0.1/8", "10.0.0.0/33", "10.0.0", "10.0.0.0/255.0.0.0", "fe80::%1/64")
        ),
        *(
            (NetworkList(), text)
            for text in ("::ffff:10.0.0.0/104", "010.0.0.0/8", "10.0.0.0/8}", "example.org", "1" * 50)
        ),
        *((CPU, text) for text in ("", "-1", "1e3", "0", "65", "1Ki", "1 ", "0.0001", "1u", ".5", "½")),
        *((MEMORY, text) for text in ("64m", "0", "1", "65Gi", "1Ei")),
        (MEMORY_LIMIT, "31Mi"),
    ],
)
def test_any_other_text_is_refused(kind: Kind, text: str) -> None:
    with pytest.raises(BadValue):
        kind.parse(text)


def test_every_bad_item_of_a_list_is_told() -> None:
    with pytest.raises(BadValue) as error:
        NetworkList().parse("10.0.0.1/8,192.0.2.0/24,nonsense")
    assert len(error.value.faults) == 2
    assert "10.0.0.0/8" in error.value.faults[0]


def test_very_many_bad_items_are_counted_not_listed() -> None:
    with pytest.raises(BadValue) as error:
        NetworkList().parse(",".join(["x"] * 1000))
    assert error.value.faults[-1] == "and 990 more"
    assert len(error.value.faults) == 11


def own_family(network: Any) -> bool:
    """IPv4 in IPv6 form is refused, with a test of its own."""
    return not (network.version == 6 and network.network_address.ipv4_mapped)


@given(st.lists(st.ip_addresses().map(ipaddress.ip_network).filter(own_family), min_size=1, max_size=20))
def test_networks_are_canonical_disjoint_and_lose_no_address(networks: list[Any]) -> None:
    read = [ipaddress.ip_network(text) for text in NetworkList().parse(",".join(map(str, networks)))]
    assert all(any(n.version == r.version and n.subnet_of(r) for r in read) for n in networks)
    assert not any(a.overlaps(b) for i, a in enumerate(read) for b in read[:i])
    assert sum(r.num_addresses for r in read) == len(set(networks))


@given(st.integers(100, 60_000))
def test_a_duration_is_read_back_from_its_text(milliseconds: int) -> None:
    assert MS.parse(duration_text(milliseconds)) == milliseconds


def test_quantities_are_compared_by_what_they_mean() -> None:
    assert amount("1000m") == amount("1")
    assert amount("1Gi") == amount("1024Mi")
    assert amount("1G") < amount("1Gi")
