"""`srcip-proxy init` in ebpf mode: it finds its Pod, attaches, and names everything that is missing."""

import errno
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from srcip_proxy.ebpf import init as ebpf_init
from srcip_proxy.ebpf import preflight as ebpf_preflight
from srcip_proxy.ebpf.attach import AlreadyAttachedError
from srcip_proxy.ebpf.libbpf import BpfError, HookError, LoadError
from support.ebpf_rig import ALL_PORTS, ONLY_BPF_AND_NET_ADMIN, Pod, needs_root, objects, remove, running
from support.rig import APP, CLIENT4, v2

UID = "0b6b0ae3-6cd9-4c5c-9a0a-5b9d1b5f7a10"
OTHER = UID.replace("0", "f")
SLICES = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{}.slice"
INIT = """
import os, sys
from pathlib import Path
from srcip_proxy import environment
from srcip_proxy.ebpf import init as ebpf_init
try:
    root, *objects = map(Path, sys.argv[1:])
    print(ebpf_init.set_up(*environment.load(os.environ), os.environ, root, objects))
except ebpf_init.NotPossibleError as error:
    print(f"is_untouched={error.is_untouched}")
    sys.exit("\\n".join(error.reasons))
"""
"""What `srcip-proxy init` does, with the root of the cgroups and the programs as arguments."""


@dataclass
class Fresh:
    """A Pod without programs, in a cgroup named as kubelet does."""

    pod: Pod
    root: Path
    """What the Pod's cgroup is looked for below."""

    def set_up(
        self, *, uid: str = UID, root: Path | None = None, prefix: tuple[str, ...] = ONLY_BPF_AND_NET_ADMIN
    ) -> subprocess.CompletedProcess[str]:
        """Init with these capabilities, which are its own alone, as in a container."""
        words = [*prefix, sys.executable, "-c", INIT, str(root or self.root), *map(str, objects())]
        return self.pod.run(words, SRCIP_PLAN=self.pod.wanted.to_env(), HOST_IP="10.77.0.1", POD_UID=uid)


@pytest.fixture
def fresh() -> Iterator[Fresh]:
    needs_root()
    with running(attached=False) as outer:
        for process in outer.processes:  # its application runs in another cgroup
            process.kill()
            process.wait()
        root = outer.cgroup
        own, other = (root / SLICES.format(uid.replace("-", "_")) for uid in (UID, OTHER))
        for each in (own, other):
            each.mkdir(parents=True)
        pod = Pod(outer.net, own, replace(outer.wanted, mode="ebpf"))
        try:
            yield Fresh(pod, root)
        finally:
            pod.stop()
            for each in (own, other, own.parent, own.parent.parent):
                remove(each)


def test_init_finds_its_pod_and_the_application_sees_the_client(fresh: Fresh) -> None:
    """With BPF and NET_ADMIN alone, below a systemd slice of the Pod's UID; a second run finds all in place."""
    done = fresh.set_up()
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(rf"attached to eth0 \((tcx|clsact)\) and {fresh.pod.cgroup}\n", done.stdout)
    fresh.pod.log = fresh.pod.start([sys.executable, str(APP), *ALL_PORTS])
    assert fresh.pod.seen(v2() + b"x").peer == CLIENT4
    assert fresh.set_up().stdout == "already attached\n"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"uid": ""}, "no directory of Pod '' (POD_UID, metadata.uid) is below"),
        ({"uid": "no-such-pod"}, "no directory of Pod 'no-such-pod'"),
        ({"uid": OTHER}, "does not hold this container: POD_UID must be its own Pod's metadata.uid"),
        ({"root": Path("/nowhere")}, "/nowhere is missing: it is the node's /sys/fs/cgroup, a hostPath volume"),
        ({"root": Path("/usr")}, "is not cgroup v2: boot the node with systemd.unified_cgroup_hierarchy=1"),
        (
            {"prefix": ("setpriv", "--bounding-set=-bpf", "--inh-caps=-bpf")},
            "CAP_BPF is missing: the container's securityContext does not add it",
        ),
        (
            {"prefix": ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin")},
            "CAP_NET_ADMIN is missing: the container's securityContext does not add it",
        ),
    ],
)
def test_init_names_what_is_missing_and_attaches_nothing(fresh: Fresh, options: dict[str, object], said: str) -> None:
    """Each reason in words that say what to do."""
    done = fresh.set_up(**options)  # type: ignore[arg-type]
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert fresh.pod.programs() == []


