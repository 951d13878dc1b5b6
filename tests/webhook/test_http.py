"""Whatever is sent to the endpoint, it answers with a 4xx and a reason or with a review; never with a 5xx."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Message

from srcip_webhook.app import create_app
from srcip_webhook.metrics import Metrics
from srcip_webhook.settings import Settings
from support.reviews import HEADERS, SETTINGS, body, pod, post, review

SMALL = Settings(proxy_image="x", max_body_bytes=64 * 1024)
HASTY = replace(SMALL, request_timeout_ms=200)
APP = create_app(SETTINGS)
junk = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
)


def error(response: Any) -> str:
    text: str = response.json()["error"]
    return text


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "EOF"),
        (b"{", "EOF"),
        (body(pod())[:-40], "EOF"),
        (b"\xff\xfe", "expected value"),
        (b"[]", "object"),
        (b"null", "object"),
        (b"[" * 200_000, "recursion"),
        (b'{"a":' * 100_000, "recursion"),
        (json.dumps({**review(pod()), "kind": "PodList"}).encode(), "kind"),
        (json.dumps({**review(pod()), "apiVersion": "admission.k8s.io/v1beta1"}).encode(), "apiVersion"),
        (body("a Pod"), "request.object"),
        (body(pod(), uid=""), "request.uid"),
        (body(pod(), operation="PATCH"), "request.operation"),
        (body(pod()).replace(b'"uid"', b'"\\ud800"'), "hex escape"),
    ],
)
def test_a_malformed_review_is_a_400_with_the_reason(content: bytes, why: str) -> None:
    response = post(APP, content)
    assert response.status_code == 400
    assert why in error(response)


def test_every_fault_of_an_envelope_is_told() -> None:
    text = error(post(APP, b'{"request": {"kind": 1}}'))
    assert all(name in text for name in ("apiVersion", "kind", "request.uid", "request.kind", "request.operation"))


@pytest.mark.parametrize(
    "headers",
    [{}, {"content-type": "text/plain"}, {"content-type": "application/yaml"}, {**HEADERS, "content-encoding": "gzip"}],
)
def test_another_content_type_is_a_415(headers: dict[str, str]) -> None:
    assert post(APP, body(pod()), headers).status_code == 415


@pytest.mark.parametrize("value", ["application/json; charset=utf-8", "Application/JSON"])
def test_json_is_json_with_parameters_too(value: str) -> None:
    assert post(APP, body(pod()), {"content-type": value}).status_code == 200


def test_a_review_of_three_megabytes_is_answered() -> None:
    """The API server takes objects of up to 3 MiB."""
    big = pod({"example.org/big": "x" * 3 * 1024 * 1024})
    response = post(APP, body(big))
    assert response.status_code == 200
    assert response.json()["response"]["patchType"] == "JSONPatch"
    assert len(response.content) < 10_000


def test_a_body_over_the_limit_is_a_413_before_it_is_read() -> None:
    response = post(create_app(SMALL), b"x" * (64 * 1024 + 1))
    assert response.status_code == 413
    assert "65536 bytes" in error(response)
    assert response.headers["connection"] == "close"


def ask(app: Any, messages: list[Message]) -> int:
    """Send these ASGI messages, then nothing more, and give the status of the answer."""
    statuses: list[int] = []

    async def receive() -> Message:
        return messages.pop(0) if messages else await asyncio.Event().wait() or {}

    async def send(message: Message) -> None:
        statuses.extend([message["status"]] if "status" in message else [])

    scope = {"type": "http", "method": "POST", "path": "/mutate", "query_string": b"", "http_version": "1.1"}
    headers = [(b"content-type", b"application/json")]
    asyncio.run(app({**scope, "headers": headers, "scheme": "https", "server": None, "client": None}, receive, send))
    return statuses[0]


def test_a_body_without_a_length_is_cut_off_at_the_limit() -> None:
    chunks = [{"type": "http.request", "body": b"x" * 40_000, "more_body": True} for _ in range(3)]
    assert ask(create_app(SMALL), chunks) == 413


def test_a_body_that_stops_is_a_408() -> None:
    assert ask(create_app(HASTY), [{"type": "http.request", "body": b"{", "more_body": True}]) == 408


def test_a_client_that_goes_away_leaves_no_trace_but_a_400() -> None:
    assert ask(create_app(SMALL), [{"type": "http.disconnect"}]) == 400


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/mutate", 405), ("POST", "/", 404), ("GET", "/openapi.json", 404)]
)
def test_other_paths_and_methods_do_not_exist(method: str, path: str, status: int) -> None:
    assert post(APP, b"", path=path, method=method).status_code == status


@given(st.binary(max_size=400))
def test_random_bytes_are_a_400(content: bytes) -> None:
    assert post(APP, content).status_code == 400


@given(junk)
def test_random_json_is_a_400(value: Any) -> None:
    assert post(APP, json.dumps(value).encode()).status_code == 400


@given(st.dictionaries(st.sampled_from(sorted(review({})["request"])), junk), junk)
@settings(max_examples=200)
def test_a_review_with_junk_in_it_is_answered_or_a_400(change: dict[str, Any], thing: Any) -> None:
    response = post(APP, json.dumps(review(thing, **{k: v for k, v in change.items() if k != "operation"})).encode())
    assert response.status_code in (200, 400)
    if response.status_code == 200:
        assert response.json()["kind"] == "AdmissionReview"


@given(st.dictionaries(st.text(max_size=20).map(lambda s: "srcip.io/" + s), st.text(max_size=20)), junk, junk)
def test_a_pod_with_junk_in_it_is_answered(annotations: dict[str, str], spec: Any, labels: Any) -> None:
    thing = {"metadata": {"annotations": {"srcip.io/mode": "tproxy", **annotations}, "labels": labels}, "spec": spec}
    assert post(APP, body(thing)).status_code == 200


def test_decisions_and_rejections_are_counted() -> None:
    metrics = Metrics()
    app = create_app(SETTINGS, metrics)
    for content in (
        body(pod()),
        body(pod()),
        body(pod({"srcip.io/mode": "x"})),
        body(pod({"srcip.io/mode": None})),
        b"{",
    ):
        post(app, content)
    text = post(app, b"", path="/metrics", method="GET").text
    assert 'srcip_webhook_decisions_total{decision="inject",reason="requested"} 2' in text
    assert 'srcip_webhook_decisions_total{decision="refuse",reason="invalid-annotation"} 1' in text
    assert 'srcip_webhook_decisions_total{decision="skip",reason="not-requested"} 1' in text
    assert 'srcip_webhook_rejected_requests_total{code="400"} 1' in text
    assert 'srcip_webhook_review_seconds_bucket{le="+Inf"} 4' in text
    assert "srcip_webhook_review_seconds_count 4" in text


def test_ready_tells_why_not() -> None:
    app = create_app(SETTINGS, not_ready=lambda: "no certificate")
    response = post(app, b"", path="/readyz", method="GET")
    assert (response.status_code, response.text) == (503, "no certificate\n")
    assert post(app, b"", path="/healthz", method="GET").status_code == 200


def test_a_decision_is_one_log_line_without_the_pod(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        post(APP, body(pod({"srcip.io/mode": "x\ny", "example.org/secret": "hidden"})))
    (record,) = [record for record in caplog.records if record.getMessage() == "decision"]
    fields: dict[str, Any] = record.__dict__["fields"]
    assert (fields["decision"], fields["reason"], fields["pod"]) == ("refuse", "invalid-annotation", "web")
    assert "hidden" not in json.dumps(fields)
    assert "\n" not in fields["errors"][0]
