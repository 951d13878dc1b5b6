"""The document and the Secret around it: what is written is read back, and nothing else is believed."""

import base64
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srcip_certs import authority, secret, state
from srcip_certs.state import Document, Newer, Retired, Unreadable

NOW = 1_800_000_000.0
SIGNERS = [authority.make(NOW, 1000.0) for _ in range(4)]
OWNER = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "srcip-webhook", "uid": "u1"}

documents = st.builds(
    Document,
    st.integers(1, 10**6),
    st.sampled_from(SIGNERS),
    st.none() | st.sampled_from(SIGNERS),
    st.lists(
        st.builds(Retired, st.sampled_from([each.certificate for each in SIGNERS]), st.floats(0, 2e9)), max_size=3
    ).map(tuple),
    st.text(max_size=40),
    st.floats(0, 2e9),
)


@given(documents)
def test_a_document_is_read_as_it_was_written(document: Document) -> None:
    assert state.load(state.dump(document)) == document


def spoiled(**changes: Any) -> str:
    content = json.loads(state.dump(Document(3, SIGNERS[0], SIGNERS[1], (Retired(SIGNERS[2].certificate, NOW),))))
    return json.dumps(content | changes)


def pair(certificate: str, key: str) -> dict[str, str]:
    return {"certificate": certificate, "key": key}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON"),
        ("[]", "not a JSON object"),
        ("[" * 100_000, "not JSON"),
        ("{}", "version 'None'"),
        (spoiled(version=0), "version '0'"),
        (spoiled(version="1"), "version '1'"),
        (spoiled(serial=0), "serial is not a number above 0"),
        (spoiled(serial=True), "serial is not a number above 0"),
        (spoiled(current=None, next=None), "neither a current nor a next"),
        (spoiled(current=[]), "current is not an object"),
        (spoiled(current=pair(SIGNERS[0].certificate.pem, SIGNERS[1].key)), "does not match its certificate"),
        (spoiled(current=pair("x", "y")), "not a certificate"),
        (spoiled(next={"certificate": 1}), "certificate is not a text"),
        (spoiled(retired={}), "retired is not a list"),
        (spoiled(retired=[{"certificate": SIGNERS[0].certificate.pem}]), "until"),
        (spoiled(retired=[{"certificate": SIGNERS[0].certificate.pem, "until": "x"}]), "until is not a number"),
        (
            spoiled(retired=[{"certificate": SIGNERS[0].certificate.pem, "until": float("nan")}]),
            "until is not a number",
        ),
        (spoiled(request=None), "request is not a text"),
    ],
)
def test_what_is_no_document_is_unreadable_and_says_why(text: str, reason: str) -> None:
    with pytest.raises(Unreadable, match=reason):
        state.load(text)


def test_a_document_of_a_later_release_is_told_apart() -> None:
    """It is not garbage: nobody may replace it."""
    with pytest.raises(Newer, match="version 2 of the document is newer than 1"):
        state.load(spoiled(version=2))


@given(documents)
def test_only_what_has_not_ended_must_be_trusted(document: Document) -> None:
    for now in (NOW, NOW + 1001):
        for each in document.trusted(now):
            assert now <= each.not_after
    assert {document.current.certificate} <= set(document.trusted(NOW)) if document.current else True


def test_a_promotion_retires_the_signer_and_keeps_its_certificate() -> None:
    before = Document(1, SIGNERS[0], SIGNERS[1])
    after = state.promoted(before, NOW + 5)
    assert (after.serial, after.current, after.next) == (2, SIGNERS[1], None)
    assert set(after.trusted(NOW)) == set(before.trusted(NOW))
    assert set(after.trusted(NOW + 6)) == {SIGNERS[1].certificate}


# the Secret


def raw(text: str | None, **more: Any) -> dict[str, Any]:
    data = {} if text is None else {secret.KEY: base64.b64encode(text.encode()).decode()}
    return {"metadata": {"name": "srcip-ca", "resourceVersion": "5"}, "type": "Opaque", "data": data, **more}


