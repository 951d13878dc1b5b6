"""A stand-in for a mesh's sidecar: it has the real ports and passes on what is led to it, as the real one does.

Usage: mesh_app.py SOURCE SOURCE6 INBOUND OUTBOUND [PORT ...]. A connection that was led to INBOUND goes on to where it
was to go from the address SOURCE or SOURCE6, one that was led to OUTBOUND from any; every other PORT answers with one
line.
It says whom it saw.
"""

import socket
import struct
import sys
import threading

SO_ORIGINAL_DST = 80  # linux/netfilter_ipv4.h, and of the same number in linux/netfilter_ipv6/ip6_tables.h
MAPPED = "::ffff:"


def original(connection: socket.socket) -> tuple[str, int]:
    """Where a connection was to go before it was led here."""
    if connection.getsockname()[0].startswith(MAPPED):
        raw = connection.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16)
        port, address = struct.unpack_from("!2xH4s", raw)
        return socket.inet_ntop(socket.AF_INET, address), port
    raw = connection.getsockopt(socket.IPPROTO_IPV6, SO_ORIGINAL_DST, 28)
    port, address = struct.unpack_from("!2xH4x16s", raw)
    return socket.inet_ntop(socket.AF_INET6, address), port


def copy(one: socket.socket, other: socket.socket) -> None:
    try:
        while data := one.recv(65536):
            other.sendall(data)
        other.shutdown(socket.SHUT_WR)
    except OSError:
        other.close()


def pass_on(connection: socket.socket, sources: dict[int, str], way: str) -> None:
    to = original(connection)
    print(way, connection.getpeername()[0].removeprefix(MAPPED), *to, flush=True)
    source = sources.get(6 if ":" in to[0] else 4)
    try:
        with connection, socket.create_connection(to, 5, (source, 0) if source else None) as other:
            threading.Thread(target=copy, args=(connection, other), daemon=True).start()
            copy(other, connection)
    except OSError as error:
        print("lost", error, flush=True)


def accept(port: int, sources: dict[int, str], way: str) -> None:
    listener = socket.create_server(("::", port), family=socket.AF_INET6, backlog=128, dualstack_ipv6=True)
    print("bound", port, flush=True)
    while True:
        connection, _ = listener.accept()
        if way == "own":
            connection.sendall(b"mesh\n")
            connection.close()
        else:
            threading.Thread(target=pass_on, args=(connection, sources, way), daemon=True).start()


SOURCE, SOURCE6, INBOUND, OUTBOUND, *OTHERS = sys.argv[1:]
SOURCES = {4: SOURCE, 6: SOURCE6}
PORTS = [(INBOUND, SOURCES, "inbound"), (OUTBOUND, {}, "outbound"), *((port, {}, "own") for port in OTHERS)]
threads = [threading.Thread(target=accept, args=(int(port), *rest)) for port, *rest in PORTS]
for thread in threads:
    thread.start()
