"""The Kubernetes API as the tests speak it: JSON over kept-alive connections, one per thread, nothing in between.

Unlike a client library it shows what matters here: each status code, each warning, each lost connection.
"""

from __future__ import annotations

import base64
import http.client
import json
import re
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

Json = dict[str, Any]
IDLE_S = 60
"""A connection that was idle for longer is opened anew: the API server closes it after 90 s."""
MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"


@dataclass(frozen=True)
class Answer:
    """What the API server said."""

    code: int
    """The HTTP status."""
    body: Json
    warnings: tuple[str, ...]
    """Its Warning headers: what kubectl prints as `Warning: ...`."""

    @property
    def message(self) -> str:
        """Why it refused."""
        return str(self.body.get("message", ""))


class Refused(Exception):
    """The API server answered with an error; `answer` is all of it."""

    def __init__(self, what: str, answer: Answer) -> None:
        self.answer = answer
        super().__init__(f"{what}: {answer.code} {answer.message}")


class Api:
    """A client of one API server, as one user. Any number of threads may share it."""

    def __init__(self, kubeconfig: Path) -> None:
        config = json.loads(kubeconfig.read_text())
        self.server = config["clusters"][0]["cluster"]["server"]
        self._context = _context(config, kubeconfig.parent)
        token = config["users"][0]["user"].get("token")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._own = threading.local()

    def ask(
        self, method: str, path: str, body: Any = None, *, content: str = "application/json", timeout_s: float = 30
    ) -> Answer:
        """One request; whatever the answer is, it is returned. Raises OSError, http.client.HTTPException."""
        response = self._open(self._connection(timeout_s), method, path, body, content)
        raw = response.read()
        return Answer(response.status, _parse(raw), _warnings(response))

    def call(self, method: str, path: str, body: Any = None, *, content: str = "application/json") -> Json:
        """One request that must succeed. Raises Refused."""
        answer = self.ask(method, path, body, content=content)
        if answer.code >= 300:
            raise Refused(f"{method} {path}", answer)
        return answer.body

    def get(self, path: str, **query: str) -> Json:
        return self.call("GET", path + _query(query))

    def find(self, path: str) -> Json | None:
        """The object, or None if there is none."""
        answer = self.ask("GET", path)
        if answer.code == 404:
            return None
        if answer.code >= 300:
            raise Refused(f"GET {path}", answer)
        return answer.body

    def post(self, path: str, body: Mapping[str, Any], **query: str) -> Json:
        return self.call("POST", path + _query(query), body)

    def patch(self, path: str, body: Any, *, content: str = MERGE) -> Json:
        return self.call("PATCH", path, body, content=content)

    def delete(self, path: str, body: Mapping[str, Any] | None = None) -> None:
        """Delete it; fine if it is gone already."""
        answer = self.ask("DELETE", path, body)
        if answer.code >= 300 and answer.code != 404:
            raise Refused(f"DELETE {path}", answer)

    def text(self, path: str) -> str:
        """An answer that is not JSON, such as /metrics."""
        return self._open(self._connection(30), "GET", path, None, "").read().decode()

    @contextmanager
    def watch(self, path: str, **query: str) -> Iterator[Iterator[Json]]:
        """Events of a collection, from its present state on, until the server ends the stream."""
        connection = self._new(timeout_s=None)
        try:
            response = self._open(connection, "GET", path + _query({"watch": "true", **query}), None, "")
            yield (json.loads(line) for line in response if line.strip())
        finally:
            connection.close()

    def _connection(self, timeout_s: float) -> http.client.HTTPSConnection:
        if not hasattr(self._own, "connection"):
            self._own.connection = self._new(timeout_s)
            self._own.used = 0.0
        connection: http.client.HTTPSConnection = self._own.connection
        now = time.monotonic()
        if now - self._own.used > IDLE_S:
            connection.close()
        self._own.used = now
        connection.timeout = timeout_s
        return connection

    def _new(self, timeout_s: float | None) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(urlsplit(self.server).netloc, timeout=timeout_s, context=self._context)

    def _open(
        self, connection: http.client.HTTPSConnection, method: str, path: str, body: Any, content: str
    ) -> http.client.HTTPResponse:
        raw = None if body is None else json.dumps(body).encode()
        try:
            connection.request(method, path, raw, {**self._headers, "Content-Type": content} if raw else self._headers)
            return connection.getresponse()
        except (OSError, http.client.HTTPException):
            connection.close()  # it opens itself again at the next request
            raise


def _context(config: Json, directory: Path) -> ssl.SSLContext:
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    context = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
    if "client-certificate-data" in user:
        pair = directory / ".client.pem"
        pair.touch(mode=0o600)
        pair.write_bytes(b"".join(base64.b64decode(user[f"client-{part}-data"]) for part in ("certificate", "key")))
        context.load_cert_chain(pair)
        pair.unlink()
    return context


def _parse(raw: bytes) -> Json:
    try:
        parsed = json.loads(raw)
    except ValueError:
        return {"message": raw.decode(errors="replace")}
    return parsed if isinstance(parsed, dict) else {"message": str(parsed)}


def _warnings(response: http.client.HTTPResponse) -> tuple[str, ...]:
    """The text of each header such as `299 - "text"`."""
    texts = (value.partition('"')[2].removesuffix('"') for value in response.headers.get_all("Warning", []))
    return tuple(re.sub(r"\\(.)", r"\1", text) for text in texts)


def _query(query: Mapping[str, str]) -> str:
    return f"?{urlencode(query)}" if query else ""
