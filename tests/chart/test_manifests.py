"""Properties that every rendering of the chart has."""

from itertools import combinations

import kubernetes_validate
import pytest
from values_reference import CHART

from srcip_webhook.work import JUDGES
from support.rendering import (
    AUTHORITY,
    CASES,
    NAMESPACE,
    TRUSTING,
    Helm,
    Json,
    containers,
    is_hook,
    merged,
    nested,
    one,
    pods,
)

STRANGERS = ("cert-manager.io/", "monitoring.coreos.com/")
"""API groups that are not Kubernetes' own."""
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
UNPROTECTED = {"everything-on"}
"""Cases that use the node's network, which Pod Security does not let through."""
EXPORTER, AGENT = "srcip-ebpf-exporter", "srcip-agent"
"""The Pods of the chart that need a privileged namespace; off by default."""
PRIVILEGED = merged(CASES["agent"], CASES["exporter-of-ebpf-mode"])
"""Both."""
SECRET = {"name": "5", "caBundle": AUTHORITY}
OUTSIDE_NAMESPACES = {"ClusterRole", "ClusterRoleBinding", "MutatingWebhookConfiguration", "Namespace"}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def objects(case: str, helm: Helm) -> list[Json]:
    return helm.objects(CASES[case])


@pytest.mark.parametrize("version", ["1.30", "1.36"])
def test_kubernetes_accepts_every_object(version: str, objects: list[Json]) -> None:
    """The strict schema: no field that does not exist, none of the wrong type."""
    own = [each for each in objects if not each["apiVersion"].startswith(STRANGERS)]
    for each in own:
        kubernetes_validate.validate(each, version, strict=True)
    assert len(own) >= 5


def test_the_pods_pass_pod_security_restricted(case: str, objects: list[Json]) -> None:
    """The fields that the level `restricted` looks at, in every Pod of the chart but those that are off by default."""
    found = dict(pods(objects))
    found.pop(EXPORTER, None)
    found.pop(AGENT, None)
    assert set(found) >= {"srcip-webhook", "srcip-test"}
    for name, spec in found.items():
        assert not {"hostPID", "hostIPC"} & spec.keys(), name
        assert bool(spec.get("hostNetwork")) == (case in UNPROTECTED and name == "srcip-webhook")
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert spec["securityContext"].get("runAsUser") != 0, name
        kinds = {kind for volume in spec.get("volumes", []) for kind in volume if kind != "name"}
        assert kinds <= {"emptyDir", "projected", "secret"}, name
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
            assert not any("hostPort" in port for port in container.get("ports", [])), name


def test_by_default_no_pod_needs_more(helm: Helm) -> None:
    """Exporter and agent are nowhere: no object, no account, no line that helm says."""
    for case, values in CASES.items():
        text = helm.template(values)
        assert ("exporter" in text) == ("ebpfExporter" in values), case
        needs_more = bool({"agent", "ebpfExporter"} & set(values))
        assert ("kind: DaemonSet" in text) == ("SYS_ADMIN" in text) == needs_more, case


def test_every_container_states_what_it_needs(objects: list[Json]) -> None:
    """Requests, a limit of memory, a pull policy, and an image with a tag or a digest."""
    for name, spec in pods(objects):
        for container in spec["containers"]:
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}, name
            assert "memory" in container["resources"]["limits"], name
            assert container["imagePullPolicy"] == "IfNotPresent", name
            assert ":" in container["image"].rpartition("/")[2], name


def test_only_srcip_certs_and_the_agent_have_a_token(case: str, objects: list[Json]) -> None:
    """The webhook parses what strangers write; it holds nothing that the Kubernetes API would accept."""
    spec = one(objects, "Deployment")["spec"]["template"]["spec"]
    assert spec["automountServiceAccountToken"] is False
    mounts = {name: {m["mountPath"] for m in each["volumeMounts"]} for name, each in containers(objects).items()}
    assert ACCOUNT not in mounts["webhook"]
    if "certs" in mounts:
        assert ACCOUNT in mounts["certs"]
    else:
        assert "token" not in str(spec["volumes"])
    assert {each["automountServiceAccountToken"] for each in objects if each["kind"] == "ServiceAccount"} == {False}


