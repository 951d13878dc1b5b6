"""What is in the images that ship, and what is not."""

import platform
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from srcip_e2e.images import machine
from srcip_e2e.images.recipe import ROOT, project_version, reference
from srcip_lab import image as lab_image
from srcip_lab.tools import machine_path

pytestmark = pytest.mark.images

MEGABYTE = 1_000_000
LARGEST = {"proxy": (18, 48), "webhook": (23, 67), "certs": (35, 150), "agent": (32, 140)}
"""MB compressed and unpacked; docs/images.md says what they consist of."""
USERS = {"proxy": "7363:7363", "webhook": "65532:65532", "certs": "65532:65532", "agent": "0:0"}
STARTS = {
    "proxy": {"Cmd": ["srcip-proxy", "--help"], "StopSignal": "SIGUSR1"},
    "webhook": {"Entrypoint": ["srcip-webhook"], "ExposedPorts": {"8443/tcp": {}}},
    "certs": {"Entrypoint": ["srcip-certs"], "ExposedPorts": {"9443/tcp": {}}},
    "agent": {"Entrypoint": ["srcip-agent"], "ExposedPorts": {"15330/tcp": {}}},
}
PYTHON = {"python3", "python3.N"}
PROGRAMS = {
    "proxy": PYTHON | {"haproxy", "ip", "nft", "setpriv", "srcip-proxy"},
    "webhook": PYTHON | {"srcip-webhook"},
    "certs": PYTHON | {"srcip-certs"},
    "agent": PYTHON | {"srcip-agent"},
}
"""Everything on PATH. No shell, no package manager, no compiler."""
NOT_PYTHON = {"pip", "setuptools", "wheel", "ensurepip", "venv", "pytest", "aiohttp", "srcip_lab"}


def files(rootfs: Path) -> list[Path]:
    return [path for path in sorted(rootfs.rglob("*")) if path.is_file() and not path.is_symlink()]


def capabilities(rootfs: Path) -> dict[str, str]:
    """Every file capability, by path."""
    said = subprocess.check_output(["getcap", "-r", str(rootfs)], text=True, env={"PATH": machine_path()})
    return dict(line.removeprefix(f"{rootfs}/").split() for line in said.splitlines())


def real(rootfs: Path, path: str) -> str:
    return str(lab_image._real(rootfs, path).relative_to(rootfs))


LOAD = """
import pathlib, sys
from srcip_proxy.ebpf import libbpf
libbpf.Object(pathlib.Path(sys.argv[1])).load()
"""
BPF_ALONE = ("setpriv", "--bounding-set=-all,+bpf,+net_admin", "--inh-caps=-all,+bpf,+net_admin")


@pytest.mark.parametrize("name", ["srcip", "srcip-copies"])
def test_the_verifier_takes_what_the_images_compiler_made_of_the_programs(
    finished: Callable[[str], Any], name: str
) -> None:
    """With the init container's capabilities: without PERFMON it is stricter, and each clang gives it other code."""
    programs = finished("proxy").rootfs / "usr/lib/srcip" / f"{name}.bpf.o"
    run = subprocess.run(
        [*BPF_ALONE, sys.executable, "-c", LOAD, str(programs)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]


def test_an_archive_holds_one_image_of_one_layer_under_its_name(image: Any) -> None:
    manifest = image.archive.manifest()
    (tag,) = manifest["RepoTags"]
    assert tag.endswith(f"/{reference(image.name)}")  # before it, the default registry, as in any name without one
    assert len(manifest["Layers"]) == 1


def test_the_image_is_for_this_machine_and_says_what_it_is(image: Any) -> None:
    labels = image.config["Labels"]
    own = {
        key.removeprefix("org.opencontainers.image."): text for key, text in labels.items() if "opencontainers" in key
    }
    assert own.pop("description")
    assert own == {
        "title": f"srcip {image.name}",
        "version": project_version(),
        "licenses": "Apache-2.0",
        "base.name": "debian:trixie-slim",
    }
    assert image.archive.config()["architecture"] == {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]


def test_the_image_runs_as_its_numeric_user_and_starts_its_program(image: Any) -> None:
    config = {key: image.config.get(key) for key in ("User", *STARTS[image.name])}
    assert config == {"User": USERS[image.name], **STARTS[image.name]}
    assert f":x:{USERS[image.name]}:" in (image.rootfs / "etc/passwd").read_text()


def test_the_path_holds_the_programs_that_are_used_and_no_others(image: Any) -> None:
    """Elsewhere only libraries, and modules of Python, have the mode of a program."""
    folders = [image.rootfs / name for name in ("usr/bin", "usr/sbin", "usr/local/bin")]
    found = {re.sub(r"3\.\d+$", "3.N", path.name) for folder in folders if folder.exists() for path in folder.iterdir()}
    assert found == PROGRAMS[image.name]
    others = [path for path in files(image.rootfs) if path.stat().st_mode & 0o111 and path.parent not in folders]
    assert [path for path in others if ".so" not in path.name and path.suffix != ".py"] == []


def test_no_file_belongs_to_another_user_or_gives_its_rights_away(image: Any) -> None:
    """Nobody but root can write, nothing is set-uid, and everybody can read."""
    for path in (image.rootfs, *image.rootfs.rglob("*")):
        if path.is_symlink():
            continue
        found = path.stat()
        assert (found.st_uid, found.st_gid) == (0, 0), path
        assert path.name == "tmp" or not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH | stat.S_ISUID | stat.S_ISGID), (
            path
        )
        assert found.st_mode & 0o004, path


