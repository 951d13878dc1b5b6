"""What an application sees, by where it listens, who connects, and how srcip is set: one table for tests and docs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from support.rig import CLIENT4, CLIENT6, LB4, LB6, POD4, POD6

LISTENERS = {
    "`0.0.0.0`": ("0.0.0.0", 7010),
    "`[::]`": ("::", 7011),
    "`[::]`, IPV6_V6ONLY": ("ONLY6", 7012),
    "the Pod's IPv4 address": ("POD", 7013),
    "the Pod's IPv6 address": ("POD6", 7014),
    "`127.0.0.1`": ("127.0.0.1", 7015),
}
"""Where applications listen: what `peer_app.py` calls it, and the port in these tests."""
APPS = tuple(str(word) for pair in LISTENERS.values() for word in pair)
DELIVERIES = ("auto", "loopback", "pod")
COLUMNS = (*(("tproxy", d) for d in DELIVERIES), *(("redirect", d) for d in DELIVERIES), ("ebpf", ""))
"""Mode and `srcip.io/deliver-to`."""
CLIENT, BALANCER, REFUSED = "client", "balancer", "refused"
WORDS = {"c": CLIENT, "b": BALANCER, "-": REFUSED}
CELLS = """
0.0.0.0    4 over 4    c c c   c c c   c
0.0.0.0    6 over 4    b b b   c c c   b
0.0.0.0    4 over 6    c c c   - - -   -
0.0.0.0    6 over 6    - - -   - - -   -
::         4 over 4    c c c   c c c   c
::         6 over 4    c c c   c c c   c
::         4 over 6    c c c   c c c   c
::         6 over 6    c c c   c c c   c
ONLY6      4 over 4    - - -   - - -   -
ONLY6      6 over 4    - - -   - - -   -
ONLY6      4 over 6    b b b   c c c   c
ONLY6      6 over 6    c c c   c c c   c
POD        4 over 4    c - c   c - c   c
POD        6 over 4    b - b   c - c   b
POD        4 over 6    c - c   - - -   -
POD        6 over 6    - - -   - - -   -
POD6       4 over 4    - - -   - - -   -
POD6       6 over 4    - - -   - - -   -
POD6       4 over 6    b - b   c - c   c
POD6       6 over 6    c - c   c - c   c
127.0.0.1  4 over 4    - - -   - - -   -
127.0.0.1  6 over 4    - - -   - - -   -
127.0.0.1  4 over 6    - - -   - - -   -
127.0.0.1  6 over 6    - - -   - - -   -
"""
"""A client's IP version over that of its balancer's connection, and what the application sees in each of COLUMNS, with
`srcip.io/client-address: best-effort`: the client, the balancer in its place, or nothing, as the connection is refused.
With `ip` and `exact` what would show the balancer is refused, too."""


@dataclass(frozen=True)
class Row:
    """One connection."""

    listener: str
    """A name of LISTENERS."""
    client: int
    """The client's IP version."""
    balancer: int
    """That of the balancer's connection."""
    cells: tuple[str, ...]
    """What the application sees, in the order of COLUMNS."""

    @property
    def port(self) -> int:
        return LISTENERS[self.listener][1]

    @property
    def to(self) -> str:
        """Where the balancer connects to."""
        return POD4 if self.balancer == 4 else POD6

    @property
    def address(self) -> str:
        """The client's address."""
        return (CLIENT4 if self.client == 4 else CLIENT6)[0]

    def word(self, peer: str) -> str:
        """What an application sees that says this address."""
        return {self.address: CLIENT, LB4 if self.balancer == 4 else LB6: BALANCER}.get(peer, peer)

    def expected(self, mode: str, deliver_to: str, client_address: str) -> str:
        cell = self.cells[COLUMNS.index((mode, deliver_to))]
        return REFUSED if cell == BALANCER and client_address != "best-effort" else cell


def rows() -> Iterator[Row]:
    """The table."""
    names = {address: name for name, (address, _) in LISTENERS.items()}
    for line in CELLS.strip().splitlines():
        address, client, _, balancer, *cells = line.split()
        yield Row(names[address], int(client), int(balancer), tuple(WORDS[cell] for cell in cells))


HEAD = """# What the application sees

For each address that an application can listen at, each IP version of a client and of its balancer's connection, each
mode and each `srcip.io/deliver-to`, with `srcip.io/client-address: best-effort`. With `ip` and `exact`, what would show
the balancer is refused, too. Every cell is a test.

`client`: the client's address (`redirect`: in the headers). `balancer`: the balancer's, counted as
`srcip_fallback_connections_total` and with a line in the log. `refused`: a RST, or 503 for a request; counted and with
a line, unless the kernel itself refuses, as nobody listens there.

"""


Facts = dict[tuple[str, int, int], str]
"""What the application sees, by the rows' listener, client and balancer."""


def facts(of: Callable[[Row], str]) -> Facts:
    """One column of the table, as it is expected or seen."""
    return {(row.listener, row.client, row.balancer): of(row) for row in rows()}


def document() -> str:
    """docs/addresses.md."""
    modes = [f"`{mode}`{f' `{deliver_to}`' if deliver_to else ''}" for mode, deliver_to in COLUMNS]
    lines = [["listens at", "client", "balancer", *modes], ["---"] * (3 + len(COLUMNS))]
    lines += [[row.listener, f"IPv{row.client}", f"IPv{row.balancer}", *row.cells] for row in rows()]
    return HEAD + "".join(f"| {' | '.join(line)} |\n" for line in lines)
