"""`srcip-proxy outbound` in a real Pod: both forms, under what a cluster grants, and requests that leave the Pod."""

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from rig import OTHER4, OTHER6, POD4, needs_root

from srcip_lab import image
from srcip_lab.lab import Lab
from srcip_lab.namespace import Host
from srcip_lab.plan_pod import IMAGE
from srcip_lab.state import wait_until

pytestmark = pytest.mark.dataplane

PORT, PLAIN_PORT = 8080, 8081
"""Of the server outside; requests to the first get headers."""
NAME = "shop-0"
OPTIONS = ["-P", str(PORT), "-H", "X-Team: shop", "--Set-Forwarded-For", "default", "--Set-Client-Hostname", "default"]
STRICT = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}
ROOT = {**STRICT, "runAsUser": 0, "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "SETUID", "SETGID", "KILL"]}}
"""The least that the one-container form needs."""
ROOT_BY_DEFAULT = {"capabilities": {"add": ["NET_ADMIN"]}}
"""What a manifest of the nginx image says."""
USER = {**STRICT, "runAsUser": 1337, "runAsGroup": 1337, "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]}}
CLIENT = f"""
import json, os, signal, socket, sys, time

LINES = "GET / HTTP/1.1", "Host: a.example", "X-Forwarded-For: 192.0.2.9", "Connection: close", "", ""

def get(host, port={PORT}):
    with socket.create_connection((host, port), 5) as s:
        s.sendall("\\r\\n".join(LINES).encode())
        answer = b"".join(iter(lambda: s.recv(65536), b"")).decode()
    return answer.partition("\\r\\n\\r\\n")[2]

def status(name):
    for pid in filter(str.isdigit, os.listdir("/proc")):
        lines = dict(line.split(":", 1) for line in open(f"/proc/{{pid}}/status").read().splitlines() if ":" in line)
        if lines["Name"].strip() == name:
            return {{key: value.split() for key, value in lines.items()}}

def say(*words):
    print(*words, flush=True)

def server_is_up(port={PLAIN_PORT}):
    while True:
        try:
            return socket.create_connection(({OTHER4!r}, port), 5).close()
        except OSError:
            time.sleep(0.01)

server_is_up()
"""


class Server:
    """An HTTP server of a host outside: it answers with the head of the request, as it came."""

    def __init__(self, host: Host, ports: Sequence[int]) -> None:
        self._listeners = [host.listen(port, "::" if host.ipv6 else "0.0.0.0") for port in ports]
        for listener in self._listeners:
            threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, peer = listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(5)
                head = b""
                while b"\r\n\r\n" not in head:
                    head += connection.recv(65536) or b"\r\n\r\n"
                body = f"{peer[0].removeprefix('::ffff:')}\n".encode() + head
                connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body)

    def close(self) -> None:
        for listener in self._listeners:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()


Start = Callable[..., Lab]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a Pod with one container of the image, and a server outside."""
    needs_root()
    labs: list[tuple[Lab, Server]] = []

    def run(options: Sequence[str], context: dict[str, Any], *, ipv6: bool = True, restart: str = "Never") -> Lab:
        downward = {"name": "PODIP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
        container = {"name": "app", "image": IMAGE, "command": ["srcip-proxy", "outbound", *options]}
        spec = {"containers": [{**container, "env": [downward], "securityContext": context}], "restartPolicy": restart}
        lab = Lab.up_pod({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": NAME}, "spec": spec}, ipv6=ipv6)
        labs.append((lab, Server(lab.other, (PORT, PLAIN_PORT))))
        return lab

    yield run
    for lab, server in labs:
        server.close()
        lab.down()


def application(code: str) -> list[str]:
    """The end of a command line that runs this Python code as the application."""
    return ["--", "python3", "-I", "-c", CLIENT + code]


def ended(lab: Lab) -> tuple[int | None, str]:
    """Exit code and log of the container, once it has ended."""
    assert wait_until(lambda: lab.container("app").state == "terminated", 20), lab.log("app")
    return lab.container("app").exit_code, lab.log("app")


def waited(lab: Lab, word: str, times: int = 1) -> str:
    """The container's log, once it holds `word` so many times."""
    assert wait_until(lambda: lab.log("app").count(word) >= times, 20), lab.log("app")
    return lab.log("app")


def seen(text: str) -> tuple[str, dict[str, list[str]]]:
    """Whom the server saw, and the headers it got."""
    peer, _, head = text.replace("\r", "").partition("\n")
    headers: dict[str, list[str]] = {}
    for line in head.strip().splitlines()[1:]:
        name, _, value = line.partition(": ")
        headers.setdefault(name.lower(), []).append(value)
    return peer, headers


def rules(lab: Lab) -> str:
    """All that the image's nft lists; the one of this machine may be too old for it."""
    nft = ["chroot", str(image.proxy_rootfs()), "nft"]
    return lab.pod.run([*nft, "list", "ruleset"], capture_output=True, check=True).stdout


def ask(host: Host, address: str, port: int = PORT) -> tuple[str, dict[str, list[str]]]:
    """One request of a process of the Pod, which no container started."""
    code = CLIENT + "sys.stdout.write(get(sys.argv[1], int(sys.argv[2])))"
    words = [sys.executable, "-c", code, address, str(port)]
    return seen(host.run(words, capture_output=True, check=True).stdout)


WRITTEN = {"x-team": ["shop"], "x-forwarded-for": [POD4], "x-client-hostname": [NAME]}


@pytest.mark.parametrize("context", [ROOT, ROOT_BY_DEFAULT], ids=["least", "default"])
def test_the_applications_requests_get_the_headers_and_its_exit_code_is_ours(start: Start, context: Any) -> None:
    """From its first request on, over IPv4 and IPv6, from the Pod's own address. The rules go with it."""
    code = (
        f"import json\nsay(json.dumps([get({OTHER4!r}), get({OTHER6!r}), get({OTHER4!r}, {PLAIN_PORT})]))\nsys.exit(3)"
    )
    lab = start([*OPTIONS, *application(code)], context)
    exit_code, log = ended(lab)
    assert exit_code == 3, log
    line = next(line for line in log.splitlines() if line.startswith("["))
    first, second, plain = map(seen, json.loads(line))
    assert [first[0], second[0], plain[0]] == [POD4, lab.pod.ipv6, POD4]
    assert {name: first[1].get(name) for name in WRITTEN} == WRITTEN
    assert {name: second[1].get(name) for name in WRITTEN} == WRITTEN
    assert plain[1]["x-forwarded-for"] == ["192.0.2.9"]
    assert "x-team" not in plain[1]
    assert rules(lab) == ""
    summary = f"srcip-proxy outbound: requests to port {PORT} get X-Team, X-Forwarded-For, X-Client-Hostname"
    assert log.splitlines()[:2] == [summary, line]


def test_haproxy_is_user_1337_without_any_capability_and_the_application_is_not(start: Start) -> None:
    lab = start([*OPTIONS, *application("say(json.dumps([status('haproxy'), status('python3'), os.getppid()]))")], ROOT)
    _, log = ended(lab)
    haproxy, own, parent = json.loads(next(line for line in log.splitlines() if line.startswith("[")))
    assert [haproxy[name] for name in ("Uid", "Gid", "Groups")] == [["1337"] * 4, ["1337"] * 4, []]
    assert [int(haproxy[name][0], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")] == [0] * 4
    assert haproxy["NoNewPrivs"] == ["1"]
    assert own["Uid"] == ["0"] * 4
    assert parent == 1


def test_signals_reach_the_application_in_its_container(start: Start) -> None:
    code = "signal.signal(signal.SIGTERM, lambda *_: (say('told'), sys.exit(9)))\nsay('up')\ntime.sleep(30)\n"
    lab = start([*OPTIONS, *application(code)], ROOT)
    waited(lab, "up\n")
    lab.signal("app", 15)
    exit_code, log = ended(lab)
    assert (exit_code, "told\n" in log) == (9, True)


def test_an_application_may_have_any_user_but_1337(start: Start) -> None:
    """One that gives up root: its requests get the headers, and signals still reach it."""
    code = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))\n"
    code += f"say(os.getuid(), status('python3')['CapEff'], get({OTHER4!r}), 'up')\ntime.sleep(30)\n"
    words = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "--no-new-privs", "--"]
    lab = start([*OPTIONS, "--", *words, *application(code)[1:]], ROOT)
    log = waited(lab, "up\n")
    assert f"1000 {['0' * 16]} {POD4}" in log
    assert "x-team: shop" in log.lower()
    lab.signal("app", 15)
    assert ended(lab)[0] == 9


