"""An unmodified application: it greets each client with the address that it sees, then does what its port says.

Usage: peer_app.py ADDRESS PORT [ADDRESS PORT ...]; `POD` and `POD6` stand for the Pod's own addresses.
"""

import socket
import threading

from listening import run


def echo(connection: socket.socket, end: bytes = b"<end>") -> None:
    """Echo until the client has ended, then say so."""
    while data := connection.recv(65536):
        connection.sendall(data)
    connection.sendall(end)


def close_first(connection: socket.socket) -> None:
    """The server ends the connection, and so keeps it in TIME_WAIT."""


def end_own_side_first(connection: socket.socket) -> None:
    """End the own direction; go on reading until the client ends."""
    connection.shutdown(socket.SHUT_WR)
    received = sum(iter(lambda: len(connection.recv(65536)), 0))
    print("received", received, flush=True)


def close_last(connection: socket.socket) -> None:
    """Read until the client ends, and close without a word."""
    while connection.recv(65536):
        pass


def leave_by_device(connection: socket.socket) -> None:
    """Bind the connection itself to a device, and answer what comes."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
    echo(connection)


BEHAVIOUR = {7001: close_first, 7002: end_own_side_first, 7003: close_last, 7004: leave_by_device}


def serve(connection: socket.socket, peer: tuple[str, int]) -> None:
    with connection:
        try:
            connection.sendall(f"{peer[0].removeprefix('::ffff:')} {peer[1]}\n".encode())
            BEHAVIOUR.get(connection.getsockname()[1], echo)(connection)
        except OSError as error:
            print("lost", *peer[:2], error, flush=True)


def accept(listener: socket.socket) -> None:
    while True:
        connection, peer = listener.accept()
        print("accepted", *peer[:2], flush=True)
        threading.Thread(target=serve, args=(connection, peer), daemon=True).start()


run(accept)
