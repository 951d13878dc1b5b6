"""Plain scalars mean what they mean to kubectl."""

import random

import pytest
import yaml

from srcip_webhook import manifests
from srcip_webhook.yaml_reader import Loader, load, scalar

# Answers of kubectl 1.36 for `spec: {k: SCALAR}`, by `kubectl label --local -o json`.
TEXTS = """
22:22 10:30:45 yEs oN = nULL tRUE 0o8 ._5 _1 + . .. 1e999 -1e999 2001-12-14 2001-12-14t21:59:43.10-05:00 12:30
190:20:30 190:20:30.15 0x 0b 0o 0xg 12abc 1.2.3 1e 1e+ 1,000 <<x 0b2 .e5 Infinity NaN nan inf 0x1p-2 1:2
190:20
""".split()  # noqa: SIM905 (easier to read)
VALUES = {
    "0o400": 256,
    "1e3": 1000,
    "08": 8,
    "Y": True,
    "y": True,
    "N": False,
    "n": False,
    "yes": True,
    "Yes": True,
    "YES": True,
    "no": False,
    "on": True,
    "On": True,
    "off": False,
    "OFF": False,
    "0X1F": 31,
    "0o_17": 15,
    "1e+3_0": 1e30,
    "~": None,
    "null": None,
    "Null": None,
    "true": True,
    "True": True,
    "TRUE": True,
    "false": False,
    "1_000": 1000,
    "0x_1F": 31,
    "0x1F": 31,
    "-0x1F": -31,
    "+0x1F": 31,
    "0b11": 3,
    "-0b11": -3,
    "0777": 511,
    "-0777": -511,
    "0777_7": 4095,
    "09": 9,
    "1.": 1,
    ".5": 0.5,
    "+.5": 0.5,
    "-.5": -0.5,
    "1.5": 1.5,
    "1.50": 1.5,
    "1e-3": 0.001,
    "1E3": 1000,
    "1.e3": 1000,
    ".5e3": 500,
    "1__0": 10,
    "1e21": 1e21,
    "1e20": 100000000000000000000,
    "1e22": 1e22,
    "123456789012345678901": 123456789012345680000,
    "9223372036854775807": 9223372036854775807,
    "9223372036854775808": 9223372036854776000,
    "18446744073709551615": 18446744073709552000,
    "18446744073709551616": 18446744073709552000,
    "-9223372036854775808": -9223372036854775808,
    "-9223372036854775809": -9223372036854776000,
    "+9223372036854775808": 9223372036854776000,
    "0.0": 0,
    "-0": 0,
    "+0": 0,
    "-0.0": 0,
    "00": 0,
    "0": 0,
    "000": 0,
    "1000.0": 1000,
    "3.14159": 3.14159,
    "0.1e1": 1,
    "100e-2": 1,
    "007": 7,
    "0_7": 7,
    "+_1": 1,
    "-_1": -1,
    "1_": 1,
    "0b_1": 1,
    "4e5_": 400000,
    "+1": 1,
    "+1.0": 1,
    "1e+3": 1000,
    "0777.0": 777,
    "08.5": 8.5,
    "685_230.15": 685230.15,
    "6.8523015e+5": 685230.15,
}


@pytest.mark.parametrize("text", TEXTS)
def test_a_text(text: str) -> None:
    assert scalar(text) == text


@pytest.mark.parametrize("text", VALUES)
def test_a_number_or_a_word(text: str) -> None:
    """Large numbers are exact here, and floats in JSON."""
    value = scalar(text)
    assert (value, isinstance(value, bool)) == (VALUES[text], isinstance(VALUES[text], bool)) or (
        abs(value) > 2**53 and float(value) == float(VALUES[text])
    )


@pytest.mark.parametrize("text", [*TEXTS, *VALUES])
def test_what_is_written_is_read_again_as_it_was(text: str) -> None:
    """As a text and as what it means, for a value and for a key."""
    for value in (text, scalar(text)):
        written = manifests.dump({"v": value})
        assert yaml.load(written, Loader) == {"v": value}, written  # noqa: S506 (a SafeLoader)
    assert yaml.load(manifests.dump({text: 1}), Loader) == {text: 1}  # noqa: S506


