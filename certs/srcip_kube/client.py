"""The Kubernetes API: paths and dicts in, dicts out. The only module that imports `kubernetes`, and only when used:
that costs 0.25 s and 30 MiB.

Only the client's transport is used (connection pool, TLS, credentials): its typed models would drop what they do not
know. Each call has a timeout and is tried once; whoever calls decides what to do next.
"""

from __future__ import annotations

import json
import os
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

if TYPE_CHECKING:
    from kubernetes.client import ApiClient, Configuration

Json = dict[str, Any]

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
METHODS = {"get": "GET", "watch": "GET", "create": "POST", "update": "PUT", "patch": "PATCH", "delete": "DELETE"}
JSON_PATCH, MERGE_PATCH = "application/json-patch+json", "application/merge-patch+json"
LONGEST_EVENT = 16 * 1024 * 1024


class ApiError(Exception):
    """A call that did not succeed."""

    def __init__(self, verb: str, path: str, status: int, message: str) -> None:
        self.verb, self.path, self.status = verb, path, status
        self.message = message
        super().__init__(f"{verb} {path}: {status or 'no answer'}: {message}")

    @property
    def unreachable(self) -> bool:
        """Whether there was no answer at all."""
        return self.status == 0

    @property
    def conflict(self) -> bool:
        """Whether somebody else was faster: it is there already, changed (a patch's test failed: 422) or gone."""
        test_failed = self.status == 422 and self.verb == "patch" and "failed" in self.message
        gone = self.status == 404 and self.verb in ("update", "patch")
        return self.status == 409 or test_failed or gone


@dataclass(frozen=True)
class Request:
    """One call, before it has credentials."""

    verb: str
    path: str
    body: Json | list[Json] | None = None
    query: Mapping[str, str] = field(default_factory=dict)
    kind: str = "application/json"
    """The body's content type."""

    @property
    def target(self) -> str:
        return f"{self.path}?{urlencode(self.query)}" if self.query else self.path


