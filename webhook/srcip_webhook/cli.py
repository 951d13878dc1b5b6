"""The command `srcip`: inject and explain manifests without a cluster; `lab` and `demo` come from srcip_lab.

Exit status of `inject` and `explain`: 0 if every Pod is fine, 1 if one is refused or annotations of srcip stand where
nobody reads them, 2 if the call or the file is bad.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, BinaryIO

import click

from srcip_webhook import __version__, levels, manifests, pod_templates, reference, source_lines, unified
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
            type=click.File("rb"),
            required=True,
            help="Manifest; - for standard input.",
        ),
        click.option(
            "--trusted-cidrs", envvar="SRCIP_TRUSTED_CIDRS", help="Load balancers trusted by Pods that name none."
        ),
        click.option("--image", envvar="SRCIP_PROXY_IMAGE", help=f"Image of the sidecar (default {DEFAULT_IMAGE})."),
        click.option("--agent", is_flag=True, help="For a cluster whose chart has agent.enabled; or SRCIP_AGENT=true."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@dataclass(frozen=True)
class Manifest:
    """A file, and what becomes of each Pod in it."""

    name: str
    documents: tuple[manifests.Document, ...]
    faults: tuple[manifests.Fault, ...]
    """Why it is no manifest; its Pods are looked at all the same, so that all is told at once."""
    results: tuple[manifests.Rendered, ...]
    pods: tuple[Seen, ...]


@dataclass(frozen=True)
class Seen:
    """One Pod."""

    document: manifests.Document
    place: manifests.Place
    outcome: Outcome

    def line(self, sentence: str) -> int:
        """The line that a sentence about the Pod is about."""
        return source_lines.line_of(self.document, self.place.path, sentence)

    def level(self, known: Mapping[str, str]) -> str | None:
        """What the level of its namespace says, by the levels of the manifest's Namespaces."""
        return levels.verdict(self.outcome, levels.namespace_of(self.document.value, self.place.path), known)


@main.command()
@_pod_options
@click.option("--diff", is_flag=True, help="Show the change as a unified diff.")
def inject(file: BinaryIO, trusted_cidrs: str | None, image: str | None, agent: bool, diff: bool) -> None:
    """Print the manifest with the sidecar in every Pod that asks for it; everything else stays as it is, comments too.

    Nothing is printed if a Pod is refused. Exit status: 0 done, 1 a Pod is refused or an annotation stands where nobody
    reads it, 2 bad call or file.
    """
    found = _manifest(file, _settings(trusted_cidrs, image, agent))
    status = _tell(found, with_pods=True)
    if not found.faults and not any(pod.outcome.messages for pod in found.pods):
        text = _diff(found) if diff else "".join(result.text for result in found.results)
        click.echo(text.encode(), nl=False)
    sys.exit(status)


@main.command()
@_pod_options
def explain(file: BinaryIO, trusted_cidrs: str | None, image: str | None, agent: bool) -> None:
    """Say what happens to each Pod of a manifest, and why. Where the manifest holds the Pod's Namespace, say what its
    Pod Security level makes of it, too.

    Exit status: 0 no Pod is refused, 1 a Pod is refused or an annotation stands where nobody reads it, 2 bad call or
    file.
    """
    found = _manifest(file, _settings(trusted_cidrs, image, agent))
    known = levels.of(document.value for document in found.documents)
    texts = [explained(pod.place.owner, pod.outcome, pod.line, pod.level(known)) for pod in found.pods]
    click.echo("\n".join(texts) or "no Pods\n", nl=False)
    sys.exit(_tell(found, with_pods=False))


@main.command("annotations")
@click.option("--schema", is_flag=True, help="As a JSON schema.")
def annotations_(schema: bool) -> None:
    """Print the reference of all annotations."""
    click.echo(json.dumps(annotations_schema(), indent=2) if schema else reference.page())


def _settings(trusted_cidrs: str | None, image: str | None, agent: bool) -> Settings:
    environ: Mapping[str, str] = {
        **os.environ,
        "SRCIP_TRUSTED_CIDRS": trusted_cidrs or "",
        "SRCIP_PROXY_IMAGE": image or DEFAULT_IMAGE,
        **({"SRCIP_AGENT": "true"} if agent else {}),
    }
    try:
        return from_environ(environ)
    except SettingsError as error:
        raise click.UsageError("\n".join(error.faults)) from None


def _manifest(file: BinaryIO, settings: Settings) -> Manifest:
    text, faults = manifests.text_of(file.read())
    documents, results, seen = manifests.read(text), [], list[Seen]()
    for document in documents:
        results.append(manifests.rendered(document, _changer(document, settings, seen)))
        faults += document.faults
    name = getattr(file, "name", "<stdin>")
    return Manifest(name, tuple(documents), faults, tuple(results), tuple(seen))


def _changer(document: manifests.Document, settings: Settings, seen: list[Seen]) -> manifests.Change:
    def change(pod: dict[str, Any], place: manifests.Place) -> dict[str, Any]:
        decoded = manifests.decoded(pod)
        outcome = consider(decoded, settings)
        seen.append(Seen(document, place, outcome))
        return pod if outcome.after is decoded else manifests.encoded(outcome.after, pod)

    return change


def _tell(found: Manifest, with_pods: bool) -> int:
    """Everything at once to standard error, in the order of the lines; the exit status."""
    told = [(fault.line, fault.message) for fault in found.faults]
    told += _misplaced(found)
    told += _about_pods(found) if with_pods else ()
    for line, sentence in sorted(told, key=itemgetter(0)):
        click.echo(f"{found.name}:{line}: {sentence}", err=True)
    if found.faults:
        return 2
    return 1 if any(pod.outcome.messages for pod in found.pods) or any(_misplaced(found)) else 0


def _misplaced(found: Manifest) -> Iterator[tuple[int, str]]:
    """Annotations that nobody reads."""
    for document in found.documents:
        for path, text in pod_templates.misplaced_at(document.value):
            yield source_lines.line_at(document, path), f"warning: {text}"


def _about_pods(found: Manifest) -> Iterator[tuple[int, str]]:
    for pod in found.pods:
        owner = pod.place.owner
        yield from ((pod.line(text), f"{owner}: warning: {text}") for text in pod.outcome.decision.warnings)
        yield from ((pod.line(text), f"{owner}: refused: {text}") for text in pod.outcome.messages)
    for document, result in zip(found.documents, found.results, strict=True):
        if result.is_anew:
            yield (
                document.line,
                "warning: this document is written anew, without its comments: its text can't be edited",
            )


def _diff(found: Manifest) -> str:
    pairs = ((document.text, result.text) for document, result in zip(found.documents, found.results, strict=True))
    return unified.diff(pairs, found.name, f"{found.name} (injected)")


if __name__ == "__main__":
    main()
