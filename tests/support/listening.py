"""What the test applications share: each listens where its command line says, ADDRESS PORT [ADDRESS PORT ...].

`POD` and `POD6` stand for the Pod's own addresses, `ONLY6` for :: without IPv4. `DEAF` listens on every IPv4 address,
has room for one connection, and accepts none. `DEVICE` and `DEVICE6` listen on every address, bound to eth0.
"""

import os
import socket
import sys
import threading
from collections.abc import Callable

ANY = {"ONLY6": "::", "DEAF": "0.0.0.0", "DEVICE": "0.0.0.0", "DEVICE6": "::"}


def listen(address: str, port: int) -> socket.socket:
    """A listening socket."""
    address = {"POD": os.environ["POD_IP"], "POD6": os.environ["POD_IP6"]}.get(address, address)
    listener = socket.socket(socket.AF_INET6 if ":" in address or address.endswith("6") else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if address == "ONLY6":
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if address.startswith("DEVICE"):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
    listener.bind((ANY.get(address, address), port))
    listener.listen(0 if address == "DEAF" else 65535)  # net.core.somaxconn is the limit
    return listener


def run(accept: Callable[[socket.socket], None]) -> None:
    """Accept on every pair of the command line, for ever; says `listening` when all are ready."""
    pairs = list(zip(sys.argv[1::2], map(int, sys.argv[2::2]), strict=True))
    listeners = [(listen(*pair), pair[0] != "DEAF") for pair in pairs]
    threads = [threading.Thread(target=accept, args=(one,), daemon=True) for one, accepts in listeners if accepts]
    for thread in threads:
        thread.start()
    print("listening", flush=True)
    threading.Event().wait()
