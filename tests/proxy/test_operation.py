"""Failure, limits, hostile senders, and what the operator can see."""

import random
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from srcip_lab import plan_pod
from srcip_lab.errors import LabError
from srcip_lab.lab import Lab
from srcip_proxy.plan import ENV, Plan, ProbeAlias
from support.rig import (
    CLIENT4,
    CLIENT6,
    HEADER_TIMEOUT_MS,
    POD4,
    POD6,
    PORT,
    SHORT,
    Rig,
    RigFactory,
    Seen,
    in_image,
    plan,
    start,
    v1,
    v2,
)
from support.waiting import AT_ONCE_S, until

pytestmark = pytest.mark.dataplane


@pytest.fixture
def own() -> Iterator[Rig]:
    """A Pod that a test may break."""
    with started(plan()) as rig:
        yield rig


@contextmanager
def started(wanted: Plan) -> Iterator[Rig]:
    lab = start(wanted, ("::", str(PORT)))
    try:
        yield Rig(lab)
    finally:
        lab.down()


def test_while_the_sidecar_is_down_trusted_connections_are_reset(own: Rig) -> None:
    """They never reach the application with the balancer's address; all others go on; a new sidecar takes over."""
    with own.connect() as before:
        before.send(v2())
        assert before.seen().peer == CLIENT4
        own.lab.kill_sidecar(hold=True)
        assert before.seen().end in ("reset", "end")
        accepted = own.accepted()
        for _ in range(5):
            with pytest.raises(ConnectionRefusedError):
                own.connect()
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            for _ in range(20):
                before.send(b"more")
                time.sleep(0.01)
        assert own.accepted() == accepted
        assert own.seen(b"x", host=own.lab.other).rest == b"x"
    own.lab.release()
    assert own.seen(v2() + b"x") == Seen(CLIENT4, b"x", "open")


def test_init_may_run_again_while_traffic_flows(own: Rig) -> None:
    """kubelet does that after a restart of the node's runtime."""
    with own.connect() as client:
        client.send(v2())
        assert client.seen().peer == CLIENT4
        for _ in range(2):
            assert run_init(own.lab, plan()).returncode == 0
        client.send(b"still here")
        assert client.seen(rest=10).rest == b"still here"
    assert own.seen(v2() + b"x") == Seen(CLIENT4, b"x", "open")
    rules = own.lab.pod.run(["ip", "rule"], capture_output=True).stdout
    assert rules.count("lookup 7363") == 2


def run_init(lab: Lab, wanted: Plan) -> subprocess.CompletedProcess[str]:
    """`srcip-proxy init` once more, in the Pod's network, with the files of the image."""
    return in_image(lab, "python3 -I -m srcip_proxy init", {ENV: wanted.to_env(), "POD_IP": lab.pod.ipv4})


def test_open_connections_may_finish_when_the_sidecar_is_told_to_stop() -> None:
    """SIGUSR1: no new connections; the open ones go on."""
    with started(plan(drain_timeout_s=3600)) as own, own.connect() as client:
        client.send(v2())
        assert client.seen().peer == CLIENT4
        told_to_stop(own)
        until(lambda: refuses(own))
        client.send(b"bye")
        assert client.seen(rest=3).rest == b"bye"


def test_the_drain_timeout_ends_what_is_still_open() -> None:
    with started(plan(drain_timeout_s=1)) as own, own.connect() as client:
        client.send(v2())
        assert client.seen().peer == CLIENT4
        began = time.monotonic()
        told_to_stop(own)
        assert client.end().end in ("end", "reset")
        assert 0.9 < time.monotonic() - began < AT_ONCE_S


def told_to_stop(own: Rig) -> None:
    """SIGUSR1 for the sidecar, which is not started again."""
    hold = own.lab.directory.hold("srcip-proxy")
    hold.parent.mkdir(exist_ok=True)
    hold.touch()
    own.lab.signal("srcip-proxy", signal.SIGUSR1)


