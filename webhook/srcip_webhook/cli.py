"""The command `srcip`: inject and explain manifests without a cluster; `lab` and `demo` come from srcip_lab.

Exit status of `inject` and `explain`: 0 if every Pod is fine, 1 if one is refused or annotations of srcip stand where
nobody reads them, 2 if the call or the file is bad.
"""

from __future__ import annotations

import difflib
import importlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, TextIO

import click

from srcip_webhook import __version__, holders, manifests, reference
from srcip_webhook.annotations import schema as annotations_schema
from srcip_webhook.explain import explained
from srcip_webhook.mutate import Outcome, consider
from srcip_webhook.settings import Settings, SettingsError, from_environ

DEFAULT_IMAGE = f"localhost/srcip-proxy:{__version__}"
"""Names no registry, so that a forgotten --image can't fetch somebody else's."""

_LAZY = {"lab": ("srcip_lab.commands", "lab"), "demo": ("srcip_lab.commands", "demo")}
"""Commands of another package, imported when they are called."""


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *_LAZY])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return _lazy(cmd_name) if cmd_name in _LAZY else super().get_command(ctx, cmd_name)


def _lazy(name: str) -> click.Command:
    module, attribute = _LAZY[name]
    try:
        command: click.Command = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        return _missing(name, str(error))
    return command


def _missing(name: str, why: str) -> click.Command:
    @click.command(name, help="Not available in this installation.", add_help_option=False)
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def command(arguments: tuple[str, ...]) -> None:
        raise click.UsageError(f"{name} is not available here: {why}")

    return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="srcip")
def main() -> None:
    """The real client IP address for any application in Kubernetes."""


def _pod_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that stand for the webhook's settings, and the file."""
    options = (
        click.option(
            "-f",
            "--file",
            "file",
            type=click.File(encoding="utf-8"),
            required=True,
            help="Manifest; - for standard input.",
        ),
        click.option(
            "--trusted-cidrs", envvar="SRCIP_TRUSTED_CIDRS", help="Load balancers trusted by Pods that name none."
        ),
        click.option("--image", envvar="SRCIP_PROXY_IMAGE", help=f"Image of the sidecar (default {DEFAULT_IMAGE})."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@main.command()
@_pod_options
@click.option("--diff", is_flag=True, help="Show the change as a unified diff.")
def inject(file: TextIO, trusted_cidrs: str | None, image: str | None, diff: bool) -> None:
    """Print the manifest with the sidecar in every Pod that asks for it; other objects pass untouched.

    Nothing is printed if a Pod is refused. Exit status: 0 done, 1 a Pod is refused, 2 bad call or file.
    """
    seen: list[tuple[str, Outcome]] = []
    change = _changer(_settings(trusted_cidrs, image), seen)
    documents = _documents(file)
    results = [manifests.rendered(document, change) for document in documents]
    _tell(seen)
    if diff:
        _print_diff(documents, results, file.name)
    else:
        click.echo("".join(results), nl=False)
    _tell_misplaced(documents)


@main.command()
@_pod_options
def explain(file: TextIO, trusted_cidrs: str | None, image: str | None) -> None:
    """Say what happens to each Pod of a manifest, and why.

    Exit status: 0 no Pod is refused, 1 a Pod is refused, 2 bad call or file.
    """
    seen: list[tuple[str, Outcome]] = []
    change = _changer(_settings(trusted_cidrs, image), seen)
    documents = _documents(file)
    for document in documents:
        manifests.changed(document.value, change)
    click.echo("\n".join(explained(owner, outcome) for owner, outcome in seen) or "no Pods\n", nl=False)
    _tell_misplaced(documents)
    if any(outcome.verb == "refuse" for _, outcome in seen):
        sys.exit(1)


@main.command("annotations")
@click.option("--schema", is_flag=True, help="As a JSON schema.")
def annotations_(schema: bool) -> None:
    """Print the reference of all annotations."""
    click.echo(json.dumps(annotations_schema(), indent=2) if schema else reference.page())


def _settings(trusted_cidrs: str | None, image: str | None) -> Settings:
    environ: Mapping[str, str] = {
        **os.environ,
        "SRCIP_TRUSTED_CIDRS": trusted_cidrs or "",
        "SRCIP_PROXY_IMAGE": image or DEFAULT_IMAGE,
    }
    try:
        return from_environ(environ)
    except SettingsError as error:
        raise click.UsageError("\n".join(error.faults)) from None


def _documents(file: TextIO) -> list[manifests.Document]:
    try:
        return manifests.documents(file.read())
    except (manifests.ManifestError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{file.name}: {error}") from None


def _changer(settings: Settings, seen: list[tuple[str, Outcome]]) -> manifests.Change:
    def change(pod: dict[str, Any], owner: str) -> dict[str, Any]:
        decoded = manifests.decoded(pod)
        outcome = consider(decoded, settings)
        seen.append((owner, outcome))
        return pod if outcome.after is decoded else outcome.after

    return change


def _tell(seen: list[tuple[str, Outcome]]) -> None:
    """Warnings and faults to standard error; ends the command if there are faults."""
    for owner, outcome in seen:
        for warning in outcome.decision.warnings:
            click.echo(f"{owner}: warning: {warning}", err=True)
        for message in outcome.messages:
            click.echo(f"{owner}: refused: {message}", err=True)
    if any(outcome.messages for _, outcome in seen):
        sys.exit(1)


def _tell_misplaced(documents: list[manifests.Document]) -> None:
    """Annotations that nobody reads, to standard error; ends the command if there are any."""
    found = [text for document in documents for text in holders.misplaced(document.value)]
    for text in found:
        click.echo(f"warning: {text}", err=True)
    if found:
        sys.exit(1)


def _print_diff(documents: list[manifests.Document], results: list[str], name: str) -> None:
    """Old and new written by the same hand, so that only the change shows."""
    for document, result in zip(documents, results, strict=True):
        if result == document.text:
            continue
        lines = (manifests.dump(document.value), result.removeprefix("---\n"))
        old, new = (text.splitlines(keepends=True) for text in lines)
        click.echo("".join(difflib.unified_diff(old, new, name, f"{name} (injected)")), nl=False)


if __name__ == "__main__":
    main()
