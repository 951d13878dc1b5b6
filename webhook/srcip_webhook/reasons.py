"""The words for why a decision was taken, and what each means."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from srcip_proxy.plan import MOST_REDIRECTED, UID


class Reason(StrEnum):
    """Why a decision was taken. These words are labels of metrics and logs: they never change their meaning."""

    REQUESTED = "requested"
    UNCHANGED = "unchanged"
    CHANGED = "changed"
    NOT_CREATE = "not-create"
    NOT_A_POD = "not-a-pod"
    NOT_REQUESTED = "not-requested"
    NOT_LABELLED = "not-labelled"
    EXCLUDED = "excluded"
    WITHOUT_PORTS = "without-ports"
    OPTED_OUT = "opted-out"
    MIRROR_POD = "mirror-pod"
    INVALID_POD = "invalid-pod"
    INVALID_ANNOTATION = "invalid-annotation"
    INVALID_STATUS = "invalid-status"
    HOST_NETWORK = "host-network"
    WINDOWS = "windows"
    NO_CONTAINERS = "no-containers"
    NAME_CLASH = "name-clash"
    UID_CLASH = "uid-clash"
    PORT_CLASH = "port-clash"
    UNDECLARED_PORT = "undeclared-port"
    NO_PORTS = "no-ports"
    NO_TRUSTED_CIDRS = "no-trusted-cidrs"
    TRUSTS_EVERYONE = "trusts-everyone"
    RESOURCES = "resources"
    NO_HEADERS = "no-headers"
    TOO_MANY_PORTS = "too-many-ports"
    NO_AGENT = "no-agent"


REASONS: dict[Reason, str] = {
    Reason.REQUESTED: "The Pod asks for the sidecar and gets it.",
    Reason.UNCHANGED: "The Pod already has exactly the sidecar it asks for; nothing is patched.",
    Reason.CHANGED: "The Pod has a sidecar but asks for another; what srcip added is rendered anew.",
    Reason.NOT_CREATE: "Only the creation of a Pod counts: a Pod's containers can't change later.",
    Reason.NOT_A_POD: "The object is not a Pod; what holds a Pod template gets warnings alone.",
    Reason.NOT_REQUESTED: "The Pod has no `srcip.io/mode`.",
    Reason.NOT_LABELLED: "The namespace has no label `srcip.io/injection: enabled`; a Pod that asks for "
    "srcip gets a warning.",
    Reason.EXCLUDED: "The chart's `admission` values exclude the namespace or the Pod; if it asks for "
    "srcip, it gets a warning.",
    Reason.WITHOUT_PORTS: "There is no TCP port to intercept, and `srcip.io/without-ports: skip` is set.",
    Reason.OPTED_OUT: '`srcip.io/inject: "false"`, as an annotation or a label. Wins over everything else.',
    Reason.MIRROR_POD: "The Pod mirrors a static one, which kubelet runs from a file; no webhook can change that.",
    Reason.INVALID_POD: "A field that srcip reads has a type that Kubernetes does not allow.",
    Reason.INVALID_ANNOTATION: "An annotation of srcip has a value that is not allowed.",
    Reason.INVALID_STATUS: "`srcip.io/status` was not written by srcip.",
    Reason.HOST_NETWORK: "The Pod uses the node's network, where rules would apply to the node's own traffic.",
    Reason.WINDOWS: "The Pod is for Windows nodes.",
    Reason.NO_CONTAINERS: "The Pod has no containers.",
    Reason.NAME_CLASH: "A container or volume has a name that is reserved for srcip.",
    Reason.UID_CLASH: f"A container runs as user {UID}, which is reserved for the sidecar.",
    Reason.PORT_CLASH: "A port is reserved for the sidecar, or no alias port is free for a probe.",
    Reason.UNDECLARED_PORT: "A port to be intercepted is declared by no container.",
    Reason.NO_PORTS: "No port is left to intercept, or headers for outgoing requests have no `outbound-ports`.",
    Reason.NO_TRUSTED_CIDRS: "Neither the Pod nor the webhook's settings say which load balancers to trust.",
    Reason.TRUSTS_EVERYONE: "`trusted-cidrs` contains all addresses of an IP version, without "
    "`srcip.io/trust-any-source`.",
    Reason.RESOURCES: "A resource request is above its limit.",
    Reason.NO_HEADERS: "No port passes the client on or receives it in HTTP headers, or "
    "`outbound-ports` have no header to set.",
    Reason.TOO_MANY_PORTS: f"Redirect mode takes at most {MOST_REDIRECTED} ports.",
    Reason.NO_AGENT: "`srcip.io/privilege: agent` where the agent is not enabled, or in a mode that it can't do.",
}
"""One line about each reason, for the reference page."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: a reason and a sentence that names value and way out."""

    reason: Reason
    message: str
    key: str = ""
    """The annotation that it is about, where it is about one."""


def about(key: str, reason: Reason, text: str) -> Fault:
    """What is wrong with one annotation: its name, then the text."""
    return Fault(reason, f"{key}: {text}", key)
