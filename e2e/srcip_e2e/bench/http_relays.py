"""What adds headers to HTTP requests, inbound and outbound: how each relay is set up in its Pod, with one thread."""

from __future__ import annotations

from collections.abc import Callable

from srcip_e2e.bench import variants
from srcip_e2e.bench.rig import HTTP_PORT, PORT, SEEN_PORT, Pod, Rig, Variant
from srcip_e2e.bench.variants import MAX_CONNECTIONS, OUTER, contained, files_of, rootfs_of_nginx, rootfs_of_srcip
from srcip_proxy.plan import UID, Plan, PortRange

SERVED = (HTTP_PORT, SEEN_PORT)
RANGES = (PortRange(HTTP_PORT, SEEN_PORT),)
OUTER_PORTS = tuple(port + OUTER - PORT for port in SERVED)
HOSTNAME = "shop-7d4b9c8f6d-x2x9k"
CUSTOM = ("X-Cluster-Name", "blue-1")

NGINX = """
daemon off;
worker_processes 1;
error_log stderr error;
pid /run/srcip/nginx.pid;
events {{ worker_connections 17000; }}
http {{
  access_log off;
  client_body_temp_path /run/srcip/body;
  proxy_temp_path /run/srcip/proxy;
  fastcgi_temp_path /run/srcip/fastcgi;
  uwsgi_temp_path /run/srcip/uwsgi;
  scgi_temp_path /run/srcip/scgi;
  keepalive_requests 1000000000;
  keepalive_timeout 1h;
  proxy_http_version 1.1;
  proxy_set_header Connection "";
  proxy_set_header Host $http_host;
{body}
}}
"""
UPSTREAM = (
    "  upstream u{port} {{ server {host}:{port}; keepalive 64; keepalive_requests 1000000000; keepalive_timeout 1h; }}"
)
INBOUND = """
  set_real_ip_from {trusted};
  real_ip_header proxy_protocol;
  map $remote_addr $forwarded {{ default "for=$remote_addr;proto=$scheme"; ~: 'for="[$remote_addr]";proto=$scheme'; }}
  proxy_set_header X-Forwarded-For $remote_addr;
  proxy_set_header X-Real-IP $remote_addr;
  proxy_set_header X-Forwarded-Port $proxy_protocol_server_port;
  proxy_set_header X-Forwarded-Proto $scheme;
  proxy_set_header Forwarded $forwarded;
"""
HAPROXY = """
global
  maxconn {most}
  nbthread 1
defaults
  mode http
  timeout connect 5s
  timeout client 1h
  timeout server 1h
"""
HAPROXY_PORT = """
frontend in{port}
  bind {ip}:{outer} accept-proxy
  http-request set-header X-Forwarded-For %[src]
  http-request set-header X-Real-IP %[src]
  http-request set-header X-Forwarded-Port %[dst_port]
  http-request set-header X-Forwarded-Proto http
  http-request set-header Forwarded for=%[src];proto=http
  default_backend app{port}
backend app{port}
  server pod 127.0.0.1:{port}
"""


def srcip_inbound(rig: Rig) -> Variant:
    """srcip in redirect mode with its defaults: five headers, all other spellings of them taken out."""
    pod = rig.pod()
    told = Plan(
        inbound_ports=RANGES,
        http_ports=RANGES,
        trusted_cidrs=(pod.trusted,),
        mode="redirect",
        max_connections=MAX_CONNECTIONS,
    )
    variants.sidecar(rig, pod, told, "")
    return Variant("srcip", pod)


def srcip_outbound(rig: Rig) -> Variant:
    """srcip for outgoing requests alone: the Pod's address, its name, and one header more."""
    pod = rig.pod()
    told = Plan(
        inbound_ports=(),
        trusted_cidrs=(),
        mode="redirect",
        outbound_ports=RANGES,
        outbound_headers=(CUSTOM,),
        outbound_forwarded_for="default",
        outbound_client_hostname=HOSTNAME,
        max_connections=MAX_CONNECTIONS,
    )
    variants.sidecar(rig, pod, told, "")
    return Variant("srcip", pod, proxy=False, outbound=True)


