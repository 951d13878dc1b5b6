"""A cluster as kubectl sees it: objects in, objects and texts out. Works with any cluster."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from srcip_lab.errors import LabError

Object = dict[str, Any]


@dataclass(frozen=True)
class Said:
    """What kubectl answered."""

    code: int
    out: str
    err: str
    """Warnings of admission webhooks and refusals are here."""


@dataclass(frozen=True)
class Kube:
    """One namespace of a cluster."""

    command: Callable[..., list[str]]
    """From arguments to a command line of kubectl."""
    namespace: str = "default"

    def within(self, namespace: str) -> Kube:
        """The same cluster, another namespace."""
        return Kube(self.command, namespace)

    def try_(self, *args: str, stdin: str | None = None, timeout_s: float = 180) -> Said:
        """Run kubectl; a failure is an answer as any other."""
        command = self.command(f"--namespace={self.namespace}", *args)
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False)
        return Said(done.returncode, done.stdout, done.stderr)

    def __call__(self, *args: str, stdin: str | None = None, timeout_s: float = 180) -> str:
        """Run kubectl and return what it printed. Raises LabError with what it said."""
        said = self.try_(*args, stdin=stdin, timeout_s=timeout_s)
        if said.code:
            raise LabError(f"kubectl {' '.join(args)}: {said.err.strip() or said.out.strip()}")
        return said.out

    def apply(self, *objects: Object) -> Said:
        """Create or change objects. Raises LabError if one of them is refused."""
        said = self.try_apply(*objects)
        if said.code:
            raise LabError(f"kubectl apply: {said.err.strip()}")
        return said

    def try_apply(self, *objects: Object) -> Said:
        """Create or change objects; a refusal is an answer."""
        return self.try_("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))

    def get(self, kind: str, name: str) -> Object:
        """One object. Raises LabError if there is none."""
        found: Object = json.loads(self("get", kind, name, "-o", "json"))
        return found

    def items(self, kind: str, selector: str = "") -> list[Object]:
        """The objects with these labels."""
        options = [f"--selector={selector}"] if selector else []
        found: list[Object] = json.loads(self("get", kind, *options, "-o", "json"))["items"]
        return found

    def wait(self, what: str, *names: str, timeout_s: float = 180) -> None:
        """Return as soon as `names` (such as pod/web) fulfil `what` (such as condition=Ready).

        Raises LabError with what the cluster says about them.
        """
        said = self.try_("wait", f"--for={what}", *names, f"--timeout={timeout_s:g}s", timeout_s=timeout_s + 10)
        if said.code:
            raise LabError(f"kubectl wait --for={what} {' '.join(names)}: {said.err.strip()}", *self.troubles())

    def rolled_out(self, workload: str, timeout_s: float = 180) -> None:
        """Return as soon as every Pod of `workload` (such as deployment/web) is there in its newest form."""
        said = self.try_("rollout", "status", workload, f"--timeout={timeout_s:g}s", timeout_s=timeout_s + 10)
        if said.code:
            raise LabError(f"{workload}: {said.err.strip()}", *self.troubles())

    def pods(self, selector: str = "", *, ready: bool = True) -> list[Object]:
        """Pods that are not on their way out; only those that are Ready, unless told otherwise."""
        alive = [pod for pod in self.items("pods", selector) if "deletionTimestamp" not in pod["metadata"]]
        return [pod for pod in alive if is_ready(pod)] if ready else alive

    def logs(self, pod: str, container: str = "app", *options: str) -> str:
        """What a container has printed."""
        return self("logs", pod, f"--container={container}", *options)

    def exec(self, pod: str, *args: str, container: str = "app") -> Said:
        """Run a program in a container."""
        return self.try_("exec", pod, f"--container={container}", "--", *args)

    def troubles(self) -> list[str]:
        """Events of this namespace that are warnings, and Pods that are not Ready."""
        events = [e for e in self.items("events") if e.get("type") != "Normal"]
        lines = [f"{e['involvedObject'].get('name')}: {e.get('reason')}: {e.get('message')}" for e in events[-10:]]
        return lines + self("get", "pods", "-o", "wide").splitlines()


def is_ready(pod: Mapping[str, Any]) -> bool:
    """Whether all of the Pod's containers are ready."""
    conditions: Sequence[Mapping[str, str]] = pod["status"].get("conditions") or ()
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def name(of: Mapping[str, Any]) -> str:
    """An object's name."""
    return str(of["metadata"]["name"])


def ip(pod: Mapping[str, Any], version: int = 4) -> str:
    """The Pod's address of this IP version."""
    found = [str(each["ip"]) for each in pod["status"].get("podIPs") or ()]
    return next(each for each in found if (":" in each) == (version == 6))


def eventually(condition: Callable[[], Any], what: str, timeout_s: float = 120, every_s: float = 0.2) -> Any:
    """The first answer of `condition` that is true. Raises LabError with the last one."""
    deadline = time.monotonic() + timeout_s
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise LabError(f"{what}: not within {timeout_s:g} s; last answer {answer!r}")
        time.sleep(every_s)
    return answer