def test_the_webhook_only_reads_certificates(objects: list[Json]) -> None:
    """It cannot write where srcip-certs writes."""
    mount = next(each for each in containers(objects)["webhook"]["volumeMounts"] if each["name"] == "tls")
    assert mount == {"name": "tls", "mountPath": "/etc/srcip/tls", "readOnly": True}


def rights(objects: list[Json]) -> dict[str, list[str]]:
    """What each account may do and where, as a sentence each, by way of bindings and roles."""
    roles = {(each["kind"], each["metadata"]["name"]): each for each in objects if each["kind"].endswith("Role")}
    found: dict[str, list[str]] = {}
    for binding in (each for each in objects if each["kind"].endswith("Binding")):
        role = roles.pop((binding["roleRef"]["kind"], binding["roleRef"]["name"]))
        where = binding["metadata"].get("namespace", "everywhere")
        assert role["metadata"].get("namespace", "everywhere") == where
        for subject in binding["subjects"]:
            assert subject == {"kind": "ServiceAccount", "name": subject["name"], "namespace": NAMESPACE}
            for rule in role["rules"]:
                names = ",".join(rule.get("resourceNames", ["any"]))
                says = f"{where}: {','.join(rule['verbs'])} {','.join(rule['resources'])} {names}"
                found.setdefault(subject["name"], []).append(says)
    assert not roles, "a role that nobody is bound to"
    return {name: sorted(says) for name, says in found.items()}


HOOKS = {
    "srcip-remove-webhook": ["everywhere: delete mutatingwebhookconfigurations srcip.srcip-system"],
    "srcip-test": ["srcip-system-srcip-helm-test: create pods any"],
}


def test_the_rights_are_exactly_these(helm: Helm) -> None:
    """srcip-certs: one Secret, one webhook configuration, and a look at its own Deployment."""
    assert rights(helm.objects({})) == {
        **HOOKS,
        "srcip-webhook": [
            "everywhere: get,list,watch,patch mutatingwebhookconfigurations srcip.srcip-system",
            "srcip-system: create secrets any",
            "srcip-system: get deployments srcip-webhook",
            "srcip-system: get,update,patch secrets srcip-ca",
        ],
    }


def test_the_agent_only_looks_at_pods(helm: Helm) -> None:
    """And the other accounts may no more with it than without."""
    with_agent = rights(helm.objects(CASES["agent"]))
    assert with_agent.pop(AGENT) == ["everywhere: get,list,watch pods any"]
    assert with_agent == rights(helm.objects({}))


@pytest.mark.parametrize("case", ["cert-manager", "own-secret"])
def test_without_srcip_certs_the_webhook_has_no_rights(case: str, helm: Helm) -> None:
    """Nothing of it is left when somebody else makes the certificates, its image apart: the hooks use that."""
    objects = helm.objects(CASES[case])
    assert rights(objects) == HOOKS
    assert set(containers(objects)) == {"webhook"}
    assert [port["name"] for port in one(objects, "Service")["spec"]["ports"]] == ["https"]


def test_every_account_that_is_used_exists(objects: list[Json]) -> None:
    accounts = {each["metadata"]["name"] for each in objects if each["kind"] == "ServiceAccount"}
    assert {spec["serviceAccountName"] for _, spec in pods(objects)} == accounts


def test_helm_says_nothing_about_the_bundle_that_srcip_certs_keeps(helm: Helm) -> None:
    """What is in no manifest, neither a three-way merge nor a server-side apply touches."""
    assert "caBundle" not in helm.template({})
    webhooks = one(helm.objects(CASES["own-secret"]), "MutatingWebhookConfiguration")["webhooks"]
    assert all(each["clientConfig"]["caBundle"].startswith("LS0tLS1CRUdJTiBD") for each in webhooks)


HINTS = {
    "hint.srcip.io": "/mutate",
    "templates.srcip.io": "/hint",
    "unheard.srcip.io": "/hint/unlabelled",
    "namespace-0.excluded.srcip.io": "/hint/excluded/namespace",
    "pod-0.excluded.srcip.io": "/hint/excluded/pod",
    "condition.excluded.srcip.io": "/hint/excluded/pod",
}
"""The entries that only warn, and who answers them."""
OF_PODS_ALONE = ("inject.srcip.io", "hint.srcip.io", "pod-0.excluded.srcip.io", "condition.excluded.srcip.io")
NAMES_SRCIP = "startsWith('srcip.io/')"
TEMPLATES = {"replicationcontrollers", "daemonsets", "deployments", "replicasets", "statefulsets", "cronjobs", "jobs"}
OTHERS = {"rollouts", "configurations", "services", "deploymentconfigs", "broadcastjobs", "clonesets"}


