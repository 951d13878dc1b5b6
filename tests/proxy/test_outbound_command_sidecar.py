"""`srcip-proxy outbound` as a sidecar: HAProxy alone, with nothing that it does not need."""

import pytest
import yaml

from srcip_lab.plan_pod import IMAGE
from srcip_lab.state import wait_until
from support.outbound_command_rig import (
    OPTIONS,
    PORT,
    ROOT_BY_DEFAULT,
    USER,
    WRITTEN,
    Pods,
    answers,
    application,
    ask,
    documented,
    ended,
    rules,
    seen,
    wait_for_haproxy,
    waited,
)
from support.rig import OTHER4, OTHER6, POD4

pytestmark = pytest.mark.dataplane


def test_as_a_sidecar_the_process_is_haproxy_alone(pods: Pods) -> None:
    """User 7363 with NET_ADMIN for the rules; HAProxy itself has nothing left of it, and no Python is resident."""
    lab = pods.outbound(OPTIONS, USER)
    waited(lab, f"requests to port {PORT} get")
    process = lab.container("app").process
    assert process
    fields = wait_for_haproxy(process.pid)
    assert fields["Uid"].split() == ["7363"] * 4
    assert [int(fields[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")] == [0] * 4
    assert fields["NoNewPrivs"].strip() == "1"
    assert wait_until(lambda: answers(lab), 10)
    peer, headers = ask(lab.pod, OTHER4)
    assert peer == POD4
    assert {name: headers.get(name) for name in WRITTEN} == WRITTEN
    assert ask(lab.pod, OTHER6)[1]["x-team"] == ["shop"]
    lab.signal("app", 10)
    assert ended(lab)[0] == 0
    with pytest.raises(ConnectionRefusedError):
        lab.pod.connect(OTHER4, PORT)


def test_a_sidecar_that_is_root_gives_up_everything(pods: Pods) -> None:
    """As the nginx image runs: HAProxy must be user 7363 all the same, or its own requests would come back to it."""
    lab = pods.outbound(OPTIONS, ROOT_BY_DEFAULT)
    process = lab.container("app").process
    assert process
    fields = wait_for_haproxy(process.pid)
    assert fields["Uid"].split() == ["7363"] * 4
    assert [int(fields[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")] == [0] * 5
    assert wait_until(lambda: answers(lab), 10)
    assert ask(lab.pod, OTHER4)[1]["x-team"] == ["shop"]


def test_a_second_one_in_the_same_pod_leaves_the_first_alone(pods: Pods) -> None:
    lab = pods.outbound(OPTIONS, USER)
    assert wait_until(lambda: answers(lab), 10)
    before = rules(lab)
    done = lab.exec("app", ["srcip-proxy", "outbound", "-H", "a:b"], capture_output=True)
    assert (done.returncode, "srcip is injected into this Pod already" in done.stderr) == (1, True), done.stderr
    assert rules(lab) == before
    assert ask(lab.pod, OTHER4)[1]["x-team"] == ["shop"]


def test_the_documented_sidecar_works(pods: Pods) -> None:
    """As it is written, but for the image's name: the application's first request has the headers."""
    spec = yaml.safe_load(documented("yaml")[0])["spec"]
    spec["initContainers"][0]["image"] = IMAGE
    spec["containers"][0] |= {"image": IMAGE, "command": application(f"say(get({OTHER4!r}, 80))")[1:]}
    _, log = ended(pods.run({**spec, "restartPolicy": "Never"}))
    assert {"x-team": ["shop"], "x-forwarded-for": [POD4]}.items() <= seen(log)[1].items(), log
