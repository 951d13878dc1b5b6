"""Names and numbers of the data plane inside the Pod's network namespace."""

from __future__ import annotations

LOOPBACK = {4: "169.254.77.1", 6: "fd73:7263:6970::1"}
"""srcip's own loopback address of each IP version: the application is reached here, so replies find their way by a
route alone."""
PORTS6 = "fd73:7263:6970:f::"
"""IPv6 in redirect mode and for outgoing connections: the last two bytes of the address a connection is led to are the
port it came to. HAProxy asks the kernel for the original destination of IPv4 connections only."""
CHECK4 = "169.254.77.2"
"""The only source that may enter the proxy over lo: `srcip-proxy check` plays the balancer with it."""
MARK = 0x73726370
"""Mark of replies that go back to the proxy (the letters s r c p)."""
TABLE = 7363
"""Routing table that delivers everything locally."""
PRIORITY = 7363
"""Priority of the policy rules: before main (32766), after local (0)."""
