"""`srcip lab` and `srcip demo`: the lab on the command line."""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click

from srcip_lab import demo as demonstration
from srcip_lab import image, manifest, programs, rootless, sending
from srcip_lab import lab as labs
from srcip_lab.errors import LabError
from srcip_lab.lab import DEFAULT_NAME, Lab

C = TypeVar("C", bound=Callable[..., Any])
name_option = click.option("--name", default=DEFAULT_NAME, show_default=True, help="Which lab, where several are up.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")


class Reasons(click.ClickException):
    """Every reason on its line; exit code 1."""

    def __init__(self, error: LabError) -> None:
        super().__init__("\n".join(error.errors))

    def show(self, file: Any = None) -> None:
        """Print them to standard error."""
        click.echo(self.message, err=True)


def plainly(command: C) -> C:
    """What the lab cannot do is told in its own words, without a traceback."""

    @functools.wraps(command)
    def wrapper(*args: Any, **options: Any) -> Any:
        try:
            return command(*args, **options)
        except LabError as error:
            raise Reasons(error) from error

    return wrapper  # type: ignore[return-value]


def go_inside() -> None:
    """Without root: run this same command again in the user namespace of this user's labs, and exit as it does."""
    if rootless.needed():
        announce_image()
        sys.exit(rootless.run_inside([sys.executable, *sys.orig_argv[1:]]))


@click.group()
@plainly
def lab() -> None:
    """Run one injected Pod on this machine, without a cluster."""
    if not {"-h", "--help"} & set(sys.argv):
        go_inside()


@lab.command()
@click.option("-f", "--file", "path", required=True, help="Manifest of a Pod or a workload; - reads standard input.")
@click.option("--ipv6/--no-ipv6", default=True, help="Without: a Pod with IPv6 off.")
@name_option
@json_option
@plainly
def up(path: str, ipv6: bool, name: str, as_json: bool) -> None:
    """Patch the Pod as the webhook does, and run it behind a load balancer."""
    wanted = manifest.load(path)
    announce_image()
    facts = Lab.up(wanted, name=name, ipv6=ipv6).facts()
    for warning in facts["webhook"].get("warnings", []) + facts["warnings"]:
        click.echo(f"warning: {warning}", err=True)
    click.echo(json.dumps(facts) if as_json else "\n".join(_describe(facts)))


@lab.command()
@click.option("--client", help="The client that the header names: IP, IPv4:PORT or [IPv6]:PORT; a random port if none.")
@click.option("--port", type=click.IntRange(1, 65535), required=True, help="Port of the Pod.")
@click.option("--v1", "form", flag_value="v1", help="PROXY protocol version 1.")
@click.option("--v2", "form", flag_value="v2", help="PROXY protocol version 2 (the default).")
@click.option("--hex", "raw", metavar="BYTES", help="These bytes in place of a header, in hexadecimal.")
@click.option("--toa", "form", flag_value="toa", help="No header: a TCP option names the client (client-from: toa).")
@click.option("--no-header", "form", flag_value="none", help="No header at all.")
@click.option(
    "--from", "origin", type=click.Choice(["lb", "other"]), default="lb", show_default=True, help="Who sends."
)
@click.option("--data", default="", help=r"Sent after the header; \r, \n, \t, \\ and \xHH are understood.")
@click.option("--http", is_flag=True, help="Send an HTTP/1.1 request after the header; --data is its body then.")
@click.option(
    "--header", "headers", metavar="'NAME: VALUE'", multiple=True, help="A header of the request; repeatable."
)
@click.option("--path", help="Path of the request; / if not given.")
@click.option("--method", help="Method of the request; GET if not given, POST with --data.")
@click.option("--to", "target", metavar="IP", help="Address to connect to; the Pod's if not given.")
@click.option("-6", "--ipv6", is_flag=True, help="Connect to the Pod's IPv6 address.")
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(0.1, 600), default=5.0, show_default=True, help="Seconds."
)
@name_option
@json_option
@plainly
def send(**options: Any) -> None:
    """Send one connection to the Pod, and print what the application answered."""
    sent, outcome = sending.send(options)
    if options["as_json"]:
        click.echo(json.dumps(sent.facts(outcome)))
    else:
        answer = sent.readable(outcome)
        click.echo(answer, nl=bool(answer) and not answer.endswith(b"\n"))
        click.echo(sent.text(outcome), err=True)
    sys.exit(0 if sent.good(outcome) else 1)


@lab.command()
@click.argument("container", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on until interrupted.")
@name_option
@plainly
def logs(container: str | None, follow: bool, name: str) -> None:
    """Print what the containers wrote; all of them, if none is named."""
    current = Lab(name)
    names = [current.container(container).name] if container else list(current.containers)
    paths = {each: Path(current.container(each).log) for each in names}
    for line in _follow(paths, follow=follow):
        click.echo(line)


@lab.command()
@name_option
@json_option
@plainly
def status(name: str, as_json: bool) -> None:
    """Tell what runs."""
    facts = Lab(name).facts()
    click.echo(json.dumps(facts) if as_json else "\n".join(_describe(facts)))


@lab.command()
@name_option
@click.option("--all", "everything", is_flag=True, help="Every lab of this machine.")
@plainly
def down(name: str, everything: bool) -> None:
    """End the Pod, and remove everything the lab made; also after a crash."""
    for each in labs.names() if everything else [name]:
        click.echo(f"lab {each}: removed" if labs.down(each) else f"lab {each}: does not exist")


@click.command()
@json_option
@plainly
def demo(as_json: bool) -> None:
    """Show in some seconds what srcip does: an application behind a load balancer, before and after."""
    go_inside()
    announce_image()
    steps = []
    for step in demonstration.steps():
        steps.append(step)
        if not as_json:
            click.echo(step.text(color=sys.stdout.isatty()))
    good = all(step.good for step in steps)
    if as_json:
        click.echo(json.dumps({"ok": good, "steps": [step.facts() for step in steps]}))
    sys.exit(0 if good else 1)


def announce_image() -> None:
    """Say why it takes longer, when the image has to be built first."""
    if not image.cached():
        click.echo(f"building the proxy image from packages of Debian {image.SUITE} (once, some 20 s) ...", err=True)


def _describe(facts: dict[str, Any]) -> Iterator[str]:
    """The lab in some lines for a person."""
    trust = {"lb": "the load balancer", "other": "some other host", "pod": "the Pod", "node": "its node"}
    for part, what in trust.items():
        yield f"{part:<6} {'  '.join(facts[part]['ips']):<28} {what:<18} netns {facts[part]['netns']}"
    for name, container in facts["containers"].items():
        running = f"runs, pid {container['pid']}" if container["pid"] else container["state"]
        ended = "" if container["exit_code"] is None or container["pid"] else f", exit code {container['exit_code']}"
        again = f", restarted {container['restarts']} times" if container["restarts"] else ""
        yield f"{name}: {running}{ended}{again}; log {container['log']}"
    if facts["programs"]:
        yield from programs.text(facts["programs"], facts["name"])


def _follow(paths: dict[str, Path], *, follow: bool) -> Iterator[str]:
    """Each new line of the logs, after its container's name when there are several."""
    read = dict.fromkeys(paths, 0)
    while True:
        for name, path in paths.items():
            text = path.read_bytes()[read[name] :] if path.exists() else b""
            whole = text if not follow else text[: text.rfind(b"\n") + 1]
            read[name] += len(whole)
            prefix = f"{name}: " if len(paths) > 1 else ""
            yield from (prefix + line for line in whole.decode(errors="replace").splitlines())
        if not follow:
            return
        time.sleep(0.2)
