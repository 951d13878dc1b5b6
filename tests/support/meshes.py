"""Stand-ins of meshes' sidecars: the real ports, users and rules of each, and a program that passes on what it gets.

What a mesh does inside TLS is not there; who is led where, and who sees the client, is.
"""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from srcip_lab.lab import Lab
from srcip_lab.state import wait_until
from support.rig import Rig
from support.waiting import DEADLINE_S, until

PROGRAM = Path(__file__).with_name("mesh_app.py")


@dataclass(frozen=True)
class Mesh:
    """One mesh's sidecar: its container, its user, its ports, and what its init container has the kernel do."""

    container: str
    user: int
    inbound: int
    outbound: int
    others: tuple[int, ...]
    source: str
    """Where its connections to the application come from."""
    source6: str
    """The same over IPv6; its init container adds it to lo."""
    rules: str
    """In nft's words; a table of iptables has the same chains and priorities."""

    @property
    def ports(self) -> tuple[int, ...]:
        """All that it listens at."""
        return (self.inbound, self.outbound, *self.others)

    @property
    def arguments(self) -> tuple[str, ...]:
        """Those of mesh_app.py."""
        return (self.source, self.source6, *map(str, self.ports))

    def tables(self) -> str:
        """The rules of both IP versions: those of IPv6 are the same, with its addresses."""
        rules6 = self.rules.replace("ip ", "ip6 ").replace("127.0.0.6", "::6").replace("127.0.0.1", "::1")
        return f"table ip nat {{ {self.rules} }}\ntable ip6 nat {{ {rules6} }}"


ISTIO = Mesh(
    "istio-proxy",
    1337,
    15006,
    15001,
    (15020, 15021, 15090),
    "127.0.0.6",
    "::6",
    """
    chain PREROUTING {
      type nat hook prerouting priority -100
      tcp dport { 15008, 15020, 15021, 15090 } return
      meta l4proto tcp redirect to :15006
    }
    chain OUTPUT {
      type nat hook output priority -100
      oif lo ip saddr 127.0.0.6 return
      oif lo ip daddr != 127.0.0.1 meta skuid 1337 tcp dport != 15008 redirect to :15006
      oif lo meta skuid != 1337 return
      meta skuid 1337 return
      ip daddr 127.0.0.1 return
      meta l4proto tcp redirect to :15001
    }
    """,
)
LINKERD = Mesh(
    "linkerd-proxy",
    2102,
    4143,
    4140,
    (4190, 4191),
    "0.0.0.0",
    "::",
    """
    chain PREROUTING {
      type nat hook prerouting priority -100
      tcp dport { 4190, 4191, 4567, 4568 } return
      meta l4proto tcp redirect to :4143
    }
    chain OUTPUT {
      type nat hook output priority -100
      meta skuid 2102 return
      oif lo return
      tcp dport { 4567, 4568 } return
      meta l4proto tcp redirect to :4140
    }
    """,
)
KUMA = Mesh(
    "kuma-sidecar",
    5678,
    15006,
    15001,
    (),
    "127.0.0.6",
    "::6",
    """
    chain PREROUTING {
      type nat hook prerouting priority -100
      meta l4proto tcp redirect to :15006
    }
    chain OUTPUT {
      type nat hook output priority -100
      oif lo ip saddr 127.0.0.6 return
      oif lo ip daddr != 127.0.0.1 meta skuid 5678 tcp dport != 53 redirect to :15006
      oif lo meta skuid != 5678 tcp dport != 53 return
      meta skuid 5678 return
      ip daddr 127.0.0.1 return
      meta l4proto tcp redirect to :15001
    }
    """,
)
CONSUL = Mesh(
    "consul-dataplane",
    5995,
    20000,
    15001,
    (),
    "0.0.0.0",
    "::",
    """
    chain PREROUTING {
      type nat hook prerouting priority -100
      meta l4proto tcp redirect to :20000
    }
    chain OUTPUT {
      type nat hook output priority -100
      meta skuid 5995 return
      ip daddr 127.0.0.1 return
      meta l4proto tcp redirect to :15001
    }
    """,
)
"""Unlike the others, it takes what the Pod sends over lo, too."""
MESHES = {"istio": ISTIO, "linkerd": LINKERD, "kuma": KUMA, "consul": CONSUL}


@dataclass
class Beside:
    """A Pod with srcip and a mesh."""

    rig: Rig
    mesh: Mesh
    file: Path

    def log(self) -> str:
        """What the mesh has said: whom it saw, by which way, and where that one was going."""
        return self.file.read_text()

    def saw(self, *parts: object) -> bool:
        """Whether the mesh comes to say this."""
        return wait_until(lambda: self.has_said(*parts), DEADLINE_S)

    def has_said(self, *parts: object) -> bool:
        """Whether it has said this by now; what it has to say comes before it passes anything on."""
        return " ".join(map(str, parts)) in self.log()

    def nft(self, text: str) -> None:
        done = self.rig.lab.pod.run(["nft", "-f", "-"], input=text, capture_output=True)
        assert done.returncode == 0, done.stderr

    def forget(self) -> None:
        """Begin a new log; the program appends to it."""
        with self.file.open("w"):
            pass

    def load_last(self, whose: str) -> None:
        """The rules of `mesh` or of `srcip`, with an empty log behind it."""
        {"mesh": self.load_mesh_again, "srcip": self.load_srcip_again}[whose]()
        self.forget()

    def load_mesh_again(self) -> None:
        """As if its init container had run after srcip's."""
        self.nft(f"delete table ip nat\ndelete table ip6 nat\n{self.mesh.tables()}")

    def load_srcip_again(self) -> None:
        """As if its init container had run after the mesh's."""
        table = self.rig.lab.pod.run(["nft", "-s", "list", "table", "inet", "srcip"], capture_output=True).stdout
        self.nft(f"delete table inet srcip\n{table}")


@contextmanager
def beside(lab: Lab, mesh: Mesh, file: Path) -> Iterator[Beside]:
    """The mesh in this Pod; its rules come behind srcip's. `file` takes what it says. The lab is taken down."""
    process: subprocess.Popen[str] | None = None
    try:
        lab.pod.run(["ip", "addr", "add", "::6/128", "dev", "lo"], check=True)
        user = ("setpriv", f"--reuid={mesh.user}", f"--regid={mesh.user}", "--clear-groups")
        words = (*user, "/usr/bin/python3", "-Ic", PROGRAM.read_text(), *mesh.arguments)
        with file.open("a") as output:
            process = lab.pod.popen(words, stdout=output, stderr=subprocess.STDOUT)
        pod = Beside(Rig(lab), mesh, file)
        until(lambda: all(f"bound {port}\n" in pod.log() for port in mesh.ports), pod.log)
        pod.nft(mesh.tables())
        yield pod
    finally:
        if process:
            process.kill()
            process.wait()
        lab.down()
