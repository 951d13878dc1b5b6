"""`srcip-proxy outbound` in one container with the application, under what a cluster grants."""

import json
import re
import subprocess
import time
from typing import Any

import pytest
import yaml

from srcip_lab.lab import Lab
from srcip_lab.plan_pod import IMAGE
from srcip_lab.state import wait_until
from support.outbound_command_rig import (
    OPTIONS,
    PLAIN_PORT,
    PORT,
    ROOT,
    ROOT_BY_DEFAULT,
    USER,
    WRITTEN,
    Pods,
    application,
    documented,
    ended,
    rules,
    seen,
    waited,
)
from support.rig import OTHER4, OTHER6, POD4

pytestmark = pytest.mark.dataplane


@pytest.mark.parametrize("context", [ROOT, ROOT_BY_DEFAULT], ids=["least", "default"])
def test_the_applications_requests_get_the_headers_and_its_exit_code_is_ours(pods: Pods, context: Any) -> None:
    """From its first request on, over IPv4 and IPv6, from the Pod's own address. The rules go with it."""
    code = (
        f"import json\nsay(json.dumps([get({OTHER4!r}), get({OTHER6!r}), get({OTHER4!r}, {PLAIN_PORT})]))\nsys.exit(3)"
    )
    lab = pods.outbound([*OPTIONS, *application(code)], context)
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


def test_haproxy_is_user_1337_without_any_capability_and_the_application_is_not(pods: Pods) -> None:
    lab = pods.outbound(
        [*OPTIONS, *application("say(json.dumps([status('haproxy'), status('python3'), os.getppid()]))")], ROOT
    )
    _, log = ended(lab)
    haproxy, own, parent = json.loads(next(line for line in log.splitlines() if line.startswith("[")))
    assert [haproxy[name] for name in ("Uid", "Gid", "Groups")] == [["7363"] * 4, ["7363"] * 4, []]
    assert [int(haproxy[name][0], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")] == [0] * 4
    assert haproxy["NoNewPrivs"] == ["1"]
    assert own["Uid"] == ["0"] * 4
    assert parent == 1


def test_signals_reach_the_application_in_its_container(pods: Pods) -> None:
    code = "signal.signal(signal.SIGTERM, lambda *_: (say('told'), sys.exit(9)))\nsay('up')\ntime.sleep(30)\n"
    lab = pods.outbound([*OPTIONS, *application(code)], ROOT)
    waited(lab, "up\n")
    lab.signal("app", 15)
    exit_code, log = ended(lab)
    assert (exit_code, "told\n" in log) == (9, True)


def test_an_application_may_have_any_user_but_1337(pods: Pods) -> None:
    """One that gives up root: its requests get the headers, and signals still reach it."""
    code = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))\n"
    code += f"say(os.getuid(), status('python3')['CapEff'], get({OTHER4!r}), 'up')\ntime.sleep(30)\n"
    words = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "--no-new-privs", "--"]
    lab = pods.outbound([*OPTIONS, "--", *words, *application(code)[1:]], ROOT)
    log = waited(lab, "up\n")
    assert f"1000 {['0' * 16]} {POD4}" in log
    assert "x-team: shop" in log.lower()
    lab.signal("app", 15)
    assert ended(lab)[0] == 9


def test_when_haproxy_dies_requests_are_refused_until_the_container_has_started_again(pods: Pods) -> None:
    """The application is told to end and the exit code is 1; the rules stay: nothing leaves without its headers."""
    code = "signal.signal(signal.SIGTERM, lambda *_: (say('told'), sys.exit(0)))\n"
    code += f"say('got', 'shop' in get({OTHER4!r}))\n"
    code += "say('haproxy', status('haproxy')['Pid'][0])\ntime.sleep(60)\n"
    lab = pods.outbound([*OPTIONS, *application(code)], ROOT, restart="Always")
    inside = int(waited(lab, "haproxy ").rpartition("haproxy ")[2])
    hold = lab.directory.hold("app")
    hold.parent.mkdir(exist_ok=True)
    hold.touch()
    kill_inside(lab, inside)
    exit_code, log = ended(lab)
    assert exit_code == 1, log
    assert "HAProxy ended with exit code 137; stopping the application" in log
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


