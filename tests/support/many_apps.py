"""Several applications of one Pod: each command is started with its port behind it.

Usage: many_apps.py PORT COMMAND [PORT COMMAND ...]; a command is one word, as a shell reads it. Says `listening` when
each of them answers requests: the first one may take a second or two, as a server looks for its own name.
"""

import os
import shlex
import socket
import subprocess
import sys
import time


def wait_for(port: int) -> None:
    """Until somebody answers there."""
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
                connection.recv(1)
                return
        except OSError:
            time.sleep(0.05)


pairs = list(zip(map(int, sys.argv[1::2]), sys.argv[2::2], strict=True))
env = {**os.environ, "RES_OPTIONS": "attempts:1 timeout:1"}  # no name service answers here
started = [subprocess.Popen([*shlex.split(command), str(port)], env=env) for port, command in pairs]
for number, _ in pairs:
    wait_for(number)
print("listening", flush=True)
for process in started:
    process.wait()
