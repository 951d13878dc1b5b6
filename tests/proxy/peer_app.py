"""An unmodified application: it greets each client with the address that it sees, then echoes until the client ends.

Usage: peer_app.py ADDRESS PORT [ADDRESS PORT ...]; `POD` stands for the Pod's own IPv4 address.
"""

import os
import socket
import sys
import threading


def serve(connection: socket.socket, peer: tuple[str, int]) -> None:
    with connection:
        connection.sendall(f"{peer[0].removeprefix('::ffff:')} {peer[1]}\n".encode())
        try:
            while data := connection.recv(65536):
                connection.sendall(data)
            connection.sendall(b"<end>")
        except OSError as error:
            print("lost", *peer[:2], error, flush=True)


def accept(listener: socket.socket) -> None:
    while True:
        connection, peer = listener.accept()
        print("accepted", *peer[:2], flush=True)
        threading.Thread(target=serve, args=(connection, peer), daemon=True).start()


def listen(address: str, port: int) -> socket.socket:
    address = os.environ["POD_IP"] if address == "POD" else address
    listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, port))
    listener.listen(4096)
    return listener


pairs = list(zip(sys.argv[1::2], map(int, sys.argv[2::2]), strict=True))
threads = [threading.Thread(target=accept, args=(listen(*pair),), daemon=True) for pair in pairs]
for thread in threads:
    thread.start()
print("listening", flush=True)
for thread in threads:
    thread.join()