def refuses(own: Rig) -> bool:
    """Whether a new connection of the balancer is refused."""
    try:
        own.connect().sock.close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        pass
    return False


def test_a_thousand_silent_connections_do_not_keep_others_out(rig: Rig) -> None:
    """They may be silent for longer than the others take."""
    silent = [rig.connect() for _ in range(1000)]
    try:
        began = time.monotonic()
        assert rig.seen(v2() + b"x") == Seen(CLIENT4, b"x", "open")
        assert time.monotonic() - began < AT_ONCE_S < HEADER_TIMEOUT_MS / 1000
    finally:
        for client in silent:
            client.sock.close()


def test_silent_connections_are_reset_when_their_time_is_over(rigs: RigFactory) -> None:
    """With a line that names who connects in silence."""
    rig = rigs(plan(**SHORT))
    silent = [rig.connect() for _ in range(20)]
    assert [client.seen().end for client in silent] == ["reset"] * 20
    assert "AWS NLB" in rig.waited("reason=header_silence")


def test_a_header_at_one_byte_at_a_time_has_one_timeout_for_all(rigs: RigFactory) -> None:
    """Each byte comes well within it, and the whole header does not: with a time for each byte it would be taken."""
    rig = rigs(plan(**SHORT))
    before = rig.accepted()
    with rig.connect() as client:
        with pytest.raises(OSError):
            for byte in v1() * 3:
                client.send(bytes([byte]))
                time.sleep(0.1)
        assert client.got == b""
    assert rig.accepted() == before


@pytest.mark.parametrize("size", [4096 - 16 + 1, 65535])
def test_a_header_above_the_limit_is_refused_before_it_is_whole(rig: Rig, size: int) -> None:
    header = v2()[:14] + size.to_bytes(2, "big") + b"\0" * size
    with rig.connect() as client:
        try:
            client.send(header)
        except OSError:
            return
        assert client.seen().refused


def test_a_header_up_to_the_limit_is_taken(rig: Rig) -> None:
    padding = 4096 - 16 - 12 - 3
    noop = b"\x04" + padding.to_bytes(2, "big") + b"\0" * padding
    header = v2(tlvs=noop)
    assert len(header) == 4096
    assert rig.seen(header + b"x") == Seen(CLIENT4, b"x", "open")


def test_random_bytes_never_reach_the_application_and_harm_nobody(rig: Rig) -> None:
    """Noise, and valid headers with noise in them: refused, or delivered with exactly what the header says."""
    chance = random.Random(7)  # noqa: S311
    before = rig.accepted()
    for number in range(400):
        data = bytearray(chance.randbytes(chance.randrange(1, 200)))
        if number % 2:
            data[:12] = v2()[:12]
            data[12:13] = bytes([chance.choice([0x11, 0x22, 0x2F, 0x31])])  # never a valid version and command
        with rig.connect() as client:
            client.send(bytes(data))
            with suppress(OSError):  # it may be reset by now
                client.finish()
            assert client.seen().refused
    assert rig.accepted() == before
    assert rig.seen(v2() + b"x") == Seen(CLIENT4, b"x", "open")


def test_an_ipv6_client_needs_no_ipv6_network_in_the_pod(own: Rig) -> None:
    """As in a cluster with IPv4 alone, where the kernel has IPv6 but the Pod no address of it."""
    own.lab.pod.run(["ip", "-6", "addr", "flush", "dev", "eth0"], check=True)
    own.lab.pod.run(["ip", "-6", "route", "flush", "dev", "eth0"])
    assert run_init(own.lab, plan()).returncode == 0  # POD_IP alone, as there
    assert own.seen(v2(CLIENT6) + b"x") == Seen(CLIENT6, b"x", "open")