def nginx_inbound(rig: Rig) -> Variant:
    """nginx: the same five headers; connections to the application are kept, and shared between clients."""
    pod = rig.pod()
    _rules(rig, pod, variants.redirect(pod, SERVED))
    servers = [
        f"  server {{ listen {pod.ip}:{outer} proxy_protocol; location / {{ proxy_pass http://u{port}; }} }}"
        for port, outer in zip(SERVED, OUTER_PORTS, strict=True)
    ]
    _nginx(rig, pod, [INBOUND.format(trusted=pod.trusted), *_upstreams("127.0.0.1"), *servers])
    return Variant("nginx", pod)


def nginx_outbound(rig: Rig) -> Variant:
    """nginx at its fastest: one known destination for each port, connections to it kept and shared."""
    pod = rig.pod()
    passes = [f"http://u{port}" for port in SERVED]
    return _nginx_outbound(rig, pod, "nginx", passes, _upstreams(pod.balancer))


def nginx_tranproxy(rig: Rig) -> Variant:
    """nginx as such sidecars have it: wherever `Host` says, so each request gets a connection of its own.

    Host is an address here, so no nameserver is asked.
    """
    return _nginx_outbound(rig, rig.pod(), "nginx, to any host", ["http://$http_host"] * len(SERVED), [])


def haproxy_inbound(rig: Rig) -> Variant:
    """HAProxy as its manual has it: it replaces five headers, and leaves other spellings as they are."""
    pod = rig.pod()
    files = files_of(rig, pod)
    _rules(rig, pod, variants.redirect(pod, SERVED))
    ports = [HAPROXY_PORT.format(ip=pod.ip, port=p, outer=outer) for p, outer in zip(SERVED, OUTER_PORTS, strict=True)]
    (files / "haproxy.cfg").write_text(HAPROXY.format(most=MAX_CONNECTIONS) + "".join(ports))
    rig.relay(pod, contained(rootfs_of_srcip(), files, variants.HAPROXY, "", {}), OUTER_PORTS[0])
    return Variant("plain HAProxy", pod)


def _nginx_outbound(rig: Rig, pod: Pod, name: str, passes: list[str], upstreams: list[str]) -> Variant:
    """The Pod's own requests are redirected to nginx, but for nginx's."""
    rule = f'meta skuid != {UID} oifname != "lo" meta l4proto tcp redirect to :tcp dport map'
    hook = "type nat hook output priority -100"
    _rules(rig, pod, f"chain from_app {{ {hook}; {rule} {variants.outer_ports(SERVED)}; }}")
    (custom, value), headers = CUSTOM, {"X-Forwarded-For": pod.ip, "X-Client-Hostname": HOSTNAME}
    written = [f"  proxy_set_header {key} {text};" for key, text in (*headers.items(), (custom, value))]
    servers = [
        f"  server {{ listen 127.0.0.1:{outer}; location / {{ proxy_pass {where}; }} }}"
        for outer, where in zip(OUTER_PORTS, passes, strict=True)
    ]
    _nginx(rig, pod, [*written, *upstreams, *servers])
    return Variant(name, pod, proxy=False, outbound=True)


def _upstreams(host: str) -> list[str]:
    return [UPSTREAM.format(host=host, port=port) for port in SERVED]


def _nginx(rig: Rig, pod: Pod, body: list[str]) -> None:
    """nginx as the sidecar's user, without capabilities; its files are at /run/srcip."""
    files = files_of(rig, pod)
    (files / "nginx.conf").write_text(NGINX.format(body="\n".join(body)))
    script = (
        'mount -t tmpfs none "$1/run" && mkdir "$1/run/srcip" && mount --bind "$2" "$1/run/srcip"'
        ' && exec chroot --userspec="$3:$3" "$1" nginx -e stderr -c /run/srcip/nginx.conf'
    )
    unshared = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"]
    rig.relay(pod, [*unshared, str(rootfs_of_nginx()), str(files), str(UID)], OUTER_PORTS[0])


def _rules(rig: Rig, pod: Pod, chain: str) -> None:
    rig.inside(pod, "nft", "-f", "-", stdin=f"table inet bench {{ {chain}\n}}\n")


INBOUND_MAKERS: dict[str, Callable[[Rig], Variant]] = {
    "srcip": srcip_inbound,
    "nginx": nginx_inbound,
    "plain HAProxy": haproxy_inbound,
}
OUTBOUND_MAKERS: dict[str, Callable[[Rig], Variant]] = {
    "srcip": srcip_outbound,
    "nginx": nginx_outbound,
    "nginx, to any host": nginx_tranproxy,
}