class Kube:
    """A client of the API server. One for each thread."""

    def __init__(
        self, name: str, timeout_s: float, heard: Callable[[float, float, float], object] | None = None
    ) -> None:
        """`name` is the program's: its user agent, and the manager of the fields that it writes. `heard` gets the Date
        of each answer, and the CLOCK_BOOTTIME when it was asked for and when it came."""
        _transport_errors()  # threads that import the client at the same time wait for each other for ever
        self._name, self._timeout_s = name, timeout_s
        self._heard = heard
        self._made: ApiClient | None = None

    def get(self, path: str, **query: str) -> Json:
        return self._call(Request("get", path, None, query))

    def find(self, path: str) -> Json | None:
        """The object, or None if there is none."""
        try:
            return self.get(path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def create(self, path: str, body: Json, **query: str) -> Json:
        return self._call(Request("create", path, body, {"fieldManager": self._name, **query}))

    def update(self, path: str, body: Json) -> Json:
        return self._call(Request("update", path, body, {"fieldManager": self._name}))

    def patch(self, path: str, body: Json | list[Json], content_type: str = JSON_PATCH) -> Json:
        return self._call(Request("patch", path, body, {"fieldManager": self._name}, content_type))

    def delete(self, path: str) -> None:
        self._call(Request("delete", path))

    def watch(self, path: str, query: Mapping[str, str], idle_s: float) -> Iterator[Json]:
        """Open a stream of events, until the server ends it or says nothing for `idle_s`. Raises ApiError."""
        return self._events(path, self._send(Request("watch", path, None, {**query, "watch": "true"}), idle_s))

    def _events(self, path: str, started: Any) -> Iterator[Json]:
        try:
            buffer = b""
            for piece in started.response.stream(65536):
                *lines, buffer = (buffer + piece).split(b"\n")
                yield from (json.loads(line) for line in lines if line.strip())
                if len(buffer) > LONGEST_EVENT:
                    raise ValueError("an event has no end")
        except _transport_errors() as error:
            raise ApiError("watch", path, 0, _text(error)) from None
        finally:
            started.response.close()

    def _call(self, request: Request) -> Json:
        answer = self._send(request, self._timeout_s)
        try:
            parsed = json.loads(answer.read())
        except _transport_errors() as error:
            raise ApiError(request.verb, request.path, 0, _text(error)) from None
        if not isinstance(parsed, dict):
            raise ApiError(request.verb, request.path, 0, "the answer is not an object")
        return parsed

    def _send(self, request: Request, read_s: float) -> Any:
        """An answer that has begun and says success; its body is not read yet. Raises ApiError."""
        try:
            client = self._client()
            headers = {"Content-Type": request.kind, "Accept": "application/json"}
            serialized = client.param_serialize(
                METHODS[request.verb],
                request.target,
                query_params=[],
                header_params=headers,
                body=request.body,
                auth_settings=["BearerToken"],
            )
            sent = time.clock_gettime(time.CLOCK_BOOTTIME)
            answer = client.call_api(*serialized, _request_timeout=(min(3.0, self._timeout_s), read_s))
        except _transport_errors() as error:
            raise ApiError(request.verb, request.path, 0, _text(error)) from None
        self._note_date(answer.headers.get("Date"), sent)
        if answer.status >= 300:
            raise ApiError(request.verb, request.path, answer.status, _message(answer))
        return answer

    def _note_date(self, text: str | None, sent: float) -> None:
        if self._heard and text:
            try:
                date = parsedate_to_datetime(text).timestamp()
            except ValueError:
                return
            self._heard(date, sent, time.clock_gettime(time.CLOCK_BOOTTIME))

    def _client(self) -> ApiClient:
        if self._made is None:
            from kubernetes.client import ApiClient  # noqa: PLC0415

            self._made = ApiClient(_configuration())
            self._made.user_agent = self._name
            self._made.rest_client.pool_manager.connection_pool_kw["ssl_context"] = _tls()
        return self._made


def _tls() -> ssl.SSLContext:
    """Verifies as Go's clients do. Since Python 3.13 the default is RFC 5280 to the letter, and many clusters have an
    authority without key identifiers (https://docs.python.org/3/library/ssl.html#ssl.VERIFY_X509_STRICT)."""
    from urllib3.util import create_urllib3_context  # noqa: PLC0415

    context = create_urllib3_context()
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def _configuration() -> Configuration:
    """From KUBECONFIG if that is set, else from the service account's files. Raises OSError, ConfigException."""
    from kubernetes import config  # noqa: PLC0415
    from kubernetes.client import Configuration  # noqa: PLC0415

    found = Configuration()
    found.retries = False
    if os.environ.get("KUBECONFIG"):
        config.load_kube_config(client_configuration=found)  # type: ignore[no-untyped-call]
        return found
    config.load_incluster_config(found, try_refresh_token=False)  # type: ignore[no-untyped-call]
    found.refresh_api_key_hook = _fresh_token  # type: ignore[assignment]
    return found


def _fresh_token(configuration: Configuration) -> None:
    """kubelet renews the token's file; reading it each time needs no clock."""
    token = (ACCOUNT / "token").read_text().strip()
    configuration.api_key["BearerToken"] = f"Bearer {token}"


@lru_cache
def _transport_errors() -> tuple[type[Exception], ...]:
    """What the transport raises, and what comes of answers that are no JSON."""
    from kubernetes.client import ApiClient  # noqa: F401, PLC0415  it comes late otherwise
    from kubernetes.client.exceptions import OpenApiException  # noqa: PLC0415
    from kubernetes.config import ConfigException  # noqa: PLC0415
    from urllib3.exceptions import HTTPError  # noqa: PLC0415

    return (OSError, HTTPError, OpenApiException, ConfigException, ValueError)


def _text(error: Exception) -> str:
    text = getattr(error, "reason", None) or error
    return f"{type(error).__name__}: {text}"[:500]


def _message(answer: Any) -> str:
    """What a Status object says, or the reason of the HTTP status."""
    try:
        parsed = json.loads(answer.read())
    except _transport_errors():
        parsed = None
    found = parsed.get("message") if isinstance(parsed, dict) else None
    return str(found or answer.reason)[:500]
