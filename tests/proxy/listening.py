"""What the test applications share: each listens where its command line says, ADDRESS PORT [ADDRESS PORT ...].

`POD` and `POD6` stand for the Pod's own addresses.
"""

import os
import socket
import sys
import threading
from collections.abc import Callable


def listen(address: str, port: int) -> socket.socket:
    """A listening socket."""
    address = {"POD": os.environ["POD_IP"], "POD6": os.environ["POD_IP6"]}.get(address, address)
    listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, port))
    listener.listen(4096)
    return listener


def run(accept: Callable[[socket.socket], None]) -> None:
    """Accept on every pair of the command line, for ever; says `listening` when all are ready."""
    pairs = list(zip(sys.argv[1::2], map(int, sys.argv[2::2]), strict=True))
    threads = [threading.Thread(target=accept, args=(listen(*pair),), daemon=True) for pair in pairs]
    for thread in threads:
        thread.start()
    print("listening", flush=True)
    for thread in threads:
        thread.join()
