"""A value without quotes that YAML takes for no text is told in its annotation's words, beside all other faults."""

import json
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from srcip_webhook.annotations import TABLE
from srcip_webhook.cli import main
from srcip_webhook.mutate import consider, mutate
from srcip_webhook.yaml_reader import scalar
from support.reviews import TRUSTING, pod, review

ALLOWED = {row.key: row.kind.allowed for row in TABLE}
UNQUOTED: dict[tuple[str, str], str] = {
    ("mode", "off"): "quote it. Allowed: tproxy, redirect, ebpf",
    ("mode", "1"): "1 is not a string: quote it. Allowed",
    ("proxy-protocol", "off"): 'quote it, as in srcip.io/proxy-protocol: "off". Allowed',
    ("rewrite-probes", "no"): 'quote it, as in srcip.io/rewrite-probes: "false"',
    ("inbound-ports", "80"): '80 is not a string: quote it, as in srcip.io/inbound-ports: "80"',
    ("proxy-threads", "2"): '2 is not a string: quote it, as in srcip.io/proxy-threads: "2"',
    ("proxy-cpu", "0.5"): '0.5 is not a string: quote it, as in srcip.io/proxy-cpu: "0.5"',
    ("header-timeout", "5"): "5 is not a string: quote it. Allowed: a duration",
    ("inject", "true"): 'quote it, as in srcip.io/inject: "true"',
}
"""An annotation and its value as written in YAML, and what is said."""
OTHERS = {"srcip.io/deliver-to": "there", "srcip.io/header-timeout": "5x", "srcip.io/max-connections": "many"}


def messages(annotations: dict[str, Any], **spec: Any) -> list[str]:
    return consider(pod(annotations, **spec), TRUSTING).messages


@pytest.mark.parametrize(("name", "text"), UNQUOTED)
def test_it_names_the_value_and_what_is_allowed(name: str, text: str) -> None:
    """Once, and as this annotation's fault; where a good value was meant, it is shown with its quotes."""
    key, value = f"srcip.io/{name}", scalar(text)
    (said,) = messages({key: value})
    assert said.startswith(f"{key}: ")
    assert UNQUOTED[name, text] in said
    assert said.endswith(f"Allowed: {ALLOWED[key]}")


def test_all_faults_are_told_at_once() -> None:
    """Those of unquoted values, of other values, of the Pod, and of texts that are not srcip's."""
    unquoted = {"srcip.io/mode": False, "srcip.io/inbound-ports": 80, "srcip.io/exclude-inbound-ports": [81]}
    said = messages({**unquoted, **OTHERS, "prometheus.io/scrape": True}, hostNetwork=True)
    wanted = [*unquoted, *OTHERS, "spec.hostNetwork", 'Pod.metadata.annotations["prometheus.io/scrape"]: true is not']
    assert [sum(text.startswith(start) for text in said) for start in wanted] == [1] * len(wanted)
    assert len(said) == len(wanted)


def test_a_pod_of_another_shape_hides_no_annotation() -> None:
    """A port that is no number can't be judged; what the annotations say can."""
    said = messages(
        {"srcip.io/inbound-ports": 80, **OTHERS}, containers=[{"name": "app", "ports": [{"containerPort": "x"}]}]
    )
    assert any("containerPort" in text for text in said)
    assert {text.partition(": ")[0] for text in said} >= {"srcip.io/inbound-ports", *OTHERS}


def test_an_opt_out_that_is_not_quoted_opts_nobody_out() -> None:
    """The API server would refuse it in the same way; the Pod never starts as if it had not asked."""
    (said,) = messages({"srcip.io/inject": False})
    assert 'as in srcip.io/inject: "false"' in said


def test_the_command_line_and_the_webhook_say_the_same() -> None:
    """In a template of a Deployment too, where the API server would only say that it can't read it."""
    wrong = pod({"srcip.io/proxy-protocol": False, **OTHERS})
    said = messages(wrong["metadata"]["annotations"])
    assert len(said) == 1 + len(OTHERS)
    manifest = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {"template": {"metadata": wrong["metadata"], "spec": wrong["spec"]}},
    }
    for command in ("inject", "explain"):
        done = CliRunner().invoke(
            main, [command, "--trusted-cidrs", "192.0.2.0/24", "-f", "-"], input=json.dumps(manifest)
        )
        assert done.exit_code == 1
        assert all(text in done.output for text in said)
    status = mutate(review(wrong), TRUSTING)["response"]["status"]
    assert all(text in status["message"] for text in said)


@given(
    st.dictionaries(
        st.sampled_from(sorted(ALLOWED)),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5), st.lists, max_leaves=4
        ),
    )
)
def test_no_value_is_too_odd_to_be_told(annotations: dict[str, Any]) -> None:
    """Each that is no text is told exactly once."""
    asking = {"srcip.io/mode": "tproxy", **annotations}
    said = messages({**asking, **({"srcip.io/mode": 1} if asking["srcip.io/mode"] is None else {})})
    for key, value in annotations.items():
        if value is not None and not isinstance(value, str) and asking.get("srcip.io/inject") != "false":
            assert sum(text.startswith(f"{key}: ") for text in said) == 1