@given(documents)
def test_a_secret_is_read_as_it_was_written(document: Document) -> None:
    body = secret.body(secret.Stored(), document, "srcip-system", "srcip-ca", OWNER)
    stored = secret.read(body)
    assert (stored.document, stored.fault, stored.ours) == (document, "", True)
    assert secret.owned(stored, OWNER)
    assert body["metadata"]["ownerReferences"] == [OWNER]


def test_garbage_is_put_aside_and_the_rest_stays() -> None:
    """Whoever filled the Secret finds it again under another key; other keys, labels and the version stay."""
    given_ = raw("garbage")
    given_["data"]["other"] = "eA=="
    given_["metadata"]["labels"] = {"team": "x"}
    stored = secret.read(given_)
    assert stored.document is None and stored.ours and "not JSON" in stored.fault
    body = secret.body(stored, Document(1, SIGNERS[0]), "srcip-system", "srcip-ca", None)
    assert base64.b64decode(body["data"][secret.REJECTED]) == b"garbage"
    assert body["data"]["other"] == "eA=="
    assert body["metadata"]["labels"]["team"] == "x"
    assert body["metadata"]["resourceVersion"] == "5"
    assert secret.read(body).document == Document(1, SIGNERS[0])


def test_a_key_that_was_put_aside_stays_while_the_document_changes() -> None:
    first = secret.body(secret.read(raw("garbage")), Document(1, SIGNERS[0]), "n", "s", None)
    second = secret.body(secret.read(first), Document(2, SIGNERS[0]), "n", "s", None)
    assert base64.b64decode(second["data"][secret.REJECTED]) == b"garbage"


@pytest.mark.parametrize("data", ["%%%", base64.b64encode(b"\xff").decode()])
def test_what_is_not_even_text_is_garbage(data: str) -> None:
    stored = secret.read({"metadata": {}, "data": {secret.KEY: data}})
    assert stored.document is None and stored.ours and stored.fault


def test_an_empty_secret_is_there_to_be_filled() -> None:
    """Made by a tool beforehand, say: no fault."""
    for given_ in (raw(None), raw(""), {"metadata": {}}, raw(None, data=None)):
        stored = secret.read(given_)
        assert (stored.document, stored.fault, stored.ours) == (None, "", True)


def test_a_secret_of_another_type_is_not_ours() -> None:
    stored = secret.read(raw(state.dump(Document(1, SIGNERS[0])), type="kubernetes.io/tls"))
    assert (stored.document, stored.ours) == (None, False)
    assert "kubernetes.io/tls" in stored.fault


def test_a_later_document_is_not_ours_to_change() -> None:
    stored = secret.read(raw(spoiled(version=2)))
    assert (stored.document, stored.ours) == (None, False)


def test_the_owner_of_an_earlier_installation_is_replaced() -> None:
    """The garbage collector would delete the Secret with it."""
    stored = secret.read(raw(state.dump(Document(1, SIGNERS[0]))))
    body = secret.body(stored, Document(1, SIGNERS[0]), "n", "s", OWNER | {"uid": "old"})
    assert not secret.owned(secret.read(body), OWNER)
    again = secret.body(secret.read(body), Document(1, SIGNERS[0]), "n", "s", OWNER)
    assert again["metadata"]["ownerReferences"] == [OWNER]


def test_changes_raise_the_serial() -> None:
    """So that of two documents with the same past the newer one is known."""
    known = Document(7, SIGNERS[0], SIGNERS[1], (Retired(SIGNERS[2].certificate, NOW),))
    gone = frozenset({SIGNERS[2].certificate.fingerprint})
    for changed in (
        state.promoted(known, NOW),
        state.with_next(known, SIGNERS[3], ""),
        state.without(known, gone),
        state.replaced(known, SIGNERS[3], NOW, ""),
    ):
        assert changed.serial == 8
    assert state.without(replace(known, retired=()), gone).serial == 7


def test_a_document_that_was_begun_later_is_newer_than_all_of_an_earlier_line() -> None:
    """Whatever their serials are; all that comes of a document is of its line."""
    old = state.first(SIGNERS[0], "", NOW, settled=True)
    for signer in SIGNERS[1:]:
        old = state.promoted(state.with_next(old, signer, ""), NOW)
    young = state.first(SIGNERS[0], "", NOW + 1, settled=False)
    assert old.begun == NOW
    assert old.serial > young.serial
    assert young.order > old.order
