"""`srcip-proxy init | gate | render | check | outbound | ebpf`: the data plane of one Pod."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from srcip_proxy.plan import PlanError
from srcip_proxy.pod import PodError

USAGE = """usage: srcip-proxy COMMAND

The first four read the plan from the environment: SRCIP_PLAN, and POD_IP, POD_IPS, HOST_IP from the downward API.

  init     set up interception and write HAProxy's configuration; needs CAP_NET_ADMIN
  gate     wait until the agent of this node has attached the programs of ebpf mode; needs no capability
  render   print what init would apply and write, and touch nothing
  check    prove in the running Pod that interception, delivery and replies work; needs no capability
  outbound set headers in the HTTP requests that this Pod sends: srcip-proxy outbound --help
  ebpf     attach the programs of ebpf mode, or print their counters: srcip-proxy ebpf --help; or serve the counters of
           a whole node: srcip-proxy ebpf exporter --help
"""


def _init() -> int:
    from srcip_proxy import init  # noqa: PLC0415 - each command loads what it needs: init runs in every Pod's start

    return init.main()


def _gate() -> int:
    from srcip_proxy import gate  # noqa: PLC0415

    return gate.main()


def _render() -> int:
    from srcip_proxy import environment, init  # noqa: PLC0415

    plan, pod = environment.load(os.environ)
    if not plan.has_sidecar:
        print(f"{init.summary(plan, pod)}; programs are attached, and nothing is written")
        return 0
    if plan.may_fall_back:
        print("# where the node has no ebpf mode:")
        plan = plan.for_sidecar(attached=False)
    texts = init.render(plan, pod)
    print(texts.nft)
    for version, text in texts.routes.items():
        print(f"# ip -{version} -batch -\n{text}")
    print(f"# {init.DIRECTORY / init.CONFIGURATION}\n{texts.haproxy}")
    return 0


def _check() -> int:
    from srcip_proxy import check  # noqa: PLC0415

    return check.main()


def _outbound(arguments: list[str]) -> int:
    from srcip_proxy.outbound import run  # noqa: PLC0415

    return run.main(arguments)


def _ebpf(arguments: list[str]) -> int:
    if arguments[:1] == ["exporter"]:
        from srcip_proxy.ebpf.exporter import run  # noqa: PLC0415

        return run.main(arguments[1:])
    from srcip_proxy.ebpf import attach  # noqa: PLC0415

    return attach.main(arguments)


COMMANDS: dict[str, Callable[[], int]] = {"init": _init, "gate": _gate, "render": _render, "check": _check}


def main() -> None:
    """Entry point of `srcip-proxy`. Exit code 0 on success, 1 on failure with the reasons, 2 on wrong usage."""
    arguments = sys.argv[1:]
    if arguments in (["-h"], ["--help"]):
        print(USAGE, end="")
        sys.exit(0)
    if arguments[:1] == ["outbound"]:
        sys.exit(_outbound(arguments[1:]))
    if arguments[:1] != ["ebpf"] and (len(arguments) != 1 or arguments[0] not in COMMANDS):
        print(USAGE, end="", file=sys.stderr)
        sys.exit(2)
    try:
        sys.exit(_ebpf(arguments[1:]) if arguments[0] == "ebpf" else COMMANDS[arguments[0]]())
    except (PlanError, PodError) as error:
        print(f"srcip-proxy {arguments[0]}: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