def test_one_client_cannot_take_all_connections(rigs: RigFactory) -> None:
    rig = rigs(plan(max_connections_per_client=3))
    clients = [rig.connect() for _ in range(4)]
    for number, client in enumerate(clients):
        client.send(v2(("203.0.113.30", 51000 + number)))
    seen = [client.seen() for client in clients]
    assert [s.refused for s in seen].count(True) == 1
    assert rig.seen(v2(("203.0.113.31", 51000)) + b"x").rest == b"x"
    for client in clients:
        client.sock.close()
    assert rig.metric('srcip_refused_connections_total{reason="too_many"}') == 1


def test_beyond_the_limit_connections_wait_for_their_turn(rigs: RigFactory) -> None:
    rig = rigs(plan(max_connections=2))
    first, second, third = (rig.connect() for _ in range(3))
    for client in (first, second, third):
        client.send(v2())
    assert first.seen().peer
    assert second.seen().peer
    assert third.seen(timeout=0.4).peer is None
    first.sock.close()
    assert third.seen().peer
    second.sock.close()
    third.sock.close()


def test_idle_connections_to_the_health_port_take_nothing_from_others(rigs: RigFactory) -> None:
    """Neither from traffic nor, held by one address, from those who ask for the Pod's health."""
    rig = rigs(plan(max_connections=20, max_connections_per_client=0))
    with ExitStack() as held:
        for _ in range(200):
            with suppress(ConnectionResetError):  # beyond its share
                held.enter_context(rig.lab.other.connect(rig.pod_ip, 15320))
        clients = [held.enter_context(rig.connect()) for _ in range(15)]
        for number, client in enumerate(clients):
            client.send(v1(("203.0.113.50", 51000 + number)) + b"x")
            assert client.seen(rest=1, quiet=0.001).peer == ("203.0.113.50", 51000 + number)
        assert rig.get("/healthz")[0] == 200


def test_traffic_takes_nothing_from_the_health_port(rigs: RigFactory) -> None:
    """When both IP versions have all the connections they can have, and more wait."""
    rig = rigs(plan(max_connections=20, max_connections_per_client=0))
    with ExitStack() as held:
        for to in (POD4, POD6) * 25:
            held.enter_context(rig.connect(to=to)).send(v1() + b"x")
        assert rig.get("/healthz")[0] == 200


def test_each_refusal_is_logged_with_source_reason_and_cure(own: Rig) -> None:
    with own.connect() as client:
        client.send(b"GET / HTTP/1.1\r\n\r\n")
        assert client.seen().refused
    line = own.waited("reason=no_header")
    assert "refused connection from 10.77.1.2:" in line
    assert f"to port {PORT}" in line
    assert "what to do: configure the balancer to send the PROXY protocol" in line


def test_the_log_is_limited_and_says_what_it_left_out(own: Rig) -> None:
    """Five a second; what is not shown is counted in the next line."""
    began = time.monotonic()
    with own.paused():  # so that all of them come within few seconds
        clients = [own.connect() for _ in range(200)]
        for client in clients:
            client.send(b"GET / HTTP/1.1\r\n\r\n")
    assert all(client.seen().refused for client in clients)
    time.sleep(1.1)
    assert own.seen(b"GET / HTTP/1.1\r\n\r\n").refused
    seconds = time.monotonic() - began + 2
    own.waited("similar lines suppressed")
    shown = own.log().count("refused connection")
    left_out = sum(map(int, re.findall(r"(\d+) similar lines suppressed", own.log())))
    assert shown <= 5 * seconds
    assert shown + left_out == own.metric('srcip_refused_connections_total{reason="no_header"}') == 201


def test_a_health_check_that_only_connects_leaves_no_line_and_reaches_nobody(own: Rig) -> None:
    with own.connect() as client:
        client.finish()
        client.seen()
    assert own.accepted() == 0
    assert "refused connection" not in own.log()
    assert own.metric('srcip_refused_connections_total{reason="empty"}') == 1


