"""The table of annotations: page, schema, parser and messages agree, and no text breaks the parser."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srcip_proxy.plan import Plan
from srcip_webhook import annotations, reference
from srcip_webhook.annotations import TABLE, Annotation, Intent
from srcip_webhook.mutate import consider
from srcip_webhook.policy import REASONS, Inject, Reason, Refuse
from support.reviews import SETTINGS, TRUSTING, pod

PAGE = Path(__file__).parents[2] / "docs" / "annotations.md"
rows = st.sampled_from(TABLE)
nasty = st.one_of(
    st.text(),
    st.text(alphabet="0123456789.,-:/ \n\"'mskMGi{}$()#;\\"),
    st.sampled_from(
        ["9" * 100_000, "10.0.0.0/8," * 5000, "80," * 5000, "1h" * 4000, "::/0", "\ud7ff\u202e\x00", "$(POD_IP)"]
    ),
)


def key(row: Annotation) -> str:
    return row.name


def test_the_reference_page_is_what_the_table_says(golden: Callable[[Path, str | None], None]) -> None:
    golden(PAGE, reference.page())


def test_the_table_and_the_intent_have_the_same_fields() -> None:
    assert {row.field for row in TABLE} == {field.name for field in dataclasses.fields(Intent)} - {"stated", "fallback"}
    assert len({row.key for row in TABLE}) == len(TABLE)


def test_every_reason_is_explained() -> None:
    assert set(REASONS) == set(Reason)


def test_without_annotations_the_plan_has_its_own_defaults() -> None:
    outcome = consider(pod(), SETTINGS)
    assert isinstance(outcome.decision, Inject)
    plan = outcome.decision.plan
    assert plan == Plan(plan.inbound_ports, plan.trusted_cidrs)


@pytest.mark.parametrize(
    "row", [row for row in TABLE if row.field in {f.name for f in dataclasses.fields(Plan)}], ids=key
)
def test_a_default_is_said_as_it_would_be_written(row: Annotation) -> None:
    """The default on the reference page, written into the annotation, is read as the default."""
    if row.default not in (None, (), "") and row.field != "mode":  # without it nothing is asked for
        assert row.kind.parse(row.default_text) == row.default


@given(rows, nasty)
def test_whatever_the_parser_takes_fits_the_schema(row: Annotation, text: str) -> None:
    reading = annotations.read({row.key: text})
    if not reading.faults:
        jsonschema.validate({row.key: text}, annotations.schema())


@given(rows, nasty)
def test_any_value_ends_in_a_plan_or_in_a_readable_refusal(row: Annotation, text: str) -> None:
    outcome = consider(pod({row.key: text}), TRUSTING)
    if isinstance(outcome.decision, Inject):
        assert Plan.from_env(outcome.decision.plan.to_env()) == outcome.decision.plan
    for message in outcome.messages:
        assert message.isascii()
        assert message.isprintable()
        assert len(message) < 8000
    if isinstance(outcome.decision, Refuse):
        assert any(row.key in message for message in outcome.messages)


@pytest.mark.parametrize("row", TABLE, ids=key)
def test_a_bad_value_is_told_with_name_value_and_what_is_allowed(row: Annotation) -> None:
    (fault,) = annotations.read({row.key: "§ nonsense"}).faults
    assert fault.key == row.key
    assert fault.message.startswith(f'{row.key}: "\\xa7 nonsense" ')
    assert fault.message.endswith(f"Allowed: {row.kind.allowed}")


@pytest.mark.parametrize(
    ("typed", "meant"), [("trusted-cidr", "trusted-cidrs"), ("Mode", "mode"), ("proxy_cpu", "proxy-cpu")]
)
def test_a_typing_error_is_answered_with_the_nearest_name(typed: str, meant: str) -> None:
    (warning,) = annotations.read({f"srcip.io/{typed}": ""}).warnings
    assert warning.endswith(f"did you mean srcip.io/{meant}?")


def test_annotations_of_others_are_not_ours_to_warn_about() -> None:
    assert (
        annotations.read({"example.org/mode": "x", "srcip.io/status": "{}", "srcip.io/mode": "tproxy"}).warnings == ()
    )
