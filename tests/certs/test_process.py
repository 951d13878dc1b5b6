"""Parts of the process that need no API server: the watch's way on, pauses, pages, the command line."""

import json
import logging
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpx
import pytest

from srcip_certs import __main__, injection, logs, run, server
from srcip_certs.watch import watch
from srcip_kube.client import ApiError
from srcip_webhook.mutate import consider
from srcip_webhook.settings import Settings

Json = dict[str, Any]


def configuration(version: int) -> Json:
    return {"metadata": {"name": "srcip", "resourceVersion": str(version)}}


class Streams:
    """An API server as one watch sees it: a list at version 5, then each stream in turn."""

    def __init__(self, *streams: list[Json] | ApiError) -> None:
        self.streams = list(streams)
        self.asked: list[str] = []
        self.got: list[Json | None] = []

    def get(self, path: str, **query: str) -> Json:
        assert query == {"fieldSelector": "metadata.name=srcip"}
        self.asked.append("list")
        return {"metadata": {"resourceVersion": "5"}, "items": [configuration(4)]}

    def watch(self, path: str, query: Mapping[str, str], idle_s: float) -> Iterator[Json]:
        assert query["fieldSelector"] == "metadata.name=srcip"
        self.asked.append(query["resourceVersion"])
        stream = self.streams.pop(0)
        if isinstance(stream, ApiError):
            raise stream
        return iter(stream)

    def follow(self, times: int) -> None:
        watching = watch(self, "srcip", self.got.append, lambda: None)  # type: ignore[arg-type]
        for _ in range(times):
            try:
                watching.follow()
            except ApiError as error:
                self.asked.append(f"failed {error.status}")


def event(kind: str, version: int) -> Json:
    return {"type": kind, "object": configuration(version)}


def gone() -> ApiError:
    return ApiError("watch", "p", 410, "too old resource version")


def test_a_stream_goes_on_where_the_last_one_ended() -> None:
    """A bookmark counts too, and wakes nobody."""
    streams = Streams([event("MODIFIED", 7), event("BOOKMARK", 9)], [event("DELETED", 12)], [])
    streams.follow(3)
    assert streams.asked == ["list", "5", "9", "12"]
    assert streams.got == [configuration(4), configuration(7), None]


@pytest.mark.parametrize(
    "stream", [gone(), [{"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old"}}]]
)
def test_a_version_that_is_gone_starts_from_the_present_state(stream: list[Json] | ApiError) -> None:
    """Whether the answer or an event in the stream says so: no fault, and no state is missed."""
    streams = Streams([event("MODIFIED", 7)], stream, [event("MODIFIED", 8)])
    streams.follow(3)
    assert streams.asked == ["list", "5", "7", "list", "5"]
    assert streams.got == [configuration(4), configuration(7), configuration(4), configuration(8)]


def test_another_error_is_told_and_the_stream_goes_on() -> None:
    streams = Streams([event("MODIFIED", 7)], ApiError("watch", "p", 0, "refused"), [])
    streams.follow(3)
    assert streams.asked == ["list", "5", "7", "failed 0", "7"]


def test_pauses_grow_from_short_to_the_interval() -> None:
    assert run.pause(10, 0) == 10
    pauses = [run.pause(10, tries) for tries in range(1, 9)]
    assert 0.15 < pauses[0] < 0.25
    assert all(0.15 < each <= 10 for each in pauses)
    assert pauses[-1] == run.pause(10, 10_000) == 10


@pytest.mark.parametrize(
    ("error", "conflict"),
    [
        (ApiError("update", "p", 409, "modified"), True),
        (ApiError("patch", "p", 422, "the server rejected our request due to an error: test failed"), True),
        (ApiError("update", "p", 422, "field is immutable: failed"), False),
        (ApiError("patch", "p", 403, "forbidden"), False),
        (ApiError("update", "p", 404, "not found"), True),
        (ApiError("create", "p", 404, "the namespace is not there"), False),
    ],
)
def test_a_conflict_is_told_from_a_refusal(error: ApiError, conflict: bool) -> None:
    assert error.conflict is conflict


# HTTP


@pytest.fixture
def base() -> Iterator[str]:
    pages: dict[str, Callable[[], server.Answer]] = {
        "/healthz": lambda: server.plain(503, "hangs\n"),
        "/status": lambda: server.as_json({"a": "ä"}),
    }
    running = server.Server(0, pages)
    yield f"http://localhost:{running.start()}"
    running.shutdown()
    running.server_close()


def test_pages_are_served_and_others_are_not(base: str) -> None:
    assert httpx.get(f"{base}/status?x=1").json() == {"a": "ä"}
    hangs = httpx.get(f"{base}/healthz")
    assert (hangs.status_code, hangs.text) == (503, "hangs\n")
    assert httpx.get(f"{base}/secret").status_code == 404


def test_both_ip_versions_are_served(base: str) -> None:
    """Where the machine has both."""
    for address in ("127.0.0.1", *(["[::1]"] if socket.has_dualstack_ipv6() else [])):
        assert httpx.get(base.replace("localhost", address) + "/status").status_code == 200


# the command line


def test_settings_that_are_missing_are_all_told(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Exit code 2; the default command is `run`."""
    for name in ("NAMESPACE", "SECRET", "SERVICE", "WEBHOOK_CONFIGURATION"):
        monkeypatch.delenv(f"SRCIP_CERTS_{name}", raising=False)
    assert __main__.main([]) == 2
    told = capsys.readouterr().err
    assert told.count(": missing.") == 4


def test_without_any_credentials_a_command_says_so(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Neither in a Pod nor with KUBECONFIG."""
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SRCIP_CERTS_WEBHOOK_CONFIGURATION", "srcip")
    assert __main__.main(["remove-webhook"]) == 1
    assert "Service host/port is not set" in capsys.readouterr().err


def test_importing_the_package_does_not_import_the_client() -> None:
    """It costs a quarter of a second; `srcip_kube.client` alone brings it, when a client is made."""
    code = "import sys, srcip_certs.__main__, srcip_certs.run; print('kubernetes' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# the test of an injection


def test_the_pod_that_tests_injection_is_one_that_the_webhook_injects() -> None:
    """With nothing but trusted networks set, and what is looked for is what the webhook adds."""
    settings = Settings(proxy_image="srcip/proxy", trusted_cidrs=("192.0.2.0/24",))
    outcome = consider(injection.pod(), settings)
    assert outcome.verb == "inject", outcome.messages
    assert injection.missing(outcome.after, "apps") == ""
    told = injection.missing(injection.pod(), "apps")
    assert "without srcip-init and srcip-proxy" in told and "namespace apps" in told


def test_a_log_line_is_one_json_object() -> None:
    record = logging.LogRecord("x", logging.WARNING, "f", 1, "caBundle\nrepaired", (), None)
    record.fields = {"missing": ["a"]}
    line = logs.JsonFormatter("pod-1").format(record)
    assert "\n" not in line
    parsed = json.loads(line)
    assert (parsed["event"], parsed["pod"], parsed["missing"]) == ("caBundle\nrepaired", "pod-1", ["a"])
