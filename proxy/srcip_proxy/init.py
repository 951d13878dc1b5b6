"""What the init container does: read the plan, set up interception, write HAProxy's configuration. Then it is gone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from srcip_proxy import capabilities, trust
from srcip_proxy.environment import load
from srcip_proxy.errors import NotPossibleError
from srcip_proxy.haproxy import config, outbound
from srcip_proxy.netfilter import preflight, routes, ruleset
from srcip_proxy.plan import Plan
from srcip_proxy.pod import Pod

DIRECTORY = Path("/run/srcip")
CONFIGURATION = "haproxy.cfg"


@dataclass(frozen=True)
class Rendered:
    """Every text that `init` applies or writes."""

    nft: str
    routes: dict[int, str]
    """For `ip -batch -`, by IP version."""
    haproxy: str


def render(plan: Plan, pod: Pod) -> Rendered:
    """All texts for this plan in this Pod. Pure."""
    ways = {v: routes.render(v, plan, pod) for v in pod.versions}
    return Rendered(ruleset.render(plan, pod), ways, config.render(plan, pod))


def apply(texts: Rendered, directory: Path = DIRECTORY) -> None:
    """Put `texts` into effect, interception first: until the sidecar listens, trusted connections are refused.

    Safe to run again. Raises subprocess.CalledProcessError with what the tool said.
    """
    intercept(texts)
    _write(directory / CONFIGURATION, texts.haproxy)


def intercept(texts: Rendered) -> None:
    """Put the rules and routes into effect, and write nothing. Raises subprocess.CalledProcessError."""
    feed(["nft", "-f", "-"], texts.nft)
    for version, text in texts.routes.items():
        _routes(version, text)


def _routes(version: int, text: str) -> None:
    """In a Pod that is new the first try works; otherwise the rules of an earlier run go first."""
    command = ["ip", f"-{version}", "-batch", "-"]
    try:
        feed(command, text)
    except subprocess.CalledProcessError:
        feed([*command[:2], "-force", *command[2:]], routes.prepare(version), check=False)
        feed(command, text)


def main(environment: Mapping[str, str] = os.environ) -> int:
    """`srcip-proxy init`. Exit code 0 when everything is in place, 1 with the reasons otherwise."""
    plan, pod = load(environment)
    if not plan.has_sidecar:
        return _attach(plan, pod, environment)
    if plan.may_fall_back:
        try:
            plan = _decided(plan, pod, environment)
        except NotPossibleError as error:
            return _fail(list(error.reasons))
    if findings := capabilities.missing("NET_ADMIN"):
        return _fail(findings)
    try:
        used = set_up(plan, pod, apply)
    except subprocess.CalledProcessError as error:
        return _fail(preflight.explain(error, *preflight.parts(plan)))
    if preflight.parts(plan):  # else the sidecar idles, which was said
        print(summary(plan, used))
    return 0


def _attach(plan: Plan, pod: Pod, environment: Mapping[str, str]) -> int:
    from srcip_proxy.ebpf import init as ebpf_init  # noqa: PLC0415 - this mode alone needs what it loads

    try:
        print(f"{summary(plan, pod)}; {ebpf_init.set_up(plan, pod, environment)}")
    except NotPossibleError as error:
        return _fail(list(error.reasons))
    return 0


def _decided(plan: Plan, pod: Pod, environment: Mapping[str, str]) -> Plan:
    """What is left for the sidecar to do: all of tproxy mode, or nothing of what comes in. Raises NotPossibleError."""
    from srcip_proxy.ebpf import init as ebpf_init  # noqa: PLC0415

    try:
        print(f"{summary(plan, pod)}; {ebpf_init.set_up(plan, pod, environment)}; the sidecar is inactive")
    except NotPossibleError as error:
        if not error.is_untouched:
            raise
        for reason in error.reasons:
            print(
                (f"srcip-proxy init: this node does not support ebpf mode, using {plan.fallback} mode: {reason}"),
                file=sys.stderr,
            )
        return plan.for_sidecar(attached=False)
    return plan.for_sidecar(attached=True)


def set_up(plan: Plan, pod: Pod, put: Callable[[Rendered], None]) -> Pod:
    """`put` everything into effect; where the node only lacks what IPv6 needs, all but that. The Pod as it was used.

    Raises subprocess.CalledProcessError.
    """
    try:
        put(render(plan, pod))
    except subprocess.CalledProcessError:
        # nft says only that a rule failed, not why: single rules in a scratch table tell which part the kernel lacks
        if not (pod.ipv6 and preflight.only_ipv6_is_missing(*preflight.parts(plan))):
            raise
        print(
            ("srcip-proxy: this node does not support IPv6 interception; the Pod continues with IPv4 only"),
            file=sys.stderr,
        )
        return set_up(plan, replace(pod, ipv6=False), put)
    return pod


def summary(plan: Plan, pod: Pod) -> str:
    """One line that says what was set up. Names of headers only: a value may be a secret."""
    done = []
    if plan.inbound_ports:
        who = trust.intercepted(plan, pod)["trusted"]
        done.append(f"ports {_listed(plan.inbound_ports)} from {', '.join(who) or 'no source'}")
    if plan.outbound_ports:
        done.append(f"requests to ports {_listed(plan.outbound_ports)} get {_listed(outbound.values(plan, pod))}")
    done.append("IPv4 and IPv6" if pod.ipv6 else "IPv4 only (the Pod has no IPv6)")
    return f"srcip-proxy init: {'; '.join(done)}"


def _listed(things: Iterable[object]) -> str:
    return ", ".join(map(str, things))


def _fail(reasons: list[str]) -> int:
    for reason in reasons:
        print(f"srcip-proxy init: {reason}", file=sys.stderr)
    return 1


def feed(command: list[str], text: str, check: bool = True) -> None:
    """Run a tool that changes the network, with `text` as its input. Raises subprocess.CalledProcessError."""
    subprocess.run([*preflight.PRIVILEGED, *command], input=text, check=check, capture_output=True, text=True)


def _write(path: Path, text: str) -> None:
    """Readers see the old file or the new one, never half of it."""
    aside = path.with_suffix(".new")
    aside.write_text(text)
    aside.replace(path)
