"""The single-node cluster from the command line: `PYTHONPATH=e2e python -m srcip_e2e.cluster up`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from srcip_e2e.cluster import chart, figures, node_network, site
from srcip_e2e.cluster.binaries import Missing
from srcip_e2e.cluster.node import Node
from srcip_lab.errors import LabError

USAGE = """usage: python -m srcip_e2e.cluster COMMAND

up              start a single-node Kubernetes on this machine, with the images of srcip and of the tests
install         install the chart in it
status          its node and its Pods, and the memory of the node's programs
kubeconfig      path of the administrator's kubeconfig; for use inside the node's network (kubectl, helm below)
kubectl ARG...  kubectl as the administrator
helm ARG...     helm likewise
in-node ARG...  run a program among the node's processes, such as: in-node ctr -n k8s.io images ls
edge ARG...     run a program on the host outside of the cluster, such as: edge curl http://10.244.0.5:8080
down            stop it and remove all of it but the logs
figures         measure on it, and write docs/figures.json and docs/figures.md
"""


def _up(node: Node) -> None:
    node.up()
    chart.load_images(site.own())
    print(f"up; logs are in {node.layout.log}; next: python -m srcip_e2e.cluster install")


def _status(node: Node) -> None:
    if not node.init:
        raise LabError("it is not up")
    print(site.own().kube("get", "nodes,pods", "--all-namespaces", "-o", "wide"))
    for name, kib in sorted(node.memory().items(), key=lambda item: -item[1]):
        print(f"{kib / 1024:8.1f} MiB  {name}")


def _exec(command: Sequence[str]) -> None:
    os.execvp(command[0], list(command))  # noqa: S606


PLAIN: dict[str, Callable[[Node], object]] = {
    "up": _up,
    "install": lambda _: chart.install(site.own()),
    "status": _status,
    "kubeconfig": lambda node: print(node.layout.kubeconfig),
    "down": Node.down,
    "figures": lambda _: figures.main(),
}
WITH_ARGUMENTS: dict[str, Callable[[Node, list[str]], list[str]]] = {
    "kubectl": lambda node, args: node.kubectl(*args),
    "helm": lambda _, args: site.own().helm(*args),
    "in-node": lambda node, args: node.inside(args),
    "edge": lambda _, args: node_network.EDGE.command(args),
}


def main(arguments: Sequence[str]) -> int:
    """Run one command; 2 for a wrong one, 1 with the reasons if it fails."""
    name, *rest = arguments or ("",)
    try:
        if name in PLAIN and not rest:
            PLAIN[name](Node.at())
        elif name in WITH_ARGUMENTS and rest:
            _exec(WITH_ARGUMENTS[name](Node.at(), rest))
        else:
            print(USAGE, file=sys.stderr, end="")
            return 2
    except (LabError, Missing) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
