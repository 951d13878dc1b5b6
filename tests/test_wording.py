"""Code decides by types and fields, never by how a sentence is worded: each message can be reworded freely.

Looked at are the three packages that ship. What another program says is theirs to word: each place that has no better
way is listed with the reason.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("proxy/srcip_proxy", "webhook/srcip_webhook", "certs/srcip_certs")
MATCHING = {"startswith", "endswith", "removeprefix", "removesuffix", "partition", "find", "index", "count"}
"""Methods of a text that look for another text in it."""
OF_RE = {"match", "search", "fullmatch", "findall"}
SENTENCES = {"message", "messages", "reasons", "faults", "errors", "args", "stderr", "warnings"}
"""Attributes that hold sentences."""
NAMES = {"sentence", "message"}
"""Names of variables and parameters that do."""
OTHERS = {
    ("certs/srcip_certs/kube.py", "self.message"): "the API server's answer to a JSON patch whose test fails has no "
    "field that tells it from another invalid patch",
    **dict.fromkeys(
        [
            ("webhook/srcip_webhook/source_lines.py", "sentence"),
            ("webhook/srcip_webhook/source_lines.py", "_steps(sentence)"),
        ],
        "finds the line of a manifest to show beside a sentence; nothing is decided by it",
    ),
}


@dataclass(frozen=True)
class Match:
    """One place where a text is looked at."""

    subject: ast.expr
    """The text that is looked at."""
    patterns: tuple[str, ...]
    """What is looked for, as far as it is written there."""


def modules() -> dict[str, ast.Module]:
    paths = (path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")))
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in paths}


def constants(node: ast.AST) -> tuple[str, ...]:
    return tuple(
        each.value for each in ast.walk(node) if isinstance(each, ast.Constant) and isinstance(each.value, str)
    )


def matches(tree: ast.AST) -> Iterator[Match]:
    """Every match of a text: `in`, `==`, methods of str, functions of re."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            for operator, right in zip(node.ops, node.comparators, strict=True):
                if isinstance(operator, ast.In | ast.NotIn):
                    yield Match(right, constants(node.left))
                if isinstance(operator, ast.Eq | ast.NotEq):
                    yield from (Match(node.left, constants(right)), Match(right, constants(node.left)))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
            is_re = isinstance(node.func.value, ast.Name) and node.func.value.id == "re" and node.func.attr in OF_RE
            if is_re and node.args[1:]:
                yield Match(node.args[1], constants(node.args[0]))
            elif node.func.attr in OF_RE:  # of a pattern that is compiled elsewhere
                yield Match(node.args[0], ())
            elif node.func.attr in MATCHING:
                yield Match(node.func.value, constants(node.args[0]))


def caught(tree: ast.AST) -> set[str]:
    """The names that stand for exceptions."""
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler) and node.name}


def is_sentence(subject: ast.expr, errors: set[str]) -> bool:
    """Whether it is the text of an exception, or a field that holds sentences."""
    for node in ast.walk(subject):
        if isinstance(node, ast.Attribute) and node.attr in SENTENCES:
            return True
        if isinstance(node, ast.Name) and node.id in NAMES:
            return True
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("str", "repr"):
            return any(isinstance(each, ast.Name) and each.id in errors for each in node.args)
    return False


def handed_on(tree: ast.AST, errors: set[str]) -> Iterator[str]:
    """Calls of a function of the same module with a message that it looks into."""
    functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        called = functions.get(call.func.id) if isinstance(call.func, ast.Name) else None
        for parameter, argument in zip(called.args.args if called else (), call.args, strict=False):
            if is_sentence(argument, errors) and called and looks_into(called, parameter.arg):
                yield ast.unparse(call)


def looks_into(function: ast.FunctionDef, parameter: str) -> bool:
    names = (node for each in matches(function) for node in ast.walk(each.subject) if isinstance(node, ast.Name))
    return parameter in {node.id for node in names}


def sentences(tree: ast.AST) -> set[str]:
    """Texts of several words that are not docstrings."""
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    found = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in docs)
    return {each.value for each in found if isinstance(each.value, str) and len(each.value.split()) > 1}


MODULES = modules()
SAID = {path: sentences(tree) for path, tree in MODULES.items()}
"""The sentences of each module."""


@pytest.mark.parametrize("path", MODULES)
def test_no_module_looks_into_a_message(path: str) -> None:
    """Neither the text of an exception nor a field of sentences is compared or searched."""
    errors = caught(MODULES[path])
    subjects = {ast.unparse(each.subject) for each in matches(MODULES[path]) if is_sentence(each.subject, errors)}
    subjects |= set(handed_on(MODULES[path], errors))
    assert subjects == {subject for where, subject in OTHERS if where == path}


@pytest.mark.parametrize("path", MODULES)
def test_no_module_looks_for_the_words_of_another(path: str) -> None:
    """However a message came there: what is looked for, two words or more, stands in no sentence of another module."""
    elsewhere = {text: other for other, texts in SAID.items() if other != path for text in texts}
    looked_for = {text for each in matches(MODULES[path]) for text in each.patterns if len(text.split()) > 1}
    assert [(text, where) for text in looked_for for other, where in elsewhere.items() if text in other] == []
