"""A client that holds as many connections as it gets, and dials again whenever it loses one.

python flooding_client.py PORT CONDUCT CONNECTIONS SOURCE...    (CONNECTIONS of each source address)

Prints a line when each connection was tried once, and goes on until it is killed.
"""

import asyncio
import resource
import ssl
import sys
from contextlib import suppress

DRIP_S = 0.2
"""Pause between the bytes of a slow client, in seconds."""
AGAIN_S = 0.02
"""Pause before a lost connection is dialled again, in seconds."""
PATIENCE_S = 1
"""How long a connection is waited for until it counts as tried, in seconds."""


def head(length: int, connection: str = "keep-alive") -> bytes:
    fields = (
        "Host: webhook",
        "Content-Type: application/json",
        f"Content-Length: {length}",
        f"Connection: {connection}",
    )
    return "\r\n".join(("POST /mutate HTTP/1.1", *fields, "", "")).encode()


CONDUCTS: dict[str, tuple[bool, bytes, bytes]] = {
    "silent": (False, b"", b""),
    "half a hello": (False, b"\x16\x03\x01\x02\x00", b""),
    "silent after TLS": (True, b"", b""),
    "slow headers": (True, b"POST /mutate HTTP/1.1\r\nX: ", b"x"),
    "slow body": (True, head(60_000), b" "),
    "slow large body": (True, head(3 << 20) + b" " * (200 << 10), b" "),
    "large requests": (True, head(7 << 20, "close") + b'"' + b"x" * ((7 << 20) - 2) + b'"', b""),
}
"""Whether there is TLS, what is sent at once, and what is sent again and again."""
TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
TLS.check_hostname, TLS.verify_mode = False, ssl.CERT_NONE


async def hold(port: int, conduct: str, source: str) -> None:
    """One connection, until the other side ends it."""
    secured, first, drip = CONDUCTS[conduct]
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, local_addr=(source, 0), ssl=TLS if secured else None
    )
    try:
        writer.write(first)
        while not (reader.at_eof() or writer.is_closing()):
            writer.write(drip)
            await asyncio.sleep(DRIP_S)
    finally:
        writer.transport.abort()


async def main(port: int, conduct: str, connections: int, sources: list[str]) -> None:
    tried = asyncio.Semaphore(0)

    async def stay(source: str) -> None:
        task = asyncio.ensure_future(hold(port, conduct, source))
        await asyncio.wait([task], timeout=PATIENCE_S)
        tried.release()
        while True:
            with suppress(OSError):
                await task
            await asyncio.sleep(AGAIN_S)
            task = asyncio.ensure_future(hold(port, conduct, source))

    staying = [asyncio.ensure_future(stay(source)) for source in sources for _ in range(connections)]
    for _ in staying:
        await tried.acquire()
    print("tried", flush=True)
    await asyncio.gather(*staying)


if __name__ == "__main__":
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4:]))
