"""A real control plane for tests: etcd, kube-apiserver and kube-controller-manager, up in seconds, gone with the test.

As root it lives in a network namespace, where the API server reaches the Pods of `cluster.podrunner`. Without root
it listens on this machine's loopback address. Nothing schedules or runs Pods here.
"""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from srcip_e2e.cluster import binaries, controlplane_network, pki
from srcip_e2e.cluster.api import Api
from srcip_lab.errors import LabError
from srcip_lab.state import wait_until
from srcip_lab.tools import machine_path

TIMEOUT_S = 60
LOOPBACK = "127.0.0.1"
NEEDED = ("etcd", "kube-apiserver", "kubectl")
"""What there must be; envtest brings the same three."""
CONTROLLERS = "kube-controller-manager"
WITHOUT_NODES = ("node-lifecycle-controller", "taint-eviction-controller", "pod-garbage-collector-controller")
"""Controllers that would evict Pods here: nobody renews the lease of a node."""


class ControlPlane:
    """The control plane while the `with` block lasts. Use it from a thread that lives as long as the block."""

    def __init__(self, directory: Path, *, controllers: bool = True) -> None:
        """State and logs go to `directory`; without `controllers` nothing works on objects (no default accounts)."""
        self.directory = directory
        self.controllers = controllers
        self.site: controlplane_network.Site | None = None
        """Its namespaces; None without root."""
        self.authority = pki.Authority.create("srcip-control-plane")
        self.server = ""
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._stack = ExitStack()

    @property
    def kubeconfig(self) -> Path:
        """How an administrator reaches it, from this machine."""
        return self.directory / "admin.kubeconfig"

    @property
    def logs(self) -> Path:
        return self.directory / "logs"

    @property
    def ca(self) -> bytes:
        """What clients verify the API server with, PEM."""
        return self.authority.pair.certificate

    def __enter__(self) -> ControlPlane:
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop()

    def api(self, user: str = "admin", groups: Sequence[str] = (pki.ADMINISTRATORS,)) -> Api:
        """A client of its own; by default an administrator."""
        path = self.directory / f"{user}.kubeconfig"
        pki.write_private(path, pki.kubeconfig(self.server, self.ca, self.authority.issue(user, groups=groups)))
        return Api(path)

    def kubectl(self, *args: str, stdin: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run kubectl as administrator. Raises LabError with its words if it fails and `check` is set."""
        return self._client("kubectl", args, stdin, check=check)

    def helm(self, *args: str, stdin: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run helm as administrator; likewise."""
        return self._client("helm", args, stdin, check=check)

    def _client(
        self, name: str, args: Sequence[str], stdin: str | None, *, check: bool
    ) -> subprocess.CompletedProcess[str]:
        home = self.directory / "home"  # nothing of the user's own configuration, and no cache in their home
        home.mkdir(exist_ok=True)
        done = subprocess.run(
            [str(binaries.find(name)), *args],
            input=stdin,
            env={"PATH": machine_path(), "HOME": str(home), "KUBECONFIG": str(self.kubeconfig)},
            capture_output=True,
            text=True,
            check=False,
        )
        if check and done.returncode:
            raise LabError(f"{name} {' '.join(args)}: exit code {done.returncode}", done.stdout, done.stderr)
        return done

    # starting and stopping

    def _start(self) -> None:
        programs = (*NEEDED, *((CONTROLLERS,) if self.controllers else ()))
        found = {name: binaries.find(name) for name in programs}
        self.logs.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            self.site = self._stack.enter_context(controlplane_network.site())
        address = self.site.api.ipv4 if self.site else LOOPBACK
        etcd, peers, port = (2379, 2380, 6443) if self.site else _free_ports(3)
        self.server = f"https://{address}:{port}"
        self._write_credentials(address)
        self._run(found["etcd"], _etcd(self.directory, etcd, peers))
        self._run(found["kube-apiserver"], self._apiserver(etcd, port))
        admin = self.api()
        self._wait("the API server", lambda: _ready(admin))
        if self.controllers:
            self._run(found[CONTROLLERS], self._controller_manager())
            account = "/api/v1/namespaces/default/serviceaccounts/default"
            self._wait("the service account of the namespace default", lambda: admin.find(account))

    def _stop(self) -> None:
        for process in reversed(self._processes.values()):
            process.kill()
            process.wait()
        self._processes.clear()
        self._stack.close()

    def _run(self, program: Path, flags: Sequence[str]) -> None:
        """Start a program that dies with the calling thread, however that ends."""
        command = ["setpriv", "--pdeathsig", "KILL", "--", str(program), *flags]
        command = self.site.api.command(command) if self.site else command
        with self._log(program.name).open("wb") as log:
            self._processes[program.name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": machine_path(), "HOME": str(self.directory)},
                start_new_session=True,  # Ctrl-C is for the test, which ends them in its own order
            )

    def _log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def _wait(self, what: str, condition: Callable[[], object]) -> None:
        """Wait until `condition` holds. Raises LabError after a while, or when a process has ended."""
        in_time = wait_until(lambda: self._ended() or condition(), TIMEOUT_S, every_s=0.05)
        if name := self._ended():
            raise LabError(f"{name} has ended; see {self._log(name)}", self._log(name).read_text()[-1000:])
        if not in_time:
            raise LabError(f"{what}: not there after {TIMEOUT_S} s; see {self.logs}")

    def _ended(self) -> str | None:
        return next((name for name, process in self._processes.items() if process.poll() is not None), None)

    def _write_credentials(self, address: str) -> None:
        names = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
        hosts = dict.fromkeys([address, LOOPBACK, controlplane_network.API_IP, *names])
        self.authority.pair.write(self.directory, "ca")
        self.authority.issue("kube-apiserver", hosts=tuple(hosts)).write(self.directory, "apiserver")
        private, public = pki.service_account_keys()
        pki.write_private(self.directory / "sa.key", private)
        (self.directory / "sa.pub").write_bytes(public)

    def _apiserver(self, etcd: int, port: int) -> list[str]:
        at = self.directory
        flags = [
            f"--etcd-servers=http://{LOOPBACK}:{etcd}",
            f"--bind-address={'0.0.0.0' if self.site else LOOPBACK}",
            f"--secure-port={port}",
            f"--advertise-address={controlplane_network.API_IP}",
            f"--client-ca-file={at}/ca.crt",
            f"--tls-cert-file={at}/apiserver.crt",
            f"--tls-private-key-file={at}/apiserver.key",
            f"--cert-dir={at}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={at}/sa.pub",
            f"--service-account-signing-key-file={at}/sa.key",
            f"--service-cluster-ip-range={controlplane_network.SERVICE_CIDR}",
            "--authorization-mode=RBAC",
            "--allow-privileged=true",
            "--enable-aggregator-routing=true",  # a webhook's Service is resolved here, without kube-proxy
        ]
        # Pods need an account, and without controllers nobody makes one.
        return flags if self.controllers else [*flags, "--disable-admission-plugins=ServiceAccount"]

    def _controller_manager(self) -> list[str]:
        at = self.directory
        pair = self.authority.issue("system:kube-controller-manager")
        config = at / "controllers.kubeconfig"
        pki.write_private(config, pki.kubeconfig(self.server, self.ca, pair))
        return [
            f"--kubeconfig={config}",
            "--leader-elect=false",
            "--secure-port=0",
            "--use-service-account-credentials=true",
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
            f"--service-account-private-key-file={at}/sa.key",
            f"--root-ca-file={at}/ca.crt",
            f"--controllers={','.join(['*', *(f'-{name}' for name in WITHOUT_NODES)])}",
        ]


def _etcd(directory: Path, clients: int, peers: int) -> list[str]:
    data = directory / "etcd"
    shutil.rmtree(data, ignore_errors=True)
    own, peer = f"http://{LOOPBACK}:{clients}", f"http://{LOOPBACK}:{peers}"
    return [
        f"--data-dir={data}",
        "--unsafe-no-fsync",  # what a crash of the machine would lose, nobody wants back
        f"--listen-client-urls={own}",
        f"--advertise-client-urls={own}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
    ]


def _ready(api: Api) -> bool:
    try:
        return api.ask("GET", "/readyz", timeout_s=5).code == 200
    except (OSError, http.client.HTTPException):
        return False


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server((LOOPBACK, 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
