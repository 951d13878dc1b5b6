"""A server that tells its clients the address it was reached at, or connects from there, names the Pod's address."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from srcip_lab.lab import Lab
from srcip_proxy.plan import PortRange
from support.rig import APP, OTHER4, POD4, POD_ENV, Rig, RigFactory, needs_root, plan, v1, v2
from support.waiting import DEADLINE_S, until

pytestmark = pytest.mark.dataplane

CONFIGURATION = """
listen=YES
anonymous_enable=YES
anon_root={root}
secure_chroot_dir={root}
nopriv_user=nobody
connect_from_port_20=YES
"""


class Ftp:
    """One control connection, through a balancer."""

    def __init__(self, rig: Rig, client: str) -> None:
        self.sock = rig.lab.lb.connect(POD4, 21)
        self.sock.settimeout(DEADLINE_S)
        self.sock.sendall(v2((client, 40000)))
        self.file = self.sock.makefile("r")
        self.file.readline()

    def __enter__(self) -> "Ftp":
        for line in ("USER anonymous", "PASS x"):
            self.ask(line)
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.sock.close()

    def ask(self, line: str) -> str:
        self.sock.sendall(f"{line}\r\n".encode())
        return self.file.readline()


@pytest.fixture(scope="module", params=["tproxy", "redirect"])
def ftp(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A Pod of each mode with vsftpd, which listens on all addresses."""
    needs_root()
    root = tmp_path_factory.mktemp("ftp")
    root.chmod(0o555)
    (root / "hello.txt").write_text("hello")
    configuration = tmp_path_factory.mktemp("configuration") / "vsftpd.conf"
    configuration.write_text(CONFIGURATION.format(root=root))
    wanted = plan(mode=request.param, inbound_ports=(PortRange(21, 21),))
    # not as process 1, as which it ends with the first session
    with Lab.up_plan(wanted, ["sh", "-c", f"/usr/sbin/vsftpd {configuration} & wait"]) as lab:
        listening = ["ss", "-Htln", "sport = :21"]
        until(lambda: lab.pod.run(listening, capture_output=True).stdout, lambda: lab.log("app"))
        yield Rig(lab)


def test_the_passive_mode_of_ftp_names_the_pod(ftp: Rig) -> None:
    with Ftp(ftp, OTHER4) as control:
        numbers = re.findall(r"\d+", control.ask("PASV").partition("(")[2])
        assert ".".join(numbers[:4]) == POD4
        with ftp.lab.other.connect(POD4, int(numbers[4]) * 256 + int(numbers[5])):
            pass
    with Ftp(ftp, OTHER4) as control:
        port = int(re.findall(r"\|(\d+)\|", control.ask("EPSV"))[0])
        with ftp.lab.other.connect(POD4, port):
            pass


def test_the_active_mode_of_ftp_connects_from_the_pod(ftp: Rig) -> None:
    """To the client itself, which only tproxy mode shows it."""
    with Ftp(ftp, OTHER4) as control, ftp.lab.other.listen() as listener:
        port = listener.getsockname()[1]
        said = control.ask(f"PORT {OTHER4.replace('.', ',')},{port // 256},{port % 256}")
        if not said.startswith("200"):
            assert "Illegal PORT" in said, "vsftpd takes no other host than its peer"
            return
        control.sock.sendall(b"LIST\r\n")
        listener.settimeout(DEADLINE_S)
        connection, (address, _) = listener.accept()
        with connection:
            assert address == POD4
            assert b"hello.txt" in b"".join(iter(lambda: connection.recv(4096), b""))


SECOND = {4: "10.77.3.77", 6: "fd77:0:0:3::77"}
"""Further addresses of the Pod."""


@pytest.mark.parametrize("deliver_to", ["auto", "pod"])
@pytest.mark.parametrize(("mode", "version"), [("tproxy", 4), ("tproxy", 6), ("redirect", 4)])
def test_an_application_at_another_address_of_the_pod_is_reached(
    rigs: RigFactory, mode: str, version: int, deliver_to: str
) -> None:
    """By who connects to that address, as without srcip."""
    rig = rigs(plan(mode=mode, deliver_to=deliver_to, max_connections=99), app=("POD", "7000"))
    for each in (4, 6):
        words = ["ip", "address", "replace", f"{SECOND[each]}/{24 if each == 4 else 64}", "dev", "eth0"]
        rig.lab.pod.run([*words, *(["nodad"] if each == 6 else [])], check=True)
    address = SECOND[version]
    words = [sys.executable, str(APP), address, "7060"]
    app = rig.lab.pod.popen(words, stdout=subprocess.PIPE, env={**os.environ, **POD_ENV})
    try:
        assert app.stdout and app.stdout.readline() == "listening\n"
        client = ("203.0.113.60", 46000) if version == 4 else ("2001:db8::60", 46000)
        seen = rig.seen(v1(client) + b"x", 7060, to=address)
        assert seen.rest == b"x"
        if mode == "tproxy":
            assert seen.peer == client
    finally:
        app.kill()
        app.wait()


def test_a_dead_balancer_is_found(rigs: RigFactory) -> None:
    """After the silence of `srcip.io/tcp-keepalive`, and as long again; the application is told."""
    rig = rigs(plan(tcp_keepalive_s=5), app=("::", "7003"))
    with rig.connect(7003) as client:
        client.send(v1(("203.0.113.61", 46001)))
        assert client.seen().peer == ("203.0.113.61", 46001)
        chain = "add chain inet gone in { type filter hook input priority 0; policy drop; }"
        rig.lab.lb.run(["nft", f"add table inet gone; {chain}"], check=True)
        try:
            until(lambda: not established(rig))
        finally:
            rig.lab.lb.run(["nft", "delete table inet gone"], check=True)


def established(rig: Rig) -> bool:
    words = ["ss", "-Htn", "state", "established", "dst", "203.0.113.61"]
    return bool(rig.lab.pod.run(words, capture_output=True).stdout)


def test_nobody_in_the_pod_states_a_client_by_the_second_way(rigs: RigFactory) -> None:
    """Its socket takes what srcip itself has sent there, and nothing else: with a header, without, with a number."""
    rig = rigs(plan(deliver_to="pod", max_connections=98), app=("::", "7000"))
    before = rig.accepted()
    number = b"\xe0\x00\x20" + b"0" * 32
    for header in (v2(), v2(tlvs=number), v1(), b"GET / HTTP/1.0\r\n\r\n"):
        sock = rig.lab.pod.call(lambda: socket.socket(socket.AF_UNIX))
        with sock:
            sock.settimeout(DEADLINE_S)
            sock.connect("\0srcip-fallback".ljust(108, "\0"))  # HAProxy fills the whole of sun_path
            sock.sendall(header + b"x")
            assert end_of(sock) == b""
    assert rig.accepted() == before


def end_of(sock: socket.socket) -> bytes:
    try:
        return sock.recv(100)
    except ConnectionResetError:
        return b""
