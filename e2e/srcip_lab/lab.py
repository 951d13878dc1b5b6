"""One lab: a Pod that runs on this machine between a load balancer and another host. The API that tests use.

with Lab.up(manifest) as lab:
    connection = lab.lb.connect(lab.pod.ipv4, 80)
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from srcip_lab import cgroup, network, plan_pod, programs, start
from srcip_lab.errors import LabError, raise_all
from srcip_lab.rootless import enter_from_outside, seen_from_outside
from srcip_lab.runtime import Runtime, tail
from srcip_lab.state import ContainerStatus, Directory, Process, directory, read_json, root, wait_until
from srcip_lab.tools import require
from srcip_proxy.plan import Plan

DEFAULT_NAME = "default"
SIDECAR = "srcip-proxy"
STOP_S = 6.0
"""How long the kubelet may take to stop every container; it gives them 1 s and kills them then."""
_numbers = itertools.count(1)


class Lab:
    """A lab that is up. As a context manager it is taken down at the end."""

    def __init__(self, name: str) -> None:
        self.directory = directory(name)
        order = read_json(self.directory.lab)
        if order is None:
            raise LabError(f"lab {name}: it is not up (srcip lab up -f pod.yaml --name {name})")
        self.name = name
        self.webhook: dict[str, Any] = order["webhook"]
        """What the webhook answered; empty when it was not asked."""
        self.manifest: dict[str, Any] = order["pod"]
        """The Pod as it runs: patched."""
        self.network = network.network(name, ipv6=order["ipv6"])
        self.lb, self.other = self.network.lb, self.network.other
        self.pod, self.node = self.network.pod, self.network.node
        self.runtime = Runtime(self.directory)

    @classmethod
    def up(cls, manifest: Mapping[str, Any], *, name: str | None = None, ipv6: bool = True) -> Lab:
        """Run the Pod of `manifest` (a Pod or a workload) as the webhook patches it.

        Without a name it gets one of its own. Raises LabError with every reason when it is refused or does not start;
        nothing is left behind then.
        """
        from srcip_lab import manifest as manifests  # noqa: PLC0415 (needs the packages of the cli extra)
        from srcip_lab import webhook_call  # noqa: PLC0415

        require()
        wanted = network.network(name or own_name(), ipv6=ipv6)
        answer = webhook_call.admit(manifests.pod(dict(manifest)), network.trusted_cidrs(wanted))
        return cls._run(answer.pod, wanted, answer.facts())

    @classmethod
    def up_plan(
        cls,
        plan: Plan,
        app: Sequence[str] | None = None,
        *,
        name: str | None = None,
        ipv6: bool = True,
        env: dict[str, str] | None = None,
    ) -> Lab:
        """Run `app` as the application of a Pod with exactly this `plan`, without the webhook."""
        return cls.up_pod(plan_pod.pod(plan, app, env=env), name=name, ipv6=ipv6)

    @classmethod
    def up_pod(cls, pod: dict[str, Any], *, name: str | None = None, ipv6: bool = True) -> Lab:
        """Run `pod` as it is, without the webhook."""
        return cls._run(with_uid(pod), network.network(name or own_name(), ipv6=ipv6), {})

    @classmethod
    def _run(cls, pod: dict[str, Any], wanted: network.Network, webhook: dict[str, Any]) -> Lab:
        require()
        name = wanted.pod.netns.removeprefix("srcip-").removesuffix("-pod")
        files = directory(name)
        start.check(pod, wanted)
        raise_all(f"network namespace {each}: exists already; no lab made it" for each in network.existing(wanted))
        try:
            files.path.mkdir(parents=True)
        except FileExistsError:
            raise LabError(f"lab {name}: it is up, or was not cleaned (srcip lab down --name {name})") from None
        with files.locked():
            try:
                start.write_order(files, pod, wanted, webhook)
                network.create(wanted)
                cgroup.create(name, pod["metadata"]["uid"])
                start.start_kubelet(files)
            except BaseException:
                clean(files, grace=False)
                raise
        return cls(name)

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    def down(self, *, grace: bool = False) -> None:
        """End the Pod and remove everything that belongs to the lab; with `grace` as kubelet ends a Pod."""
        down(self.name, grace=grace)

    # looking

    @property
    def status(self) -> dict[str, Any]:
        """What the kubelet reported last."""
        return dict(read_json(self.directory.status) or {})

    @property
    def containers(self) -> dict[str, ContainerStatus]:
        """Every container of the Pod by name, in the order of their start."""
        return {raw["name"]: ContainerStatus.read(raw) for raw in self.status.get("containers", [])}

    def container(self, name: str) -> ContainerStatus:
        """One container. Raises LabError that names the others."""
        found = self.containers
        if name not in found:
            raise LabError(f"container {name!r}: the Pod has {', '.join(found)}")
        return found[name]

    def log(self, name: str = SIDECAR) -> str:
        """What a container has written so far."""
        path = Path(self.container(name).log)
        return path.read_text(errors="replace") if path.exists() else ""

    def facts(self) -> dict[str, Any]:
        """The lab as `--json` prints it."""
        return {
            **{host.name: host.facts() for host in (self.lb, self.other, self.pod)},
            "containers": {name: self._facts(status) for name, status in self.containers.items()},
            "node": self.node.facts(),
            "enter": enter_from_outside(),
            "programs": programs.facts(self.name, self.pod) if programs.wanted(self.manifest) else None,
            "name": self.name,
            "phase": self.status.get("phase", "starting"),
            "warnings": self.status.get("warnings", []),
            "webhook": self.webhook,
        }

    @staticmethod
    def _facts(status: ContainerStatus) -> dict[str, Any]:
        return {**status.facts(), "log": seen_from_outside(status.log)}

    # acting

    def signal(self, name: str, number: int) -> None:
        """Send a signal to the first process of a container."""
        process = self.container(name).process
        if not process or not process.signal(number):
            raise LabError(f"container {name}: it does not run")

    def kill(self, name: str = SIDECAR, *, hold: bool = False) -> None:
        """Kill a container, and wait for its end. The kubelet starts it again, with `hold` only after `release`."""
        before = self.container(name)
        path = self.directory.hold(name)
        if hold:
            path.parent.mkdir(exist_ok=True)
            path.touch()
        self.signal(name, signal.SIGKILL)
        if not wait_until(lambda: self.container(name).process != before.process, 60):
            raise LabError(f"container {name}: it does not end")

    def kill_sidecar(self, *, hold: bool = False) -> None:
        """Kill the sidecar: see `kill`."""
        self.kill(SIDECAR, hold=hold)

    def release(self, name: str = SIDECAR, *, timeout_s: float = 60) -> None:
        """Let a held container start again, and wait until it has."""
        self.directory.hold(name).unlink(missing_ok=True)
        self.wait_started(name, timeout_s=timeout_s)

    def wait_started(self, name: str = SIDECAR, *, timeout_s: float = 60) -> None:
        """Wait until the container runs and its startupProbe has succeeded."""
        if not wait_until(lambda: self.container(name).started, timeout_s):
            raise LabError(
                f"container {name}: not started within {timeout_s:.0f} s", *tail(Path(self.container(name).log))
            )

    def exec(self, name: str, args: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a program inside a container, with its user and capabilities; options as of subprocess.run."""
        return self.runtime.exec(name, args, **options)