def test_webhooks_refuse_and_delay_nobody_who_did_not_ask(objects: list[Json]) -> None:
    """All look only at what names srcip; the one that looks at new Pods of opted-in namespaces that ask may refuse."""
    webhooks = one(objects, "MutatingWebhookConfiguration")["webhooks"]
    for each in webhooks:
        left_out = {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["kube-system", NAMESPACE]}
        assert left_out in each["namespaceSelector"]["matchExpressions"]
        opted_out = {"key": "srcip.io/inject", "operator": "NotIn", "values": ["false"]}
        assert opted_out in each["objectSelector"]["matchExpressions"]
        assert (each["sideEffects"], each["matchPolicy"]) == ("None", "Equivalent")
        assert {rule["scope"] for rule in each["rules"]} == {"Namespaced"}
        asked = " ".join(condition["expression"] for condition in each["matchConditions"])
        if each["name"] in HINTS:
            assert NAMES_SRCIP in asked
            assert (each["failurePolicy"], each["timeoutSeconds"]) == ("Ignore", 1)
            assert each["reinvocationPolicy"] == "Never"
        else:
            assert each["name"] == "inject.srcip.io"
            assert "object.metadata.?annotations[?'srcip.io/mode'].hasValue()" in asked


def resources(webhook: Json, operation: str) -> set[str]:
    return {name for rule in webhook["rules"] if operation in rule["operations"] for name in rule["resources"]}


def test_only_new_pods_are_changed_and_templates_are_only_warned_of(objects: list[Json]) -> None:
    """Each entry by its namespaces, its objects and its path."""
    webhooks = {each["name"]: each for each in one(objects, "MutatingWebhookConfiguration")["webhooks"]}
    for name, each in webhooks.items():
        labels = each["namespaceSelector"].get("matchLabels")
        unlabelled = {"key": "srcip.io/injection", "operator": "NotIn", "values": ["enabled"]}
        if name == "unheard.srcip.io":
            assert unlabelled in each["namespaceSelector"]["matchExpressions"]
            assert labels is None
        else:
            assert labels == {"srcip.io/injection": "enabled"}
        pods_too = {"pods"} if name != "templates.srcip.io" else set()
        templates = set() if name in OF_PODS_ALONE else TEMPLATES | OTHERS
        assert resources(each, "CREATE") == pods_too | templates
        assert resources(each, "UPDATE") == templates


def test_no_resource_of_kubernetes_itself_is_looked_at_but_these(objects: list[Json]) -> None:
    """Knative's services are not those of the core group."""
    for each in one(objects, "MutatingWebhookConfiguration")["webhooks"]:
        for rule in each["rules"]:
            if {"", "apps", "batch"} & set(rule["apiGroups"]):
                assert set(rule["resources"]) <= TEMPLATES | {"pods"}
            assert "*" not in (*rule["apiGroups"], *rule["resources"])


def test_whoever_is_left_out_by_a_value_is_told_once(helm: Helm) -> None:
    """Of several expressions, each entry takes those that the ones before it let pass and its own does not."""
    first, second = {"key": "team", "operator": "In", "values": ["mail"]}, {"key": "old", "operator": "DoesNotExist"}
    third = {"key": "level", "operator": "NotIn", "values": ["dev"]}
    conditions = [
        {"name": "a", "expression": "size(object.spec.containers) < 9"},
        {"name": "b", "expression": "true || false"},
    ]
    values = {
        "namespaceMatchExpressions": [first, second, third],
        "podMatchExpressions": [second],
        "matchConditions": conditions,
    }
    configuration = one(helm.objects({"admission": values}), "MutatingWebhookConfiguration")
    webhooks = {each["name"].removesuffix(".excluded.srcip.io"): each for each in configuration["webhooks"]}
    out = [
        [{**first, "operator": "NotIn"}],
        [first, {**second, "operator": "Exists"}],
        [first, second, {**third, "operator": "In"}],
    ]
    for index, expected in enumerate(out):
        assert webhooks[f"namespace-{index}"]["namespaceSelector"]["matchExpressions"][1:] == expected
    assert webhooks["pod-0"]["objectSelector"]["matchExpressions"][1:] == [{**second, "operator": "Exists"}]
    assert webhooks["pod-0"]["namespaceSelector"]["matchExpressions"][1:] == [first, second, third]
    left_out = {each["name"]: each["expression"] for each in webhooks["condition"]["matchConditions"]}["is-left-out"]
    assert left_out == "!((size(object.spec.containers) < 9) && (true || false))"
    assert webhooks["condition"]["objectSelector"]["matchExpressions"][1:] == [second]


