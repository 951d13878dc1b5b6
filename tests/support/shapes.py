"""Reviews of many shapes, each as large as wanted."""

from collections.abc import Callable
from typing import Any

from support.reviews import body, pod

P = "srcip.io/"
TPROXY, REDIRECT = {P + "mode": "tproxy"}, {P + "mode": "redirect"}
REQUEST_BYTES = 3 * 1024 * 1024
"""The longest object that the API server takes."""


def ports(number: int, name: str = "") -> list[dict[str, Any]]:
    """Every other port from 16000 on, or from 1 where these are not enough: none is the sidecar's own."""
    first = 16000 if number <= 20000 else 1
    named = (lambda i: {"name": f"{name}-{i}"[:15]}) if name else lambda _: {}
    numbers = [n for n in range(first, 65536, 2) if not 15300 <= n < 15330][:number]
    return [{"containerPort": n, **named(n)} for n in numbers]


def listed(number: int, first: int = 1) -> str:
    return ",".join(str(first + 2 * i) for i in range(number))


def nested(depth: int) -> Any:
    """Objects in each other, in a field that nobody looks at."""
    made: Any = {}
    for _ in range(depth):
        made = {"a": made}
    return made


SHAPES: dict[str, Callable[[int], dict[str, Any]]] = {
    "declared ports": lambda n: pod(TPROXY, containers=[{"name": "a", "ports": ports(n)}]),
    "HTTP ports": lambda n: pod(REDIRECT, containers=[{"name": "a", "ports": ports(n, "http")}]),
    "inbound-ports": lambda n: pod(
        {**TPROXY, P + "inbound-ports": listed(n, 2)}, containers=[{"name": "a", "ports": ports(n)}]
    ),
    "http-ports": lambda n: pod(
        {**REDIRECT, P + "http-ports": listed(n, 2)}, containers=[{"name": "a", "ports": ports(n)}]
    ),
    "exclude-inbound-ports": lambda n: pod(
        {**TPROXY, P + "exclude-inbound-ports": listed(n)}, containers=[{"name": "a", "ports": ports(n)}]
    ),
    "ports of a mesh": lambda n: pod(
        TPROXY, containers=[{"name": "istio-proxy", "ports": ports(n)}, {"name": "a", "ports": ports(n, "b")}]
    ),
    "containers": lambda n: pod(
        TPROXY, containers=[{"name": f"c{i}", "ports": [port]} for i, port in enumerate(ports(n))]
    ),
    "probes": lambda n: pod(
        TPROXY,
        containers=[
            {"name": f"c{i}", "ports": [port], "readinessProbe": {"httpGet": {"port": port["containerPort"]}}}
            for i, port in enumerate(ports(n))
        ],
    ),
    "volumes": lambda n: pod(TPROXY, volumes=[{"name": f"v{i}", "emptyDir": {}} for i in range(n)]),
    "annotations": lambda n: pod({**TPROXY, **{f"example.org/{i}": "x" for i in range(n)}}),
    "unknown annotations": lambda n: pod({**TPROXY, **{f"{P}{i}": "x" for i in range(n)}}),
    "trusted-cidrs": lambda n: pod(
        {**TPROXY, P + "trusted-cidrs": ",".join(f"10.{i >> 8}.{i & 255}.0/24" for i in range(n))}
    ),
    "outbound-headers": lambda n: pod(
        {**REDIRECT, P + "outbound-ports": "80", P + "outbound-headers": "\n".join(f"X-{i}: {i}" for i in range(n))}
    ),
    "names of srcip": lambda n: pod(TPROXY, containers=[{"name": "srcip-proxy"} for _ in range(n)]),
    "deep nesting": lambda n: pod(TPROXY, affinity=[nested(100) for _ in range(n // 100)]),
    "a long string": lambda n: pod({**TPROXY, "example.org/x": "\N{SNOWMAN}" * (16 * n)}),
    "long values": lambda n: pod({P + name: "9-" * (16 * n) for name in ("mode", "trusted-cidrs", "inbound-ports")}),
    "long names": lambda n: pod(TPROXY, containers=[{"name": "x" * (16 * n), "ports": ports(2, "y" * (16 * n))}]),
    "wrong types": lambda n: pod(TPROXY, containers=[{"name": 1, "ports": [{"containerPort": "x"}]} for _ in range(n)]),
}


def largest(name: str, limit: int = REQUEST_BYTES) -> bytes:
    """The largest review of this shape: of so many bytes, or with as many different ports as there are."""
    whole = len(body(SHAPES[name](2000)))
    return body(SHAPES[name](2000 * limit // whole))