def own_name() -> str:
    """A name that no other lab of this machine has."""
    return f"p{os.getpid()}-{next(_numbers)}"


def with_uid(pod: dict[str, Any]) -> dict[str, Any]:
    """The Pod with a UID, which names its cgroup."""
    return {**pod, "metadata": {"uid": str(uuid.uuid4()), **pod["metadata"]}}


def names() -> list[str]:
    """The labs that are up, or were not cleaned."""
    return sorted(path.name for path in root().glob("*") if path.is_dir()) if root().exists() else []


def down(name: str, *, grace: bool = True) -> bool:
    """End the lab `name` and remove all it made, whatever state it is in; False if there was none.

    With `grace` the containers get their stop signal and 1 s.
    """
    files = directory(name)
    with files.locked() as there:
        if there:
            clean(files, grace=grace)
        return there


def clean(files: Directory, *, grace: bool) -> None:
    """Stop the kubelet, then remove what is left: containers, namespaces, mount points, files."""
    status = read_json(files.status) or {}
    kubelet = Process.read(status.get("kubelet"))
    if kubelet and kubelet.signal(signal.SIGTERM if grace else signal.SIGINT) and not kubelet.wait(STOP_S):
        kubelet.signal(signal.SIGKILL)
        kubelet.wait(STOP_S)
    runtime = Runtime(files)
    for identity in runtime.identities():
        runtime.delete(identity)
    network.delete((read_json(files.lab) or {}).get("namespaces", []))
    cgroup.remove(files.name)
    for path in (read_json(files.status) or {}).get("mount_points", []):
        _remove_empty(Path(path))
    _remove_empty(files.machine)  # nothing is mounted here outside the kubelet; were it, this would refuse
    shutil.rmtree(files.path)


def _remove_empty(path: Path) -> None:
    try:
        path.rmdir()
    except FileNotFoundError:
        return
    except OSError as error:
        raise LabError(f"{path}: made by the lab and not empty now, it stays: {error.strerror}") from error
