"""Ring 3's stand-in for kubelet: it runs the Pods of srcip's own images as processes of this machine.

So the chart's own Deployment, Service and EndpointSlices do the routing to the webhook, and its real command,
environment, user, volumes, token, probes, preStop and network namespace are used. What it does not do: images (a
container sees this machine's file system and the programs of this tree), cgroups and limits, seccomp, read-only root
file systems, DNS, renewal of tokens and mounted Secrets, native sidecars, exec probes, hooks other than preStop.sleep.
A probe is asked again every 0.2 s until it has succeeded once. Ring 4 has the real kubelet for all of that.
"""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from srcip_e2e.cluster import controlplane_network, pod_files, pod_process
from srcip_e2e.cluster.api import Api, Json, Refused
from srcip_e2e.cluster.controlplane import ControlPlane
from srcip_e2e.cluster.pod_container import Container
from srcip_lab import probes
from srcip_lab.errors import LabError
from srcip_lab.namespace import Host
from srcip_lab.tools import STANDARD_PATH

NODE = "srcip-cp"
PROGRAMS = {"srcip/webhook": "srcip-webhook", "srcip/certs": "srcip-certs"}
"""The entry points of the images that this node has; a Pod with any other image stays Pending."""
IMAGE_USER = 65532
TREE = Path(__file__).parents[3]
READABLE = sorted({str(TREE), sys.prefix, sys.base_prefix})
TICK_S = 0.05
_IMAGE = re.compile(r"(?:[^@]*/)?(srcip/[a-z]+)(?:[:@].*)?")


class RunningPod(threading.Thread):
    """One Pod, from its binding to its end. Its processes die with this thread."""

    def __init__(self, plane: ControlPlane, api: Api, pod: Json, host: Host) -> None:
        meta = pod["metadata"]
        super().__init__(name=f"{meta['namespace']}/{meta['name']}", daemon=True)
        self.plane, self.api, self.pod, self.host = plane, api, pod, host
        self.path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
        self.directory = plane.directory / "pods" / meta["uid"]
        self.containers = [Container(each, self) for each in pod["spec"]["containers"]]
        self.grace_s: float | None = None
        """Set once it is to end."""
        self.told: Json = {}

    def run(self) -> None:
        try:
            self._start()
            while self.grace_s is None:
                for container in self.containers:
                    container.tick(self.pod["spec"]["restartPolicy"])
                self._publish(self._phase())
                time.sleep(TICK_S)
        except (LabError, OSError, Refused, http.client.HTTPException) as error:
            self._fail(error)
        self._end(self.grace_s or 0)

    def container(self, name: str) -> Container:
        return next(each for each in self.containers if each.spec["name"] == name)

    def ask(self, probe: Json, container: Json) -> bool:
        """Whether one try of a probe succeeds, asked from the node. Raises LabError for an exec probe."""
        if "exec" in probe:
            raise LabError(f"container {container['name']}: exec probes are not known to this runner")
        assert self.plane.site
        return probes.ask(probe, container, self.plane.site.api, self.host.ipv4, None)  # type: ignore[arg-type]

    def spawn(self, spec: Json) -> subprocess.Popen[str]:
        """Start a process of this container."""
        port = int(self.plane.server.rpartition(":")[2])
        env = {"PATH": f"{sysconfig.get_path('scripts')}:{STANDARD_PATH}", "HOME": "/"}
        env |= {"KUBERNETES_SERVICE_HOST": controlplane_network.API_IP, "KUBERNETES_SERVICE_PORT": str(port)}
        env |= pod_files.environment(self.api, self.pod, spec, self.host.ipv4)
        image = _IMAGE.fullmatch(spec["image"])
        command = spec.get("command") or [PROGRAMS[image[1]] if image else "?"]
        scratch = self.directory / "scratch"
        scratch.mkdir(exist_ok=True)
        order = pod_process.Process(
            args=[pod_files.expand(each, env) for each in (*command, *(spec.get("args") or []))],
            env=env | {"PYTHONDONTWRITEBYTECODE": "1"},
            uid=self._user(spec, "runAsUser"),
            gid=self._user(spec, "runAsGroup"),
            mounts=[self._mount(each) for each in spec.get("volumeMounts") or []],
            scratch=str(scratch),
            readable=READABLE,
        )
        launcher = [sys.executable, "-I", str(pod_process.__file__), json.dumps(order)]
        with self._log(spec["name"]).open("a") as log:
            return self.host.popen(launcher, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)

    def _log(self, container: str) -> Path:
        return self.plane.logs / f"{self.name.replace('/', '_')}_{container}.log"

    def _user(self, spec: Json, name: str) -> int:
        contexts = spec.get("securityContext") or {}, self.pod["spec"].get("securityContext") or {}
        return int(next((context[name] for context in contexts if name in context), IMAGE_USER))

    def _mount(self, mount: Json) -> pod_process.Mount:
        source = self.places[mount["name"]] / mount.get("subPath", "")
        read_only = bool(mount.get("readOnly"))
        return {"source": str(source), "target": mount["mountPath"], "read_only": read_only}

    def _start(self) -> None:
        assert self.plane.site
        self.plane.site.plug(self.host)
        self.directory.mkdir(parents=True)
        owner, ip = self._user({}, "runAsUser"), self.host.ipv4
        self.places = pod_files.volumes(self.api, self.pod, self.directory / "volumes", owner, ip)
        for spec in self.pod["spec"].get("initContainers") or []:
            self._run_to_end(spec)
        for container in self.containers:
            container.start()

    def _run_to_end(self, spec: Json) -> None:
        if spec.get("restartPolicy"):
            raise LabError(f"init container {spec['name']}: native sidecars are not known to this runner")
        if code := self.spawn(spec).wait():
            raise LabError(f"init container {spec['name']}: exit code {code}", self._log(spec["name"]).read_text())

    def _phase(self) -> str:
        if not all(each.over(self.pod["spec"]["restartPolicy"]) for each in self.containers):
            return "Running"
        return "Failed" if any(each.exit_code for each in self.containers) else "Succeeded"

    def _publish(self, phase: str) -> None:
        """Tell the API server what it does not know yet."""
        ready = phase == "Running" and all(each.ready for each in self.containers)
        states = {"PodScheduled": True, "Initialized": True, "ContainersReady": ready, "Ready": ready}
        status = {
            "phase": phase,
            "hostIP": controlplane_network.API_IP,
            "podIP": self.host.ipv4,
            "podIPs": [{"ip": self.host.ipv4}],
            "conditions": [{"type": name, "status": str(value)} for name, value in states.items()],
            "containerStatuses": [each.status() for each in self.containers],
        }
        if status != self.told:
            self.api.patch(f"{self.path}/status", {"status": status})
            self.told = status

    def _fail(self, error: Exception) -> None:
        """A Pod that cannot be run says so where everybody looks."""
        with self._log("runner").open("a") as log:
            log.write(f"{error}\n")
        status = {"phase": "Failed", "reason": "CannotRun", "message": str(error)[:1000]}
        self.api.ask("PATCH", f"{self.path}/status", {"status": status}, content="application/merge-patch+json")
        while self.grace_s is None:
            time.sleep(TICK_S)

    def _end(self, grace_s: float) -> None:
        """preStop, SIGTERM, and SIGKILL when the time is over; then the Pod may go."""
        begin = time.monotonic()
        waiting = {each: _pre_stop(each.spec) for each in self.containers if each.process}
        while waiting:
            past = time.monotonic() - begin
            for container, pause in list(waiting.items()):
                process = container.process
                if process is None or process.poll() is not None:
                    del waiting[container]
                elif past >= grace_s:
                    process.kill()
                elif past >= pause:
                    process.send_signal(signal.SIGTERM)
                    waiting[container] = grace_s
            time.sleep(TICK_S)
        if self.host.path.exists():
            controlplane_network.remove(self.host.netns)
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": self.pod["metadata"]["uid"]}}
        self.api.ask("DELETE", self.path, body)


