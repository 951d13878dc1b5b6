"""The programs of Kubernetes, etcd and helm: found on this machine, or built from Go modules.

The order is KUBEBUILDER_ASSETS (the convention of envtest), PATH, the cache, and at last a build with Go. A folder of
e2e/tools is a Go module that pins the versions. What is built lies in a directory that is named after everything it was
built from, and that has this name only when it is finished.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from srcip_lab.image import KEEP_SECONDS, locked
from srcip_lab.places import cache
from srcip_lab.tools import machine_path

TOOLS = Path(__file__).parents[2] / "tools"
ASSETS = "KUBEBUILDER_ASSETS"
RECIPE = "1"
"""Raise it when this module builds in another way."""
PACKAGES = {"etcd": "etcd-server"}
"""Debian packages of programs that are not built here."""


class Missing(Exception):
    """A program is not on this machine and cannot be built; the text says which one and how to get it."""


@dataclass(frozen=True)
class Toolset:
    """Programs that one Go module provides."""

    name: str
    """Its folder under e2e/tools."""
    module: str
    """The module of the programs; its version is theirs."""
    programs: tuple[str, ...]
    variables: Callable[[str, str], dict[str, str]]
    """From its go.mod and the version: the variables that tell the programs who they are."""

    @property
    def directory(self) -> Path:
        return TOOLS / self.name

    @property
    def version(self) -> str:
        """Such as v1.36.3."""
        return _required(self._go_mod(), self.module)

    @property
    def flags(self) -> list[str]:
        """How the linker is told; without it `kubectl version` and a chart's kubeVersion see a version of their own."""
        values = self.variables(self._go_mod(), self.version)
        return ["-s", "-w", *(f"-X {name}={value}" for name, value in values.items())]

    @property
    def cached(self) -> Path:
        """Where the programs lie once they are built."""
        digest = hashlib.sha256("\0".join([RECIPE, os.uname().machine, *self.flags, *self.programs]).encode())
        for name in ("go.mod", "go.sum"):
            digest.update((self.directory / name).read_bytes())
        return cache() / f"tools-{self.name}-{digest.hexdigest()[:16]}"

    def build(self) -> Path:
        """Build all programs, unless somebody did; the directory that holds them. Raises Missing."""
        if not self.cached.is_dir():
            with locked(cache() / f".tools-{self.name}.lock"):
                if not self.cached.is_dir():
                    self._build_aside()
        return self.cached

    def _build_aside(self) -> None:
        aside = self.cached.with_name(f".building-{self.cached.name}")
        shutil.rmtree(aside, ignore_errors=True)  # of a build that was interrupted: the lock is ours
        aside.mkdir()
        for other in cache().glob(f"tools-{self.name}-*"):
            if time.time() - other.stat().st_mtime > KEEP_SECONDS:
                shutil.rmtree(other, ignore_errors=True)
        self.compile(aside, self.programs)
        aside.rename(self.cached)

    def compile(self, output: Path, programs: tuple[str, ...]) -> None:
        """Build `programs` into the directory `output`. Raises Missing."""
        packages = [f"{self.module}/cmd/{program}" for program in programs]
        command = ["go", "build", "-mod=readonly", "-trimpath", "-buildvcs=false", f"-ldflags={' '.join(self.flags)}"]
        done = subprocess.run(
            [*command, "-o", f"{output}/", *packages],
            cwd=self.directory,
            env={**os.environ, "PATH": _path(), "GOFLAGS": "", "GOWORK": "off"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise Missing(f"go build of {', '.join(programs)} {self.version}: {done.stderr.strip()[-2000:]}")

    def _go_mod(self) -> str:
        return (self.directory / "go.mod").read_text()


def _kubernetes(_go_mod: str, version: str) -> dict[str, str]:
    major, minor, _ = version.removeprefix("v").split(".")
    component = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    values = {f"k8s.io/component-base/version.{name}": value for name, value in component.items()}
    return values | {"k8s.io/client-go/pkg/version.gitVersion": version}


def _helm(go_mod: str, version: str) -> dict[str, str]:
    """helm takes 1.20 for the version of `helm template` unless it is told that of its client library."""
    minor = _required(go_mod, "k8s.io/client-go").split(".")[1]
    values = {"helm.sh/helm/v3/internal/version.version": version}
    for package in ("pkg/chartutil", "pkg/lint/rules"):
        values[f"helm.sh/helm/v3/{package}.k8sVersionMajor"] = "1"
        values[f"helm.sh/helm/v3/{package}.k8sVersionMinor"] = minor
    return values


KUBERNETES = Toolset(
    "kubernetes",
    "k8s.io/kubernetes",
    ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"),
    _kubernetes,
)
HELM = Toolset("helm", "helm.sh/helm/v3", ("helm",), _helm)
TOOLSETS = (KUBERNETES, HELM)


def find(name: str) -> Path:
    """The program `name`; built if need be, which takes minutes the first time. Raises Missing."""
    if found := here(name):
        return found
    if reasons := missing([name]):
        raise Missing(reasons[0])
    return next(each for each in TOOLSETS if name in each.programs).build() / name


def here(name: str) -> Path | None:
    """The program `name` if it is on this machine and nothing has to be built."""
    if (assets := os.environ.get(ASSETS)) and (found := shutil.which(name, path=assets)):
        return Path(found)
    if found := shutil.which(name, path=_path()):
        return Path(found)
    for toolset in TOOLSETS:
        if name in toolset.programs and toolset.cached.is_dir():
            toolset.cached.touch()
            return toolset.cached / name
    return None


def missing(names: Iterable[str]) -> list[str]:
    """Without building anything: why some of these programs cannot be had; empty if all can."""
    absent = [name for name in names if not here(name)]
    built = [name for name in absent if any(name in each.programs for each in TOOLSETS)]
    installed = [name for name in absent if name not in built]
    reasons = []
    if installed:
        packages = " ".join(PACKAGES.get(name, name) for name in installed)
        reasons.append(f"{', '.join(installed)}: not in {ASSETS}, not in PATH (apt-get install {packages})")
    if built and not shutil.which("go", path=_path()):
        reasons.append(
            f"{', '.join(built)}: not in {ASSETS}, not in PATH, not in {cache()}, and no Go to build from (install Go "
            f"{_go_version(TOOLSETS[0])} or newer, or set {ASSETS} to a directory with these programs)"
        )
    return reasons


def _path() -> str:
    """PATH, and where Go's own installer puts it."""
    return f"{machine_path()}:/usr/local/go/bin"


def _required(go_mod: str, module: str) -> str:
    found = re.search(rf"^(?:require|\t) ?{re.escape(module)} (v\S+)", go_mod, re.MULTILINE)
    if not found:
        raise Missing(f"go.mod: {module} is not required")
    return found[1]


def _go_version(toolset: Toolset) -> str:
    found = re.search(r"^go (\S+)$", (toolset.directory / "go.mod").read_text(), re.MULTILINE)
    return found[1] if found else "(see go.mod)"


def main() -> None:
    """`python -m srcip_e2e.cluster.binaries [NAME ...]`: have these programs, or all, and print where each is."""
    names = sys.argv[1:] or ["etcd", *(name for each in TOOLSETS for name in each.programs)]
    try:
        for name in names:
            print(f"{name:24}{find(name)}")
    except Missing as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