def test_a_pod_without_ipv6_works(pods: Pods) -> None:
    lab = pods.outbound([*OPTIONS, *application(f"say(get({OTHER4!r}))")], ROOT, ipv6=False)
    exit_code, log = ended(lab)
    assert (exit_code, "x-team: shop" in log.lower()) == (0, True), log


@pytest.mark.parametrize(
    ("context", "with_application", "said"),
    [
        ({**ROOT, "capabilities": {"drop": ["ALL"]}}, True, "CAP_NET_ADMIN is missing"),
        ({**ROOT, "capabilities": {"drop": ["ALL"]}}, True, "root lacks the capabilities KILL, SETGID, SETUID"),
        (USER, True, "the application would run as user 7363"),
        ({**USER, "runAsUser": 1000}, False, "start the container as user 7363"),
        ({**USER, "capabilities": {"drop": ["ALL"]}}, False, "CAP_NET_ADMIN is missing"),
    ],
)
def test_what_the_container_lacks_is_said_and_nothing_is_done(
    pods: Pods, context: Any, with_application: bool, said: str
) -> None:
    lab = pods.outbound([*OPTIONS, *(application("say('ran')\n") if with_application else [])], context)
    exit_code, log = ended(lab)
    assert (exit_code, said in log, "ran" in log) == (1, True, False), log
    assert "srcip" not in rules(lab)


@pytest.fixture
def held(pods: Pods) -> Lab:
    """A Pod whose application has ended, and starts again only when it is released."""
    lab = pods.outbound([*OPTIONS, *application("say('ran')\ntime.sleep(0.3)")], ROOT, restart="Always")
    lab.directory.hold("app").parent.mkdir(exist_ok=True)
    lab.directory.hold("app").touch()
    assert wait_until(lambda: lab.container("app").state == "terminated", 20)
    return lab


def test_a_port_of_haproxy_that_is_taken_is_said_and_the_application_does_not_start(held: Lab) -> None:
    before = held.log("app").count("ran")
    with held.pod.listen(15320, "::"):
        held.release("app")
        log = waited(held, "HAProxy did not start: exit code 1")
        assert log.count("ran") == before
        assert "cannot bind socket" in log


def test_rules_of_an_injected_pod_are_left_alone(held: Lab) -> None:
    before = held.log("app").count("ran")
    table = "table inet srcip {\n chain intercept {\n type filter hook prerouting priority raw;\n }\n}\n"
    held.pod.run(["nft", "-f", "-"], input=table, check=True)
    held.release("app")
    log = waited(held, "srcip is injected into this Pod already; remove this command and set srcip.io/outbound-ports")
    assert "chain intercept" in rules(held)
    assert log.count("ran") == before


def test_what_the_application_sent_before_its_end_arrives(pods: Pods) -> None:
    """As it would from the kernel's own buffers: the application writes, closes and is gone."""
    sink, go = PORT + 10, PORT + 11
    code = f"server_is_up({go})\ns = socket.create_connection(({OTHER4!r}, {sink}), 5)\n"
    code += "s.sendall(b'x' * 3000000)\ns.close()\n"
    lab = pods.outbound(["-P", str(sink), "-H", "X-Team: shop", *application(code)], ROOT)
    with lab.other.listen(sink) as listener, lab.other.listen(go):
        listener.settimeout(20)
        connection, _ = listener.accept()
        with connection:
            time.sleep(0.2)  # a server that is slow at first
            got = b"".join(iter(lambda: connection.recv(1 << 20), b""))
    assert len(got) == 3000000
    assert ended(lab)[0] == 0


def test_the_documented_single_container_works(pods: Pods) -> None:
    """With the entry point of the documented Dockerfile."""
    (entry,) = re.findall(r"^ENTRYPOINT (.*)$", documented("dockerfile")[0], re.MULTILINE)
    spec = yaml.safe_load(documented("yaml")[1])["spec"]
    command = [*json.loads(entry), *application(f"say(get({OTHER4!r}, 80))")[1:]]
    spec["containers"][0] |= {"image": IMAGE, "command": command}
    _, log = ended(pods.run({**spec, "restartPolicy": "Never"}))
    assert f"x-forwarded-for: {POD4}" in log, log
