"""Configuration files and command lines of everything that runs on the single node. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from srcip_e2e.cluster.node_network import BRIDGES, NODE, POD_CIDRS, SERVICE_CIDRS

NAME = "srcip-e2e"
"""The node's name in Kubernetes."""
CGROUP = "srcip-k8s"
"""Every container of the node is in a cgroup below this one."""
PAUSE_IMAGE = "localhost/srcip-e2e/pause:1"
CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
ETCD = "http://127.0.0.1:2379"
PEERS = "http://127.0.0.1:2380"
API_SERVER = "https://127.0.0.1:6443"


@dataclass(frozen=True)
class Layout:
    """Where everything of a node is kept: one directory."""

    root: Path

    @property
    def process(self) -> Path:
        """Which processes hold the node, as JSON."""
        return self.root / "node.json"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's; its address is that of the node's own loopback."""
        return self.root / "kubeconfig"

    @property
    def pki(self) -> Path:
        return self.root / "pki"

    @property
    def config(self) -> Path:
        return self.root / "config"

    @property
    def log(self) -> Path:
        """One file for each program."""
        return self.root / "log"

    @property
    def var(self) -> Path:
        """What the node sees below /var/lib, and etcd's data."""
        return self.root / "var"

    @property
    def stages(self) -> Path:
        """What the node's first process starts, as JSON."""
        return self.config / "stages.json"

    @property
    def started(self) -> Path:
        """Is there once every program was started."""
        return self.config / "started"


@dataclass(frozen=True)
class Programs:
    """Paths of the binaries that are not Debian's own."""

    etcd: Path
    kube_apiserver: Path
    kube_controller_manager: Path
    kube_scheduler: Path
    kubelet: Path
    kube_proxy: Path


def files(layout: Layout) -> dict[Path, str]:
    """Every configuration file by its path."""
    return {
        layout.config / "containerd.toml": containerd(layout),
        layout.config / "cni" / "10-srcip.conflist": json.dumps(cni(), indent=1),
        layout.config / "kubelet.yaml": json.dumps(kubelet(layout), indent=1),
        layout.config / "kube-proxy.yaml": json.dumps(kube_proxy(layout), indent=1),
        layout.config / "resolv.conf": "# no DNS in this cluster\n",
    }


def containerd(layout: Layout) -> str:
    """For containerd 1.6 and newer; 2.x reads this version, too. Without CAP_SYS_RESOURCE no negative OOM score can be
    set, hence restrict_oom_score_adj."""
    cri = 'plugins."io.containerd.grpc.v1.cri"'
    return f"""version = 2
[{cri}]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
[{cri}.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[{cri}.containerd.runtimes.runc.options]
  SystemdCgroup = false
[{cri}.cni]
  bin_dir = "/usr/lib/cni"
  conf_dir = "{layout.config}/cni"
"""


def cni() -> dict[str, object]:
    """A bridge with both families and without masquerade: the addresses in the tests are the true ones."""
    ranges = [[{"subnet": cidr, "gateway": gateway}] for cidr, gateway in zip(POD_CIDRS, BRIDGES, strict=True)]
    routes = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "ipMasq": False,
        "hairpinMode": True,
        "ipam": {"type": "host-local", "dataDir": "/run/cni-ipam", "ranges": ranges, "routes": routes},
    }
    return {"cniVersion": "1.0.0", "name": NAME, "plugins": [bridge]}


def kubelet(layout: Layout) -> dict[str, object]:
    """The authentication that `kubectl exec` and `logs` need, small numbers elsewhere."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{CGROUP}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "makeIPTablesUtilChains": False,
        "resolvConf": str(layout.config / "resolv.conf"),
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": False},
            "x509": {"clientCAFile": str(layout.pki / "ca.crt")},
        },
        "authorization": {"mode": "AlwaysAllow"},
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "100Mi"},
        "syncFrequency": "10s",
        "serializeImagePulls": False,
    }


def kube_proxy(layout: Layout) -> dict[str, object]:
    """In nftables mode: it needs no iptables. Sizes of connection tracking belong to the machine: 0 leaves them."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "hostnameOverride": NAME,
        "clusterCIDR": ",".join(POD_CIDRS),
        "clientConnection": {"kubeconfig": str(layout.kubeconfig)},
        "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "nftables": {"minSyncPeriod": "100ms", "syncPeriod": "30s"},
    }


Stage = Mapping[str, list[str]]
"""Programs that are started together: command line by name."""


def stages(layout: Layout, programs: Programs) -> list[Stage]:
    """What runs, in two stages: the second one starts when the API server is ready."""
    kubeconfig = f"--kubeconfig={layout.kubeconfig}"
    first = {
        "etcd": etcd(layout, programs.etcd),
        "containerd": ["containerd", "--config", str(layout.config / "containerd.toml")],
        "kube-apiserver": api_server(layout, programs.kube_apiserver),
    }
    second = {
        "kube-controller-manager": [
            str(programs.kube_controller_manager),
            kubeconfig,
            "--leader-elect=false",
            "--use-service-account-credentials=false",
            f"--service-account-private-key-file={layout.pki}/sa.key",
            f"--root-ca-file={layout.pki}/ca.crt",
            f"--cluster-signing-cert-file={layout.pki}/ca.crt",
            f"--cluster-signing-key-file={layout.pki}/ca.key",
        ],
        "kube-scheduler": [str(programs.kube_scheduler), kubeconfig, "--leader-elect=false"],
        "kubelet": [
            str(programs.kubelet),
            kubeconfig,
            f"--config={layout.config}/kubelet.yaml",
            f"--hostname-override={NAME}",
            f"--node-ip={','.join(NODE.ips)}",
        ],
        "kube-proxy": [str(programs.kube_proxy), f"--config={layout.config}/kube-proxy.yaml"],
    }
    return [first, second]


def etcd(layout: Layout, program: Path) -> list[str]:
    """Without fsync: the data need not outlive the machine."""
    return [
        str(program),
        f"--data-dir={layout.var}/etcd",
        "--unsafe-no-fsync",
        f"--listen-client-urls={ETCD}",
        f"--advertise-client-urls={ETCD}",
        f"--listen-peer-urls={PEERS}",
        f"--initial-advertise-peer-urls={PEERS}",
        f"--initial-cluster=default={PEERS}",
    ]


def api_server(layout: Layout, program: Path) -> list[str]:
    """Default admission plugins, Pod Security among them; RBAC."""
    pki = layout.pki
    return [
        str(program),
        f"--etcd-servers={ETCD}",
        "--bind-address=0.0.0.0",
        "--secure-port=6443",
        f"--advertise-address={NODE.ipv4}",
        f"--client-ca-file={pki}/ca.crt",
        f"--tls-cert-file={pki}/apiserver.crt",
        f"--tls-private-key-file={pki}/apiserver.key",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={pki}/sa.pub",
        f"--service-account-signing-key-file={pki}/sa.key",
        f"--service-cluster-ip-range={','.join(SERVICE_CIDRS)}",
        "--authorization-mode=RBAC",
        "--allow-privileged=true",
        "--kubelet-preferred-address-types=InternalIP",
        f"--kubelet-client-certificate={pki}/admin.crt",
        f"--kubelet-client-key={pki}/admin.key",
    ]