def test_the_table_of_connection_tracking_can_be_watched(rigs: RigFactory) -> None:
    """By the sidecar, which has no capability for it: how many connections of the Pod are in it, and how many fit."""
    rig = rigs(plan(probe_aliases=(ProbeAlias(15100, PORT),)))
    with rig.lab.node.connect(POD4, 15100) as probe:
        assert probe.recv(64)
        assert rig.metric("srcip_nf_conntrack_entries") >= 1
    limit = rig.lab.pod.run(["cat", "/proc/sys/net/netfilter/nf_conntrack_max"], capture_output=True).stdout
    assert rig.metric("srcip_nf_conntrack_entries_limit") == float(limit)


def test_health_and_metrics_answer(rig: Rig) -> None:
    assert rig.get("/healthz") == (200, "ok")
    assert rig.get("/readyz") == (200, "ready")
    assert rig.get("/nothing")[0] == 404
    status, page = rig.get("/metrics")
    assert status == 200
    assert "haproxy_process_uptime_seconds" in page
    assert 'srcip_accepted_connections_total{header="proxy"}' in page


def test_the_sidecar_runs_with_what_was_promised(rig: Rig) -> None:
    """Not root, NET_RAW alone even as a bound, no new privileges, a seccomp filter, a read-only root file system."""
    pid = rig.lab.container("srcip-proxy").process.pid
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
    )
    net_raw = f"{1 << 13:016x}"
    assert status["Uid"].split() == ["7363"] * 4
    assert {status[name] for name in ("CapBnd", "CapPrm", "CapEff")} == {net_raw}
    assert {status[name] for name in ("CapInh", "CapAmb")} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    root = next(line for line in Path(f"/proc/{pid}/mounts").read_text().splitlines() if line.split()[1] == "/")
    assert "ro" in root.split()[3].split(",")


def test_the_self_check_holds_right_after_a_client_of_the_other_family(own: Rig) -> None:
    """What the sidecar remembers of the listeners is asked anew before it says that nobody listens."""
    assert own.seen(v2(CLIENT6) + b"x").peer == CLIENT6
    done = own.lab.exec("srcip-proxy", ["srcip-proxy", "check"], capture_output=True)
    assert done.returncode == 0, done.stderr


def test_the_self_check_proves_a_running_pod_and_names_what_is_broken(own: Rig) -> None:
    done = own.lab.exec("srcip-proxy", ["srcip-proxy", "check"], capture_output=True)
    assert (done.returncode, done.stdout.count("ok  ")) == (0, 3), done
    own.lab.pod.run(["ip", "rule", "del", "from", "169.254.77.1"], check=True)
    done = own.lab.exec("srcip-proxy", ["srcip-proxy", "check"], capture_output=True)
    assert done.returncode == 1
    assert "policy routes" in done.stderr
    assert in_image(own.lab, "nft delete table inet srcip", {}).returncode == 0
    done = own.lab.exec("srcip-proxy", ["srcip-proxy", "check"], capture_output=True)
    assert "connections are not intercepted" in done.stderr


def test_init_without_its_capability_says_so() -> None:
    pod = plan_pod.pod(plan(), None)
    pod["spec"]["initContainers"][0]["securityContext"]["capabilities"]["add"] = ["NET_RAW"]
    with pytest.raises(LabError, match="CAP_NET_ADMIN is missing: the container's securityContext does not add it"):
        Lab.up_pod(pod)


def test_an_older_haproxy_is_refused_with_a_message(rig: Rig) -> None:
    """Shown with a version that is yet to come."""
    read = ["python3", "-I", "-c", "print(open('/run/srcip/haproxy.cfg').read())"]  # the image has no cat
    configuration = rig.lab.exec("srcip-proxy", read, capture_output=True).stdout
    rendered = configuration.replace("version_atleast(3.0)", "version_atleast(99.0)")
    done = in_image(rig.lab, "haproxy -c -f /run/srcip/input", {}, rendered)
    assert done.returncode == 1
    assert "srcip needs HAProxy 3.0 or newer" in done.stderr
