"""Alerts and the dashboard ask for series that exist."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from srcip_agent.ledger import Ledger
from srcip_certs.metrics import Metrics as CertsMetrics
from srcip_proxy.ebpf.counters import COUNTERS
from srcip_proxy.ebpf.exporter.pods import Name, Reading, page
from srcip_webhook.metrics import Metrics as WebhookMetrics
from srcip_webhook.mutate import consider
from srcip_webhook.names import INIT
from srcip_webhook.settings import from_environ
from support.rendering import CASES, Helm, Json, containers, one, variables

LUA = Path(__file__).parents[2] / "proxy" / "srcip_proxy" / "haproxy" / "lua" / "counters.lua"
GOLDEN = Path(__file__).parents[1] / "golden" / "webhook"
OTHERS = {
    "apiserver_admission_webhook_fail_open_count",
    "apiserver_admission_webhook_rejection_count",
    "haproxy_frontend_bytes_in_total",
    "haproxy_frontend_bytes_out_total",
    "haproxy_frontend_current_sessions",
    "kube_daemonset_status_number_unavailable",
    "kube_pod_init_container_status_running",
}
"""Series of Kubernetes, of kube-state-metrics and of HAProxy's own exporter."""
FUNCTIONS = {"absent", "and", "by", "count", "histogram_quantile", "increase", "le", "min", "or", "rate", "sum", "time"}
FUNCTIONS |= {"topk", "vector"}
WITH_AGENT: Json = {"agent": {"enabled": True}}
POD: Json = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "web", "annotations": {"srcip.io/mode": "tproxy"}},
    "spec": {"containers": [{"name": "app", "image": "app", "ports": [{"containerPort": 8080}]}]},
}


def of_python(text: str) -> dict[str, set[str]]:
    """Labels of each series in a page of metrics."""
    found: dict[str, set[str]] = {}
    for name, labels in re.findall(r"^([a-z_]+)(?:\{(.*)\})? ", text, re.MULTILINE):
        found.setdefault(name, set()).update(re.findall(r"(\w+)=", labels))
    return found


def of_lua() -> dict[str, set[str]]:
    """The same for the sidecar's own counters."""
    table = LUA.read_text().partition("local SERIES = {")[2].partition("\n}")[0]
    found = re.findall(r'^  (\w+) = \{.*?label = "(\w+)"', table, re.MULTILINE | re.DOTALL)
    return {f"srcip_{name}_connections_total": {label} for name, label in found}


def exporters() -> dict[str, set[str]]:
    """Every series that there is, with its labels; those of the scrape are added by Prometheus."""
    webhook = WebhookMetrics()
    webhook.observe("inject", "requested", 0.001)
    webhook.rejected[400] += 1
    webhook.reloads["loaded"] += 1
    ebpf = page([Reading("1", 1, (0,) * len(COUNTERS))], {"1": Name("apps", "web")})
    agent = Ledger(lambda *_, **__: None).page()
    series = of_python(webhook.text()) | of_python(CertsMetrics().text()) | of_lua() | of_python(ebpf + agent)
    series |= {name: set() for name in OTHERS}
    scrape = {"namespace", "pod", "service"}
    own = {
        "apiserver_admission_webhook": {"name", "error_type"},
        "haproxy": {"proxy"},
        "kube_daemonset": {"daemonset"},
        "kube_pod": {"container"},
    }
    return {
        name: labels | scrape | {each for prefix, more in own.items() if name.startswith(prefix) for each in more}
        for name, labels in series.items()
    }


def dashboard(helm: Helm) -> Json:
    objects = helm.objects({"metrics": {"dashboard": {"enabled": True}}})
    found: Json = json.loads(one(objects, "ConfigMap")["data"]["srcip.json"])
    return found


def rules(helm: Helm, **values: Json) -> list[Json]:
    objects = helm.objects({"metrics": {"prometheusRule": {"enabled": True}}, **values})
    (group,) = one(objects, "PrometheusRule")["spec"]["groups"]
    found: list[Json] = group["rules"]
    return found