def test_any_scalar_that_is_written_is_read_again() -> None:
    """Texts of the signs that numbers and words are made of."""
    chance = random.Random(11)  # noqa: S311
    for _ in range(3000):
        text = "".join(chance.choices("0123456789abcdefxXoO+-._:eEyYnNtrusfl~=<", k=chance.randrange(1, 7)))
        assert yaml.load(manifests.dump({"v": text}), Loader) == {"v": text}  # noqa: S506


# Values of kubectl 1.36 for documents with tabs, as above.
TABS = {
    "k:\tvalue": {"k": "value"},
    "k: value\t": {"k": "value"},
    "k: value\t# a comment": {"k": "value"},
    "k:\n- a\t\n- b": {"k": ["a", "b"]},
    "k: one\ttwo": {"k": "one\ttwo"},
    "k: |-\t\n  text": {"k": "text"},
    "k: 'text'\t": {"k": "text"},
    "k:\t{a:\t1,\n\tb: 2}\t": {"k": {"a": 1, "b": 2}},
}


@pytest.mark.parametrize("text", TABS)
def test_tabs_separate_where_kubectl_says_so(text: str) -> None:
    assert yaml.load(text, Loader) == TABS[text]  # noqa: S506


@pytest.mark.parametrize("text", ["k:\n\t- a", "\tk: 1", "k: |\n\ttext"])
def test_tabs_are_no_indentation(text: str) -> None:
    with pytest.raises(yaml.YAMLError):
        yaml.load(text, Loader)  # noqa: S506


def test_a_merge_into_what_others_merge_is_no_duplicate() -> None:
    """Whatever the order in which the parts are made."""
    text = "a: &a {p: 1}\nc: {q: &b {<<: *a, p: 2}}\nd: {<<: *b}\n"
    value, twice = load(text)
    assert (value["d"], twice) == ({"p": 2}, [])


LAUGHS = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}' if n else 'x'] * 10)}]\n" for n in range(9))


@pytest.mark.parametrize("text", ["a: &a {b: *a}\n", "a: &a\n- &b {c: [*b]}\n", LAUGHS])
def test_aliases_without_an_end_are_refused_at_once(text: str) -> None:
    """As kubectl does: of what contains itself, and of a few lines that stand for a thousand million."""
    with pytest.raises(manifests.ManifestError, match=r"contains itself|aliases stand for more than 4000000 values"):
        manifests.documents(text)


def test_an_anchor_may_be_given_again() -> None:
    assert load("a: &a {b: &a 1, c: *a}\nd: *a\n")[0] == {"a": {"b": 1, "c": 1}, "d": 1}


# Values of kubectl 1.36 for `{k: VALUE}`, as above.
TAGS = {
    "!!timestamp 2001-12-14": "2001-12-14",
    "!!binary aGk=": "hi",
    "!!set {a, b}": {"a": None, "b": None},
    "!!omap [a: 1]": [{"a": 1}],
    '!!int "5"': 5,
    "!!str 5": "5",
    '!!bool "yes"': True,
    '!!null ""': None,
    "!!float 3": 3,
    "!!int [1]": [1],
    "!!str [1]": [1],
    "!!seq {a: 1}": {"a": 1},
    "!foo bar": "bar",
    "!foo {a: 1}": {"a": 1},
    "!!python/object:x y": "y",
    '"it\\\'s"': "it's",
}


@pytest.mark.parametrize("text", TAGS)
def test_a_tag_means_what_it_means_to_kubectl(text: str) -> None:
    assert load(f"{{k: {text}}}\n")[0] == {"k": TAGS[text]}


@pytest.mark.parametrize(
    "text", ["!!int x", "!!bool 1", "!!null x", "!!float yes", '!!binary "?"', ".inf", "-.Inf", ".nan"]
)
def test_what_kubectl_refuses_is_told(text: str) -> None:
    with pytest.raises(manifests.ManifestError, match="line 1: not YAML"):
        manifests.documents(f"{{k: {text}}}\n")
