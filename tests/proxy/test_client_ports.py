"""Clients' ports are not taken from the Pod's own connections."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from srcip_lab import compiling, image
from support.rig import LB4, POD4, POD6, Rig, RigFactory, plan, v1
from support.waiting import AT_ONCE_S

pytestmark = pytest.mark.dataplane

CLIENTS = {"ipv4": ("203.0.113.99", POD4), "ipv6": ("2001:db8::99", POD6)}
RANGE = range(40000, 40200)
"""What the kernel of these Pods chooses ports from."""


def sysctl(rig: Rig, name: str, value: str) -> None:
    rig.lab.pod.run(["sysctl", "-qw", f"net.ipv4.{name}={value}"], check=True)


@contextmanager
def few_ports(rig: Rig) -> Iterator[None]:
    """The Pod has as few ports of its own as RANGE."""
    sysctl(rig, "ip_local_port_range", f"{RANGE.start} {RANGE.stop - 1}")
    time.sleep(1.1)  # the sidecar reads it once a second
    try:
        yield
    finally:
        sysctl(rig, "ip_local_port_range", "32768 60999")
        time.sleep(1.1)


def connections_of_the_pod(rig: Rig, to: socket.socket, number: int) -> int:
    """How many of so many connections that the Pod itself opens succeed."""
    done = 0
    for _ in range(number):
        try:
            rig.lab.pod.connect(*to.getsockname()).close()
            to.accept()[0].close()
            done += 1
        except OSError as error:
            print(error)
    return done


@pytest.mark.parametrize("family", CLIENTS)
@pytest.mark.parametrize("deliver_to", ["auto", "loopback", "pod"])
def test_a_client_that_uses_every_port_leaves_the_pod_its_own(rigs: RigFactory, deliver_to: str, family: str) -> None:
    """Both with connections that are open and with ended ones, whose ports are in TIME_WAIT."""
    rig = rigs(plan(deliver_to=deliver_to, drain_timeout_s=5), app=("::", "7003"))
    address, to = CLIENTS[family]
    with few_ports(rig), rig.lab.lb.listen(address=LB4) as database, ExitStack() as open_ones:
        for port in RANGE:
            client = rig.connect(7003, to=to)
            open_ones.callback(client.reset)
            client.send(v1((address, port)))
            assert client.seen(quiet=0.001).peer == (address, port)
            if port % 2:
                client.finish()
        assert connections_of_the_pod(rig, database, 40) == 40


def test_the_pod_can_listen_at_a_port_that_a_client_has(rigs: RigFactory) -> None:
    """With SO_REUSEADDR, as servers do; srcip cannot help those that do without."""
    rig = rigs(plan(drain_timeout_s=5), app=("::", "7003"))
    with rig.connect(7003) as client:
        client.send(v1(("203.0.113.98", 50051)))
        assert client.seen(quiet=0.001).peer == ("203.0.113.98", 50051)
        rig.lab.pod.listen(50051, "0.0.0.0").close()


def test_every_port_is_shown_whatever_the_pods_settings_are(rigs: RigFactory) -> None:
    """Within the ports that the kernel chooses from, among the ones reserved in it, and outside of it."""
    rig = rigs(plan(drain_timeout_s=5), app=("::", "7003"))
    sysctl(rig, "ip_local_reserved_ports", "39000,40010-40020,50000")
    try:
        with few_ports(rig):
            for port in (40100, 40010, 40020, 1024, 39999, 40200, 65535) * 2:
                with rig.connect(7003) as client:
                    client.send(v1(("203.0.113.97", port)))
                    assert client.seen(quiet=0.001).peer == ("203.0.113.97", port)
    finally:
        sysctl(rig, "ip_local_reserved_ports", "")


@pytest.mark.parametrize("deliver_to", ["auto", "loopback", "pod"])
def test_a_client_from_a_port_that_the_pod_listens_at(rigs: RigFactory, deliver_to: str) -> None:
    """The application sees its address, and another port; no line says that something is wrong."""
    rig = rigs(plan(deliver_to=deliver_to, drain_timeout_s=5), app=("::", "7003"))
    with rig.lab.pod.listen(5353, "0.0.0.0"), rig.connect(7003) as client:
        began = time.monotonic()
        client.send(v1(("203.0.113.96", 5353)))
        seen = client.seen(quiet=0.001)
        assert seen.peer and seen.peer[0] == "203.0.113.96" and seen.peer[1] != 5353
        assert time.monotonic() - began < AT_ONCE_S
    assert "bort" not in rig.log()


def test_exact_refuses_a_port_that_the_pod_listens_at(rigs: RigFactory) -> None:
    """With a line that names the setting."""
    rig = rigs(plan(client_address="exact", drain_timeout_s=5), app=("::", "7003"))
    with rig.lab.pod.listen(5353, "0.0.0.0"):
        assert rig.seen(v1(("203.0.113.96", 5353)), 7003).refused
    rig.waited("reason=undelivered; what to do: set srcip.io/client-address: ip or best-effort")


OLD_KERNEL = """
#include <errno.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
/* A kernel before 6.3 knows no IP_LOCAL_PORT_RANGE. */
int setsockopt(int fd, int level, int name, const void *value, socklen_t length)
{
	if (level == 0 && name == 51) {
		errno = ENOPROTOOPT;
		return -1;
	}
	return syscall(SYS_setsockopt, fd, level, name, value, length);
}
"""
BIND = """
import errno, socket, sys
counts = {"bound": 0, "refused": 0}
for port in range(32768, 61000):
    sock = socket.socket()
    sock.setsockopt(socket.SOL_IP, 19, 1)  # IP_TRANSPARENT
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("203.0.113.7", port))
    if sock.getsockname()[1] == port:
        counts["bound"] += 1
    else:
        assert sock.connect_ex(("127.0.0.1", 1)) == errno.ECONNREFUSED
        assert sock.getsockname()[1] == 0, "it has not tried"
        counts["refused"] += 1
    sock.close()
print(counts)
"""


def test_on_older_kernels_clients_have_a_third_of_the_ports(rig: Rig, tmp_path) -> None:
    """And HAProxy is refused with a further one, as it is with one that is in use."""
    source = tmp_path / "old_kernel.c"
    source.write_text(OLD_KERNEL)
    old = compiling.compiled(tmp_path, "old-{}.so", ("cc", "-shared", "-fPIC", str(source)), [source])
    env = {"LD_PRELOAD": f"{image.client_port()}:{old}"}
    done = rig.lab.pod.run([sys.executable, "-c", BIND], env=env, stdout=subprocess.PIPE, check=True)
    assert done.stdout.strip() == str({"bound": 28232 // 3, "refused": 28232 - 28232 // 3})