def expressions(helm: Helm) -> Iterator[str]:
    yield from (rule["expr"] for rule in rules(helm, **WITH_AGENT))
    yield from (target["expr"] for panel in dashboard(helm)["panels"] for target in panel.get("targets", []))


def test_every_series_exists(helm: Helm) -> None:
    """No alert sleeps because of a name that nobody exports."""
    known = exporters()
    asked = list(expressions(helm))
    assert len(asked) > 20
    for expression in asked:
        bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^]]*\]|by \([^)]*\)', " ", expression)
        names = set(re.findall(r"[a-z_]{2,}", bare)) - FUNCTIONS
        assert names and names <= known.keys(), f"{expression}: {names - known.keys()}"


def test_every_label_exists(helm: Helm) -> None:
    """Neither a selector nor a grouping has a label that the series lacks."""
    known = exporters()
    for expression in expressions(helm):
        for name, selector in re.findall(r"([a-z_]+)\{([^}]*)\}", expression):
            assert set(re.findall(r'(\w+)(?:=~|!~|!=|=)"', selector)) <= known[name], expression
        for grouping in re.findall(r"by \(([^)]*)\)", expression):
            names = set(re.findall(r"[a-z_]{2,}", expression)) & known.keys()
            labels = set.union(*(known[name] for name in names)) | {"le"}
            assert {each.strip() for each in grouping.split(",")} <= labels, expression


def test_every_counter_of_ours_is_shown(helm: Helm) -> None:
    """What is worth counting is worth a look."""
    shown = " ".join(expressions(helm))
    hidden = {name for name in exporters() if name not in shown and name.removesuffix("_bucket") not in shown}
    assert hidden == {
        "srcip_agent_attach_seconds_count",
        "srcip_agent_attach_seconds_sum",
        "srcip_certs_api_conflicts_total",
        "srcip_certs_clock_skew_seconds",
        "srcip_certs_secret_faults_total",
        "srcip_webhook_review_seconds_count",
        "srcip_webhook_review_seconds_sum",
    }


def test_alerts_say_what_is_wrong_and_how_bad(helm: Helm) -> None:
    for rule in rules(helm, **WITH_AGENT):
        assert rule["labels"]["severity"] in ("critical", "warning"), rule["alert"]
        assert {"summary", "description"} == rule["annotations"].keys(), rule["alert"]
        assert re.fullmatch(r"Srcip[A-Za-z]+", rule["alert"])
    assert len({rule["alert"] for rule in rules(helm)}) == len(rules(helm))


def test_no_alert_watches_srcip_certs_where_it_does_not_run(helm: Helm) -> None:
    for case in ("cert-manager", "own-secret"):
        assert not [rule for rule in rules(helm, **CASES[case]) if "srcip_certs_" in rule["expr"]]


def test_no_alert_watches_an_agent_that_is_not_enabled(helm: Helm) -> None:
    """Four do where it is: Pods wait, an agent is not there, it refuses, it can't reach the API server."""
    usual, more = rules(helm), rules(helm, **WITH_AGENT)
    assert more[: len(usual)] == usual
    assert [rule["alert"] for rule in more[len(usual) :]] == [
        "SrcipPodsWaitForTheAgent",
        "SrcipAgentUnavailable",
        "SrcipAgentRefuses",
        "SrcipAgentCannotCallTheAPI",
    ]


def test_the_alert_about_waiting_pods_names_the_gates_container(helm: Helm) -> None:
    """As the webhook calls it, and the DaemonSet as the chart does."""
    waiting, unavailable, *_ = rules(helm, **WITH_AGENT)[-4:]
    assert f'container="{INIT}"' in waiting["expr"]
    daemonset = one(helm.objects(WITH_AGENT), "DaemonSet")["metadata"]["name"]
    assert f'daemonset="{daemonset}"' in unavailable["expr"]


