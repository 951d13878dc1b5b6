"""Which cluster the tests of ring 4 run on: one of their own, one that is up already, or any other.

Environment variables say so; docs/e2e.md explains them.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from srcip_e2e.cluster import binaries, node_network
from srcip_e2e.cluster import node as nodes
from srcip_e2e.cluster.kube import Kube
from srcip_e2e.cluster.node import Node
from srcip_lab.errors import LabError
from srcip_lab.namespace import Host
from srcip_lab.tools import run

EXISTING = "SRCIP_E2E_EXISTING"
LOAD = "SRCIP_E2E_LOAD"
EDGE_NETNS = "SRCIP_E2E_EDGE_NETNS"
EDGE_IPS = "SRCIP_E2E_EDGE_IPS"
NODE_IPS = "SRCIP_E2E_NODE_IPS"
SNAT_IPS = "SRCIP_E2E_SNAT_IPS"


@dataclass(frozen=True)
class Edge:
    """A host outside the cluster that reaches its Pods and nodes."""

    host: Host
    """Its namespace on this machine; its addresses are those that Pods see."""
    strangers: tuple[str, ...]
    """More addresses that programs in it can use: those of a host that nobody trusts."""
    node_ips: tuple[str, ...]
    """Where it reaches NodePorts."""
    snat_ips: tuple[str, ...]
    """Whom Pods see in its place after SNAT: the node's addresses on the side of its Pods."""


@dataclass(frozen=True)
class Site:
    """The cluster under test."""

    kube: Kube
    helm: Callable[..., list[str]]
    """From arguments to a command line of helm."""
    load: Callable[[Path], object]
    """Makes the image in a docker archive known to the nodes."""
    edge: Edge | None
    """None where there is no such host."""
    node: Node | None
    """The single node if it is one of ours."""


def own() -> Site:
    """The single-node cluster of this machine, which must be up."""
    here = Node.at()

    def helm(*args: str) -> list[str]:
        return node_network.NODE.command([str(binaries.find("helm")), f"--kubeconfig={here.layout.kubeconfig}", *args])

    edge = Edge(node_network.EDGE, node_network.STRANGER, node_network.NODE.ips, node_network.BRIDGES)
    return Site(Kube(here.kubectl), helm, here.load, edge, here)


def existing(environment: Mapping[str, str] = os.environ) -> Site:
    """The cluster of KUBECONFIG. Raises LabError when a setting is missing."""

    def program(name: str) -> Callable[..., list[str]]:
        path = str(binaries.find(name))
        return lambda *args: [path, *args]

    if not environment.get("KUBECONFIG"):
        raise LabError(f"{EXISTING} is set, and KUBECONFIG is not: it must name the cluster to be used")
    command = shlex.split(environment.get(LOAD, "true"))
    load = lambda archive: run(*command, str(archive))  # noqa: E731
    return Site(Kube(program("kubectl")), program("helm"), load, _edge(environment), None)


def _edge(environment: Mapping[str, str]) -> Edge | None:
    if EDGE_NETNS not in environment:
        return None
    lists = {name: tuple(environment.get(name, "").split(",")) for name in (EDGE_IPS, NODE_IPS)}
    if empty := [name for name, values in lists.items() if not all(values)]:
        raise LabError(*(f"{name}: addresses with commas between are needed, as {EDGE_NETNS} is set" for name in empty))
    host = Host("edge", environment[EDGE_NETNS], lists[EDGE_IPS])
    node_network.give_clients(host)
    snat = environment.get(SNAT_IPS)
    return Edge(host, (), lists[NODE_IPS], tuple(snat.split(",")) if snat else lists[NODE_IPS])


def obstacles(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Why ring 4 can't run here, with the way to run it; empty if it can."""
    if environment.get(EXISTING):
        return binaries.missing(["kubectl", "helm"])
    return nodes.missing() + binaries.missing(["helm"])


@contextmanager
def under_test(environment: Mapping[str, str] = os.environ) -> Iterator[Site]:
    """The cluster to be used: an existing one if the settings say so, else the node that is up, else one for now."""
    if environment.get(EXISTING):
        yield existing(environment)
        return
    node = Node.at()
    if node.taken:
        raise LabError("the single-node cluster is in use by another run of the tests; wait for its end")
    if node.init:
        yield own()
        return
    try:
        node.up(bound=True)
        yield own()
    finally:
        node.down()