def test_no_link_of_the_image_leads_nowhere(image: Any) -> None:
    for path in image.rootfs.rglob("*"):
        if path.is_symlink():
            leads = path.readlink()
            target = image.rootfs / leads.relative_to("/") if leads.is_absolute() else path.parent / leads
            assert target.exists() or target.is_symlink(), path


def test_file_capabilities_are_those_of_the_recipe(image: Any) -> None:
    wanted = lab_image.FILE_CAPABILITIES if image.name == "proxy" else {}
    texts = {real(image.rootfs, path): text.replace("+", "=") for path, text in wanted.items()}
    assert capabilities(image.rootfs) == texts


def test_no_tool_of_the_build_is_left(image: Any) -> None:
    library = image.rootfs / "usr/lib"
    modules = [*library.glob("python3*/*"), *library.glob("python3/dist-packages/*")]
    names = {path.name.partition("-")[0].lower() for path in modules}
    assert not NOT_PYTHON & names
    paths = {str(path.relative_to(image.rootfs)) for path in image.rootfs.rglob("*")}
    assert not {"etc/apt", "var/lib/apt", "var/cache", "build", "root", "usr/share/man", "usr/include"} & paths


def test_nothing_of_the_machine_that_built_it_is_left(image: Any) -> None:
    """No configuration of pip or apt, no variable, and in no small file a host that the machine downloads from."""
    for place in (machine.PIP_FILE, machine.APT_FILE, machine.PLACE):
        assert not (image.rootfs / place.lstrip("/")).exists()
    assert image.config["Env"] == ["PATH=/usr/sbin:/usr/bin", "PYTHONDONTWRITEBYTECODE=1"]
    texts = "".join(machine.settings().texts.values())
    hosts = {host.encode() for host in re.findall(r"https?://(?:[^@/\s]*@)?([^/:\s\"]+)", texts)}
    for path in files(image.rootfs / "etc"):
        assert not any(host in path.read_bytes() for host in hosts), path


def test_dpkgs_status_names_every_package_that_gave_a_file_with_its_licence(image: Any) -> None:
    """Scanners read it; who passes the image on passes the licences on."""
    entries = (image.rootfs / "var/lib/dpkg/status").read_text().strip().split("\n\n")
    found = {entry.partition("\n")[0].removeprefix("Package: "): entry for entry in entries}
    assert {"base-files", "libc6", "libssl3t64", "python3-minimal"} <= set(found)
    assert all("\nVersion: " in entry and "\nStatus: install ok installed" in entry for entry in found.values())
    without = [name for name in found if not (image.rootfs / "usr/share/doc" / name / "copyright").exists()]
    assert without == []


def test_bytecode_is_there_for_every_module_and_never_looks_at_the_source(image: Any) -> None:
    """Flags 0b01: checked by hash, and not checked (PEP 552). A newer source time changes nothing."""
    modules = [path for path in files(image.rootfs / "usr/lib") if path.suffix == ".py"]
    assert len(modules) > 100
    for module in modules:
        (compiled,) = (module.parent / "__pycache__").glob(f"{module.stem}.cpython-3*.pyc")
        assert compiled.read_bytes()[4:8] == b"\1\0\0\0", module


def test_our_own_modules_are_those_of_the_tree(image: Any) -> None:
    """Of the data plane the webhook has the plan alone, certs nothing, the agent all."""
    whole = {
        "proxy": ("proxy/srcip_proxy",),
        "webhook": ("webhook/srcip_webhook", "proxy/srcip_proxy/plan"),
        "certs": ("certs/srcip_certs", "certs/srcip_kube"),
        "agent": ("proxy/srcip_agent", "proxy/srcip_proxy", "certs/srcip_kube"),
    }
    extra = {"webhook": ("proxy/srcip_proxy/__init__.py",)}
    sources = [path for folder in whole[image.name] for path in files(ROOT / folder)]
    sources += [ROOT / path for path in extra.get(image.name, ())]
    packages = image.rootfs / lab_image.DIST_PACKAGES
    expected = {"/".join(path.relative_to(ROOT).parts[1:]): path for path in sources if "__pycache__" not in path.parts}
    found = {
        str(path.relative_to(packages)): path
        for path in files(packages)
        if path.relative_to(packages).parts[0].startswith("srcip") and "__pycache__" not in path.parts
    }
    assert set(found) == set(expected)
    assert all(found[name].read_bytes() == expected[name].read_bytes() for name in found)


def test_the_image_is_not_larger_than_stated(image: Any) -> None:
    packed, whole = (size / MEGABYTE for size in image.archive.sizes())
    assert packed < LARGEST[image.name][0], packed
    assert whole < LARGEST[image.name][1], whole
