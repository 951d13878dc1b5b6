"""What the operator decides for the whole cluster: read once from the environment, checked, then immutable.

There is no default that trusts anybody. Every fault is told at once (SettingsError).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from srcip_webhook import __version__
from srcip_webhook.quantities import CPU, MEMORY, MEMORY_LIMIT, amount
from srcip_webhook.values import BadValue, Duration, Flag, Kind, NetworkList, Number, Word, everyone

PREFIX = "SRCIP_"
PULL_POLICIES = ("Always", "IfNotPresent", "Never")


class SettingsError(ValueError):
    """The environment holds settings that are missing or wrong; `faults` names every one."""

    def __init__(self, faults: list[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(faults))


@dataclass(frozen=True)
class Text:
    """A non-empty text that matches a pattern."""

    allowed: str
    pattern: str

    @property
    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": f"^{self.pattern}$"}

    def parse(self, text: str) -> str:
        if not re.fullmatch(self.pattern, text, re.ASCII):
            raise BadValue([f"{text[:200]!r} is not allowed"])
        return text


_IMAGE = Text(
    f"an image reference such as registry.example/srcip-proxy:{__version__}",
    r"[a-zA-Z0-9][a-zA-Z0-9._:/-]{0,254}(@sha256:[0-9a-f]{64})?",
)
_PATH = Text("the absolute path of a file", r"/[^\x00\n]{1,4095}")
_ADDRESS = Text("an IP address to listen on, or nothing for all", r"[0-9a-fA-F.:]{0,45}")


def _setting(kind: Kind, default: Any, doc: str) -> Any:
    return field(default=default, metadata={"kind": kind, "doc": doc})


@dataclass(frozen=True)
class Settings:
    """The webhook's settings; `variable` names the environment variable of each."""

    proxy_image: str = field(metadata={"kind": _IMAGE, "doc": "The image of the init container and the sidecar."})
    proxy_image_pull_policy: str = _setting(Word(PULL_POLICIES), "IfNotPresent", "How kubelet pulls it.")
    trusted_cidrs: tuple[str, ...] = _setting(NetworkList(), (), "Load balancers trusted by Pods that name none.")
    proxy_cpu: str = _setting(CPU, "10m", "CPU request of the sidecar.")
    proxy_memory: str = _setting(MEMORY, "32Mi", "Memory request of the sidecar.")
    proxy_cpu_limit: str | None = _setting(CPU, None, "CPU limit of the sidecar; none if empty.")
    proxy_memory_limit: str | None = _setting(MEMORY_LIMIT, None, "Memory limit of the sidecar; none if empty.")
    agent: bool = _setting(
        Flag(),
        False,
        "Whether an agent runs on the nodes: Pods in mode ebpf that say nothing else leave the work to it.",
    )
    listen_address: str = _setting(_ADDRESS, "", "Where the webhook listens; all addresses if empty.")
    listen_port: int = _setting(Number(0, 65535), 8443, "The port it listens on; 0 takes a free one.")
    tls_cert_file: str = _setting(_PATH, "/etc/srcip/tls/tls.crt", "Certificate chain, PEM.")
    tls_key_file: str = _setting(_PATH, "/etc/srcip/tls/tls.key", "Its private key, PEM.")
    max_body_bytes: int = _setting(
        Number(64 * 1024, 256 * 1024 * 1024, "bytes"),
        8 * 1024 * 1024,
        "Longest accepted request. An API server's object is at most 3 MiB, and an update holds two.",
    )
    request_timeout_ms: int = _setting(
        Duration(100, 60_000), 10_000, "How long a client may take for its headers, and again for its body."
    )
    drain_timeout_s: int = _setting(
        Duration(0, 600, unit_ms=1000), 20, "How long open requests may go on after SIGTERM."
    )
    log_level: str = _setting(Word(("debug", "info", "warning", "error")), "info", "Least severe log line.")

    def __post_init__(self) -> None:
        if faults := _faults(self):
            raise SettingsError(faults)


def variable(name: str) -> str:
    """The environment variable of a field; a duration brings its own unit."""
    return PREFIX + name.upper().removesuffix("_MS").removesuffix("_S")


def from_environ(environ: Mapping[str, str]) -> Settings:
    """The settings in these variables; empty ones count as absent. Raises SettingsError with every fault."""
    values: dict[str, Any] = {}
    faults = []
    for item in fields(Settings):
        key = variable(item.name)
        kind: Kind = item.metadata["kind"]
        if text := environ.get(key, ""):
            try:
                values[item.name] = kind.parse(text)
            except BadValue as error:
                faults.append(f"{key}: {'; '.join(error.faults)}. Allowed: {kind.allowed}")
    if not environ.get(PREFIX + "PROXY_IMAGE"):
        faults.append(f"{PREFIX}PROXY_IMAGE: missing. Allowed: {_IMAGE.allowed}")
    values.setdefault("proxy_image", "missing")
    try:
        settings = Settings(**values)
    except SettingsError as error:
        faults += error.faults
    if faults:
        raise SettingsError(faults)
    return settings


def _faults(settings: Settings) -> list[str]:
    """What no single value can tell."""
    faults = [
        f"{PREFIX}TRUSTED_CIDRS: {cidr} lets any source claim any client address. "
        "Only a Pod can allow that (srcip.io/trust-any-source)"
        for cidr in everyone(settings.trusted_cidrs)
    ]
    for name in ("proxy_cpu", "proxy_memory"):
        request, limit = getattr(settings, name), getattr(settings, name + "_limit")
        if limit is not None and amount(request) > amount(limit):
            faults.append(f"{PREFIX}{name.upper()}: {request} is more than the limit {limit}")
    return faults
