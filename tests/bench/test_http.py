"""What the benchmark takes for a proof that a relay writes headers."""

import pytest

from srcip_e2e.bench.http import expected, fault
from srcip_e2e.bench.rig import Pod, Variant

POD = Pod(3, "pod-3")
HEAD = "GET / HTTP/1.1\r\nHost: a\r\nx-forwarded-for: 198.18.0.1\r\nX-Real-IP:198.18.0.1\r\n\r\n"


def test_the_right_headers_in_any_case_are_a_proof() -> None:
    assert fault(HEAD, {"x-forwarded-for": "198.18.0.1", "x-real-ip": "198.18.0.1"}) is None


@pytest.mark.parametrize("head", ["", HEAD.replace("x-forwarded-for", "x-other"), HEAD.replace("18.0.1", "18.0.2"),
                                  HEAD.replace("Host: a", "X-Forwarded-For: 203.0.113.9")])  # fmt: skip
def test_a_header_that_is_missing_wrong_or_there_twice_is_none(head: str) -> None:
    assert "x-forwarded-for" in str(fault(head, {"x-forwarded-for": "198.18.0.1"}))


def test_inbound_the_client_that_the_balancer_claims_is_expected() -> None:
    wanted = expected(Variant("srcip", POD), 4)
    assert wanted["x-forwarded-for"] == "198.18.0.5"
    assert wanted["forwarded"] == "for=198.18.0.5;proto=http"


def test_outbound_the_address_of_the_pod_is_expected() -> None:
    assert expected(Variant("srcip", POD, proxy=False, outbound=True), 4)["x-forwarded-for"] == "10.78.3.1"