def test_the_service_leads_to_the_webhook(objects: list[Json]) -> None:
    """The API server's way: configuration, Service, the Pods' port, by names that exist."""
    service = one(objects, "Service")
    configuration = one(objects, "MutatingWebhookConfiguration")
    for each in configuration["webhooks"]:
        reference = each["clientConfig"]["service"]
        assert (reference["name"], reference["namespace"]) == (service["metadata"]["name"], NAMESPACE)
        assert reference["port"] == service["spec"]["ports"][0]["port"]
        assert reference["path"] == {**HINTS, "inject.srcip.io": "/mutate"}[each["name"]]
        assert reference["path"] in JUDGES
    template = one(objects, "Deployment")["spec"]["template"]
    assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
    ports = {port["name"] for each in template["spec"]["containers"] for port in each["ports"]}
    assert {port["targetPort"] for port in service["spec"]["ports"]} == ports


def test_who_is_selected_is_labelled(objects: list[Json]) -> None:
    """Deployment, PodDisruptionBudget, its NetworkPolicy and spread all select the webhook's Pods and no other."""
    deployment = one(objects, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    others = [each["metadata"]["labels"] for each in objects if each["kind"] == "Pod"]
    others += [each["spec"]["template"]["metadata"]["labels"] for each in objects if each["kind"] == "Job"]
    budgets = [each["spec"]["selector"] for each in objects if each["kind"] == "PodDisruptionBudget"]
    others += [each["spec"]["template"]["metadata"]["labels"] for each in objects if each["kind"] == "DaemonSet"]
    policies = [
        each["spec"]["podSelector"]
        for each in objects
        if each["kind"] == "NetworkPolicy" and each["metadata"]["name"] not in (EXPORTER, AGENT)
    ]
    spread = [each["labelSelector"] for each in deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]]
    for selector in (deployment["spec"]["selector"], *budgets, *policies, *spread):
        assert selector["matchLabels"].items() <= labels.items()
        assert not any(selector["matchLabels"].items() <= each.items() for each in others)


def test_every_object_has_its_place_and_the_usual_labels(case: str, objects: list[Json]) -> None:
    for each in objects:
        inside = each["kind"] not in OUTSIDE_NAMESPACES
        assert ("namespace" in each["metadata"]) == inside, each["metadata"]["name"]
        wanted = {"app.kubernetes.io/name": "srcip", "app.kubernetes.io/instance": "srcip"}
        wanted |= {"app.kubernetes.io/managed-by": "Helm"} | CASES[case].get("commonLabels", {})
        assert wanted.items() <= each["metadata"]["labels"].items(), each["metadata"]["name"]
        common = CASES[case].get("commonAnnotations", {})
        assert common.items() <= each["metadata"].get("annotations", {}).items(), each["metadata"]["name"]


def test_two_releases_share_no_object(helm: Helm) -> None:
    """Not even those outside of namespaces, when name and namespace run together."""

    def identities(release: str, namespace: str) -> set[tuple[str, str, str]]:
        found = helm.objects(
            merged(CASES["agent"], CASES["exporter-of-ebpf-mode"]), release=release, namespace=namespace
        )
        return {(each["kind"], each["metadata"].get("namespace", ""), each["metadata"]["name"]) for each in found}

    places = [("srcip", "a"), ("srcip", "b"), ("srcip-a", "b"), ("srcip", "a-b"), ("other", "a")]
    for one_place, another in combinations(places, 2):
        assert not identities(*one_place) & identities(*another), (one_place, another)