def test_when_haproxy_dies_requests_are_refused_until_the_container_has_started_again(start: Start) -> None:
    """The application is told to end and the exit code is 1; the rules stay: nothing leaves without its headers."""
    code = "signal.signal(signal.SIGTERM, lambda *_: (say('told'), sys.exit(0)))\n"
    code += f"say('got', 'shop' in get({OTHER4!r}))\n"
    code += "say('haproxy', status('haproxy')['Pid'][0])\ntime.sleep(60)\n"
    lab = start([*OPTIONS, *application(code)], ROOT, restart="Always")
    inside = int(waited(lab, "haproxy ").rpartition("haproxy ")[2])
    hold = lab.directory.hold("app")
    hold.parent.mkdir(exist_ok=True)
    hold.touch()
    kill_inside(lab, inside)
    exit_code, log = ended(lab)
    assert exit_code == 1, log
    assert "HAProxy ended with exit code 137; the application is told to end" in log
    assert "told\n" in log
    with pytest.raises(ConnectionRefusedError):
        lab.pod.connect(OTHER4, PORT)
    lab.pod.connect(OTHER4, PLAIN_PORT).close()
    lab.release("app")
    waited(lab, "got True", 2)


def kill_inside(lab: Lab, number: int) -> None:
    """Kill a process by its number in the container's PID namespace."""
    process = lab.container("app").process
    assert process
    words = ["nsenter", f"--target={process.pid}", "--pid", "kill", "-KILL", str(number)]
    subprocess.run(words, check=True)