def test_init_names_all_reasons_at_once(fresh: Fresh) -> None:
    done = fresh.set_up(uid="", prefix=("setpriv", "--bounding-set=-all", "--inh-caps=-all"))
    assert [line.split(" is ")[0].split(" of ")[0] for line in done.stderr.splitlines()] == [
        "CAP_BPF",
        "CAP_NET_ADMIN",
        "no directory",
    ]


@pytest.mark.parametrize(
    ("release", "is_new"),
    [("5.17.0-1-amd64", True), ("6.1", True), ("10.0.1", True), ("5.16.20", False), ("4.19.0", False)],
)
def test_kernels_before_bpf_loop_are_told_by_their_version(release: str, is_new: bool) -> None:
    reasons = [reason for reason in ebpf_preflight.obstacles(release) if "Linux" in reason]
    assert reasons == (
        []
        if is_new
        else [f"the node's Linux is {release}, and ebpf mode needs 5.17: choose another node, or mode tproxy"]
    )
    assert [r for r in ebpf_preflight.obstacles(platform.release()) if "Linux" in r] == []


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (HookError("reworded", errno.EOPNOTSUPP), "CONFIG_NET_SCH_INGRESS"),
        (HookError("reworded", errno.ENOENT), "CONFIG_NET_CLS_BPF"),
        (LoadError("reworded", errno.EPERM), "seccomp profile"),
        (LoadError("reworded", errno.EACCES), "the verifier of Linux"),
    ],
)
def test_an_error_of_the_kernel_is_explained(error: BpfError, what: str) -> None:
    """By what it is, however it is worded."""
    (reason,) = ebpf_init.explained(error)
    assert what in reason


@pytest.mark.parametrize(
    ("error", "is_untouched"),
    [
        (LoadError("reworded", errno.EPERM), True),
        (HookError("reworded", errno.ENOENT), True),
        (BpfError("reworded", errno.EPERM), True),
        (OSError(errno.ENOENT, "reworded"), True),
        (AlreadyAttachedError("reworded"), False),
    ],
)
def test_tproxy_takes_over_only_where_no_packet_was_touched(error: Exception, is_untouched: bool) -> None:
    """What is not whole does nothing; what is whole, and a sidecar behind it, would each read a header."""
    assert ebpf_init.is_untouched(error) == is_untouched


def test_an_error_that_nobody_foresaw_is_not_explained_away() -> None:
    assert ebpf_init.explained(BpfError("write to map ports: Invalid argument", errno.EINVAL)) == []


REFUSED = """
import os, sys
from pathlib import Path
from srcip_proxy.ebpf import libbpf
try:
    loaded = libbpf.Object(Path(sys.argv[1]))
    loaded.load()
    os.seteuid(65534)
    loaded.attach_clsact("srcip_ingress", "eth0", libbpf.TC_INGRESS)
except libbpf.BpfError as error:
    print(type(error).__name__, error.errno)
"""
"""Loads the programs, then attaches one without any capability: whoever is not root any more has none in effect."""


@pytest.mark.parametrize(
    ("prefix", "kind"),
    [
        (("setpriv", "--inh-caps=-all", "--bounding-set=-all"), LoadError),
        (tuple(word + ",+setuid" if "=" in word else word for word in ONLY_BPF_AND_NET_ADMIN), HookError),
    ],
    ids=["no capability", "none that is left to attach"],
)
def test_each_refusal_of_the_kernel_has_its_class(fresh: Fresh, prefix: tuple[str, ...], kind: type[BpfError]) -> None:
    """Of a program, and of its place on an interface; with the kernel's own number."""
    done = fresh.pod.run([*prefix, sys.executable, "-c", REFUSED, str(objects()[0])])
    assert done.stdout == f"{kind.__name__} {errno.EPERM}\n", done.stderr


def test_no_mode_takes_the_place_of_programs_that_are_at_work(fresh: Fresh) -> None:
    """Another configuration of the Pod finds them, by the class of the error."""
    assert fresh.set_up().returncode == 0
    fresh.pod.wanted = replace(fresh.pod.wanted, header_timeout_ms=4000)
    done = fresh.set_up()
    assert "programs with another configuration are attached to this Pod" in done.stderr
    assert done.stdout == "is_untouched=False\n"