def test_prometheus_finds_the_agents_and_may_reach_them(helm: Helm) -> None:
    """PodMonitor and NetworkPolicy select the agent's Pods and their one port; the API server can be called."""
    objects = helm.objects(CASES["everything-on"])
    template = one(objects, "DaemonSet", "-agent")["spec"]["template"]
    (container,) = template["spec"]["containers"]
    assert [port["name"] for port in container["ports"]] == ["metrics"]
    monitor, policy = one(objects, "PodMonitor", "-agent"), one(objects, "NetworkPolicy", "-agent")
    for selector in (monitor["spec"]["selector"], policy["spec"]["podSelector"]):
        assert selector["matchLabels"].items() <= template["metadata"]["labels"].items()
    assert [each["port"] for each in monitor["spec"]["podMetricsEndpoints"]] == ["metrics"]
    (rule,), (way,) = policy["spec"]["ingress"], policy["spec"]["egress"]
    assert [port["port"] for port in rule["ports"]] == ["metrics"]
    assert rule["from"] == CASES["everything-on"]["networkPolicy"]["metricsFrom"]
    assert [port["port"] for port in way["ports"]] == [443, 6443]


def test_a_certificate_that_is_renewed_in_time_raises_no_alert(helm: Helm) -> None:
    """The default thresholds are below the third of a life that is left at a renewal."""
    left = {"SrcipCertificateEnds": 24 * 3600 / 3, "SrcipAuthorityEnds": 365 * 86400 / 3}
    for rule in rules(helm):
        if rule["alert"] in left:
            assert int(rule["expr"].rpartition("<")[2]) < left.pop(rule["alert"]) / 1.5
    assert not left


def test_monitors_select_what_is_there(helm: Helm) -> None:
    """The Service's ports and the Pods' labels; for sidecars those that the webhook writes."""
    both = {"metrics": {"serviceMonitor": {"enabled": True}, "podMonitor": {"enabled": True}}}
    objects = helm.objects(both)
    service, monitor = one(objects, "Service"), one(objects, "ServiceMonitor")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    ports = [endpoint["port"] for endpoint in monitor["spec"]["endpoints"]]
    assert ports == [port["name"] for port in service["spec"]["ports"]] == ["https", "metrics"]
    assert {"https", "metrics"} == {port["name"] for c in containers(objects).values() for port in c["ports"]}
    spec = one(objects, "PodMonitor")["spec"]
    made = consider(POD, from_environ(variables(containers(objects)["webhook"]))).after
    assert spec["selector"]["matchLabels"].items() <= made["metadata"]["labels"].items()
    declared = {port["name"] for each in made["spec"]["initContainers"] for port in each.get("ports", [])}
    assert {endpoint["port"] for endpoint in spec["podMetricsEndpoints"]} <= declared


def test_the_dashboard_is_whole(helm: Helm) -> None:
    """Grafana's model: panels with targets, none on top of another, one data source that the viewer chooses."""
    board = dashboard(helm)
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    assert all(panel["targets"] and panel["title"] for panel in panels)
    assert {panel["datasource"]["uid"] for panel in panels} == {"${datasource}"}
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken and at["x"] + at["w"] <= 24, panel["title"]
        taken |= cells


@pytest.mark.parametrize(("policy", "words"), [("Fail", "can't be created"), ("Ignore", "are created without it")])
def test_the_alert_says_what_happens_to_pods(policy: str, words: str, helm: Helm) -> None:
    """It depends on the failure policy."""
    found = [rule for rule in rules(helm, admission={"failurePolicy": policy}) if rule["alert"] == "SrcipWebhookDown"]
    assert [words in rule["annotations"]["description"] for rule in found] == [True]


def test_the_sidecars_of_an_older_version_are_still_scraped(helm: Helm) -> None:
    """By label and by the port's name: the number was another one then."""
    older = yaml.safe_load((GOLDEN / "renders-a-pod-of-an-older-version-anew.input.yaml").read_text())
    monitor = next(
        each for each in helm.objects(CASES["everything-on"]) if each["metadata"]["name"] == "srcip-sidecars"
    )
    assert monitor["spec"]["selector"]["matchLabels"].items() <= older["metadata"]["labels"].items()
    ports = {port["name"]: port for each in older["spec"]["initContainers"] for port in each.get("ports", ())}
    assert [ports[each["port"]]["containerPort"] for each in monitor["spec"]["podMetricsEndpoints"]] == [15020]