def test_a_pod_without_ipv6_works(start: Start) -> None:
    lab = start([*OPTIONS, *application(f"say(get({OTHER4!r}))")], ROOT, ipv6=False)
    exit_code, log = ended(lab)
    assert (exit_code, "x-team: shop" in log.lower()) == (0, True), log


def test_as_a_sidecar_the_process_is_haproxy_alone(start: Start) -> None:
    """User 1337 with NET_ADMIN for the rules; HAProxy itself has nothing left of it, and no Python is resident."""
    lab = start(OPTIONS, USER)
    waited(lab, f"requests to port {PORT} get")
    process = lab.container("app").process
    assert process
    fields = wait_for_haproxy(process.pid)
    assert fields["Uid"].split() == ["1337"] * 4
    assert [int(fields[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")] == [0] * 4
    assert fields["NoNewPrivs"].strip() == "1"
    peer, headers = ask(lab.pod, OTHER4)
    assert peer == POD4
    assert {name: headers.get(name) for name in WRITTEN} == WRITTEN
    assert ask(lab.pod, OTHER6)[1]["x-team"] == ["shop"]
    lab.signal("app", 10)
    assert ended(lab)[0] == 0
    with pytest.raises(ConnectionRefusedError):
        lab.pod.connect(OTHER4, PORT)


def wait_for_haproxy(number: int) -> dict[str, str]:
    """The status of the process, once it is HAProxy."""
    deadline = time.monotonic() + 10
    while True:
        with open(f"/proc/{number}/status") as file:  # noqa: PTH123
            fields = dict(line.split(":", 1) for line in file.read().splitlines() if ":" in line)
        if fields["Name"].strip() == "haproxy":
            return fields
        assert time.monotonic() < deadline, fields["Name"]
        time.sleep(0.01)


def test_a_sidecar_that_is_root_gives_up_everything(start: Start) -> None:
    """As the nginx image runs: HAProxy must be user 1337 all the same, or its own requests would come back to it."""
    lab = start(OPTIONS, ROOT_BY_DEFAULT)
    process = lab.container("app").process
    assert process
    fields = wait_for_haproxy(process.pid)
    assert fields["Uid"].split() == ["1337"] * 4
    assert [int(fields[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")] == [0] * 5
    assert wait_until(lambda: "15006" in lab.pod.run(["ss", "-Hltn"], capture_output=True).stdout, 10)
    assert ask(lab.pod, OTHER4)[1]["x-team"] == ["shop"]


@pytest.mark.parametrize(
    ("context", "with_application", "said"),
    [
        ({**ROOT, "capabilities": {"drop": ["ALL"]}}, True, "CAP_NET_ADMIN is missing"),
        ({**ROOT, "capabilities": {"drop": ["ALL"]}}, True, "root lacks the capabilities KILL, SETGID, SETUID"),
        (USER, True, "the application would run as user 1337"),
        ({**USER, "runAsUser": 1000}, False, "start the container as user 1337"),
        ({**USER, "capabilities": {"drop": ["ALL"]}}, False, "CAP_NET_ADMIN is missing"),
    ],
)
def test_what_the_container_lacks_is_said_and_nothing_is_done(
    start: Start, context: Any, with_application: bool, said: str
) -> None:
    lab = start([*OPTIONS, *(application("say('ran')\n") if with_application else [])], context)
    exit_code, log = ended(lab)
    assert (exit_code, said in log, "ran" in log) == (1, True, False), log
    assert "srcip" not in rules(lab)


@pytest.fixture
def held(start: Start) -> Lab:
    """A Pod whose application has ended, and starts again only when it is released."""
    lab = start([*OPTIONS, *application("say('ran')\ntime.sleep(0.3)")], ROOT, restart="Always")
    lab.directory.hold("app").parent.mkdir(exist_ok=True)
    lab.directory.hold("app").touch()
    assert wait_until(lambda: lab.container("app").state == "terminated", 20)
    return lab


def test_a_port_of_haproxy_that_is_taken_is_said_and_the_application_does_not_start(held: Lab) -> None:
    before = held.log("app").count("ran")
    with held.pod.listen(15020, "::"):
        held.release("app")
        log = waited(held, "HAProxy did not start: exit code 1")
        assert log.count("ran") == before
        assert "cannot bind socket" in log


def test_rules_of_an_injected_pod_are_left_alone(held: Lab) -> None:
    before = held.log("app").count("ran")
    table = "table inet srcip {\n chain intercept {\n type filter hook prerouting priority raw;\n }\n}\n"
    held.pod.run(["nft", "-f", "-"], input=table, check=True)
    held.release("app")
    log = waited(held, "srcip runs in this Pod already; where it is injected use srcip.io/outbound-ports")
    assert "chain intercept" in rules(held)
    assert log.count("ran") == before


def test_a_second_one_in_the_same_pod_leaves_the_first_alone(start: Start) -> None:
    lab = start(OPTIONS, USER)
    assert wait_until(lambda: answers(lab), 10)
    before = rules(lab)
    done = lab.exec("app", ["srcip-proxy", "outbound", "-H", "a:b"], capture_output=True)
    assert (done.returncode, "srcip runs in this Pod already" in done.stderr) == (1, True), done.stderr
    assert rules(lab) == before
    assert ask(lab.pod, OTHER4)[1]["x-team"] == ["shop"]


def answers(lab: Lab) -> bool:
    """Whether the sidecar is ready, as kubelet asks."""
    try:
        with lab.node.connect(POD4, 15020) as connection:
            connection.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
            return b" 200 " in connection.recv(1024)
    except OSError:
        return False


def test_what_the_application_sent_before_its_end_arrives(start: Start) -> None:
    """As it would from the kernel's own buffers: the application writes, closes and is gone."""
    sink, go = PORT + 10, PORT + 11
    code = f"server_is_up({go})\ns = socket.create_connection(({OTHER4!r}, {sink}), 5)\n"
    code += "s.sendall(b'x' * 3000000)\ns.close()\n"
    lab = start(["-P", str(sink), "-H", "X-Team: shop", *application(code)], ROOT)
    with lab.other.listen(sink) as listener, lab.other.listen(go):
        listener.settimeout(20)
        connection, _ = listener.accept()
        with connection:
            time.sleep(0.2)  # a server that is slow at first
            got = b"".join(iter(lambda: connection.recv(1 << 20), b""))
    assert len(got) == 3000000
    assert ended(lab)[0] == 0
