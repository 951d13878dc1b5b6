"""What the init container does where the node's agent has the privilege: wait until the programs are attached.

It has no capability, no mount and no token. It asks the programs themselves, by the getpeername hook, for the
fingerprint of its own plan; what is left of an earlier sandbox of the Pod says nothing, as it is of another network.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping

from srcip_proxy import notices, trust
from srcip_proxy.ebpf import counters, maps
from srcip_proxy.environment import load, plan_of
from srcip_proxy.plan import Plan
from srcip_proxy.pod import Pod

QUICK_S, SLOW_S = 0.01, 0.25
"""Between two questions, each some microseconds long: at first, and when it takes longer than usual."""
USUAL_S = 5.0
PATIENCE_S = 1.0
"""After so long it says what it waits for."""
MOST_SAID = 20
"""Different lines that it says while it waits."""
WAITS = (
    "waits for srcip's agent of this node, which is to attach the programs. If it takes long: is there a Pod of the "
    "agent on this node, and is it ready (kubectl get pods -A -o wide -l app.kubernetes.io/component=agent)? Its log "
    "names this Pod, and the reason if it refuses it. A runtime with a kernel of its own (Kata Containers, gVisor) "
    "can't have these programs"
)


def main(environment: Mapping[str, str] = os.environ) -> int:
    """`srcip-proxy gate`. Exit code 0 when the programs are at work, 1 with the reason where they never will be."""
    plan = plan_of(environment)
    if not plan.attaches_programs or plan.has_sidecar:
        return _fail(f"the plan is for mode {plan.written_mode}; an agent sets up mode ebpf alone")
    begin = time.monotonic()
    if not _attached(maps.plan_fingerprint(plan)):
        return _fail(
            "another configuration is attached to this Pod; a Pod keeps its first one to its end: delete the Pod"
        )
    waited = time.monotonic() - begin
    print(f"{summary(*load(environment))}, after {waited:.2f} s")
    return 0


def _attached(wanted: int) -> bool:
    """Wait until programs with this fingerprint are at work, and say once what for; False where others are."""
    begin, said = time.monotonic(), {""}
    listener = notices.listen()
    while (found := counters.fingerprint()) is None:
        waited = time.monotonic() - begin
        for text in (WAITS if waited > PATIENCE_S else "", notices.read(listener)):
            if text not in said and len(said) < MOST_SAID:
                said.add(text)
                print(f"srcip-proxy gate: {text}", file=sys.stderr, flush=True)
        time.sleep(QUICK_S if waited < USUAL_S else SLOW_S)
    return found == wanted


def summary(plan: Plan, pod: Pod) -> str:
    """One line that says what is in place. Pure."""
    ports = ", ".join(map(str, plan.inbound_ports))
    who = ", ".join(trust.intercepted(plan, pod)["trusted"]) or "nobody"
    return f"srcip-proxy gate: ports {ports} from {who}; programs are attached by this node's agent"


def _fail(reason: str) -> int:
    print(f"srcip-proxy gate: {reason}", file=sys.stderr)
    return 1
