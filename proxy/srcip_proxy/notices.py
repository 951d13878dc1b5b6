"""What the node's agent tells a Pod's gate while that waits: why it does not attach. For the log alone.

By a datagram to an abstract socket, whose names each network namespace has for itself (unix(7)): the gate needs no
mount for it. Whoever is in the Pod's network can send one, too; so nothing is decided by it.
"""

from __future__ import annotations

import socket

NAME = b"\0srcip-gate"
LONGEST = 2000
"""Bytes of a notice; more is cut off."""


def listen() -> socket.socket | None:
    """Where notices arrive in this network namespace; None if somebody listens already."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.setblocking(False)
    try:
        made.bind(NAME)
    except OSError:
        made.close()
        return None
    return made


def read(listener: socket.socket | None) -> str:
    """The next notice, in one printable line; empty if there is none."""
    if not listener:
        return ""
    try:
        text = listener.recv(LONGEST).decode(errors="replace")
    except OSError:
        return ""
    return "".join(sign if sign.isprintable() else " " for sign in text).strip()


def send(text: str) -> None:
    """To the gate of this network namespace, if one waits."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sending:
        sending.setblocking(False)
        try:
            sending.sendto(text.encode()[:LONGEST], NAME)
        except OSError:
            return