def _pre_stop(spec: Json) -> float:
    hook = (spec.get("lifecycle") or {}).get("preStop") or {}
    return float(hook.get("sleep", {}).get("seconds", 0))


class PodRunner:
    """The node while the `with` block lasts."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        self.api = plane.api("podrunner")
        self.pods: dict[str, RunningPod] = {}
        self._stopping = False
        self._count = 0
        self._thread = threading.Thread(target=self._watch, name="pods", daemon=True)

    def __enter__(self) -> PodRunner:
        if self.plane.site is None:
            raise LabError("running Pods needs root: they live in network namespaces")
        self.api.post("/api/v1/nodes", {"kind": "Node", "apiVersion": "v1", "metadata": {"name": NODE}})
        ready = [{"type": "Ready", "status": "True"}]
        self.api.patch(f"/api/v1/nodes/{NODE}/status", {"status": {"conditions": ready}})
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stopping = True
        for pod in list(self.pods.values()):
            pod.grace_s = 0
        for pod in list(self.pods.values()):
            pod.join(5)

    def of(self, namespace: str) -> list[RunningPod]:
        """The Pods of a namespace that run here."""
        return [each for each in list(self.pods.values()) if each.name.startswith(f"{namespace}/") and each.is_alive()]

    def _watch(self) -> None:
        while not self._stopping:
            try:
                with self.api.watch("/api/v1/pods") as events:
                    for event in events:
                        self._event(event["type"], event["object"])
            except (OSError, http.client.HTTPException, Refused):
                time.sleep(TICK_S)

    def _event(self, kind: str, pod: Json) -> None:
        known = self.pods.get(pod.get("metadata", {}).get("uid", ""))
        if known and (kind == "DELETED" or "deletionTimestamp" in pod["metadata"]):
            gone = kind == "DELETED"
            known.grace_s = 0 if gone else pod["metadata"].get("deletionGracePeriodSeconds", 30)
        elif not known and kind == "ADDED" and not self._stopping and _fits(pod):
            self._bind(pod)

    def _bind(self, pod: Json) -> None:
        assert self.plane.site
        meta: dict[str, Any] = pod["metadata"]
        target = {"apiVersion": "v1", "kind": "Node", "name": NODE}
        body = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": meta["name"]}, "target": target}
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/binding"
        if self.api.ask("POST", path, body).code < 300:
            running = RunningPod(self.plane, self.api, pod, self.plane.site.pod(self._count))
            self._count += 1
            self.pods[meta["uid"]] = running
            running.start()


def _fits(pod: Json) -> bool:
    """Whether nobody has it yet, and this node has all its images."""
    spec = pod["spec"]
    images = [_IMAGE.fullmatch(each["image"]) for each in (*spec["containers"], *(spec.get("initContainers") or []))]
    return not spec.get("nodeName") and all(match and match[1] in PROGRAMS for match in images)