@pytest.mark.parametrize("release", ["a", "x" * 53, "srcip-" + "y" * 47, "a.b.c", "srcip." + "z" * 40 + "." + "q" * 5])
def test_long_names_stay_legal(release: str, helm: Helm) -> None:
    """Names of Services, Jobs and namespaces are DNS labels of at most 63 characters."""
    for each in helm.objects(
        merged(CASES["agent"], CASES["exporter-of-ebpf-mode"]), release=release, namespace="n" * 63
    ):
        name = each["metadata"]["name"]
        if each["kind"] in ("Service", "Job", "Namespace", "Deployment", "DaemonSet", "Pod"):
            assert len(name) <= 63 and "." not in name and not name.endswith("-"), name
        assert len(name) <= 253


@pytest.mark.parametrize(("release", "namespace"), [("1", "2"), ("1e3", "0x1f"), ("true", "null"), ("no", "1e5")])
def test_names_stay_texts(release: str, namespace: str, helm: Helm) -> None:
    """YAML takes some names for numbers and the like; Kubernetes wants them as texts."""
    values = merged(CASES["everything-on"], {"test": {"namespace": "3"}, "priorityClassName": "4"})
    for values_of in (values, CASES["own-secret"], nested("certificates", {"mode": "secret", "secret": SECRET})):
        for each in helm.objects(values_of, release=release, namespace=namespace):
            if not each["apiVersion"].startswith(STRANGERS):
                kubernetes_validate.validate(each, "1.36", strict=True)
            assert each["metadata"]["labels"]["app.kubernetes.io/instance"] == release
            assert isinstance(each["metadata"].get("namespace", ""), str)


def test_a_pod_that_stops_has_time_for_all_of_it(helm: Helm) -> None:
    """The pause, the open requests, and what the webhook and kubelet need themselves."""
    for pause, drain in ((5, 20), (0, 0), (30, 120)):
        objects = helm.objects({"webhook": {"preStopSleepSeconds": pause, "drainTimeoutSeconds": drain}})
        spec = one(objects, "Deployment")["spec"]["template"]["spec"]
        hook = containers(objects)["webhook"].get("lifecycle")
        assert hook == ({"preStop": {"sleep": {"seconds": pause}}} if pause else None)
        assert spec["terminationGracePeriodSeconds"] == pause + drain + 10


def test_before_kubernetes_1_30_the_same_objects_are_valid_without_the_pause(helm: Helm) -> None:
    """The way of docs/install.md: `helm template` for 1.30 without hooks, applied to 1.29."""
    objects = helm.objects({"webhook": {"preStopSleepSeconds": 0}}, "--no-hooks", "--kube-version=1.30.0")
    for each in objects:
        kubernetes_validate.validate(each, "1.29", strict=True)
        assert not is_hook(each)
    assert {"Deployment", "MutatingWebhookConfiguration"} <= {each["kind"] for each in objects}


def test_older_kubernetes_is_refused(helm: Helm) -> None:
    """Before anything is installed, with the version that is needed."""
    said = helm("template", "srcip", str(CHART), "--kube-version=1.29.9", values=TRUSTING).stderr
    assert "chart requires kubeVersion: >=1.30.0-0" in said


@pytest.mark.parametrize(("event", "kinds"), [
    ("pre-delete", ["ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Job"]),
    ("test", ["Namespace", "ServiceAccount", "Role", "RoleBinding", "Pod"]),
])  # fmt: skip
def test_hooks_come_in_order_and_go_again(event: str, kinds: list[str], helm: Helm) -> None:
    """Each kind after those that it needs, and nothing stays behind: helm never uninstalls hooks."""
    hooks = [each for each in helm.objects({}) if each["metadata"].get("annotations", {}).get("helm.sh/hook") == event]
    weights = {each["kind"]: int(each["metadata"]["annotations"]["helm.sh/hook-weight"]) for each in hooks}
    assert sorted(weights, key=lambda kind: (weights[kind], kinds.index(kind))) == kinds
    assert weights[kinds[-1]] > weights[kinds[-2]] > min(weights.values())
    policies = {each["metadata"]["annotations"]["helm.sh/hook-delete-policy"] for each in hooks}
    assert policies == {"before-hook-creation,hook-succeeded"}
    assert {each["kind"] for each in helm.objects({}) if is_hook(each)} >= set(kinds)
