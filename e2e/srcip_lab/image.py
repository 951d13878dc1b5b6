"""The proxy image as a root file system: packages of Debian trixie and the srcip_proxy of this tree.

Two layers, both cached and never changed once they have their name: `base-KEY` from the packages, and `rootfs-KEY`, a
copy of it by hard links that holds one state of srcip_proxy. A build happens aside, under a lock, and ends in a rename.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import srcip_proxy
from srcip_lab import bpf
from srcip_lab.compiling import compiled
from srcip_lab.errors import LabError
from srcip_lab.places import ROOTFS, cache
from srcip_lab.tools import require, run
from srcip_proxy.ebpf.attach import OBJECTS
from srcip_proxy.plan import CGROUP_MOUNT, UID

SUITE = "trixie"
RECIPE = 5
"""Raise it when this module builds the base in another way."""
DIST_PACKAGES = "usr/lib/python3/dist-packages"
KEEP_SECONDS = 7 * 24 * 3600
"""A rootfs of older sources that nobody asked for since then is removed."""
UNUSED = tuple(f"/usr/share/{name}/*" for name in ("doc", "man", "locale", "info", "lintian"))
FILE_CAPABILITIES = {
    "usr/bin/python3": "cap_net_admin,cap_bpf+p",
    "usr/bin/setpriv": "cap_net_admin+ep",
    "usr/sbin/haproxy": "cap_net_raw+p",
}
CLIENT_PORT = ("client_port.c", "usr/lib/srcip/client_port.so")
"""What HAProxy calls in place of bind(): its source, and where the image has it."""
PRELOAD = "etc/ld.so.preload"
ENTRY_POINT = "#!/usr/bin/python3 -I\nfrom srcip_proxy.__main__ import main\n\nmain()\n"


def proxy_rootfs() -> Path:
    """The root file system with the current srcip_proxy; built when it is not there yet (the first time some 20 s).
    SRCIP_PROXY_ROOTFS names another one, such as that of the image that ships.

    Raises LabError when a program is missing, a package cannot be had, or the named one is none.
    """
    if given := os.environ.get(ROOTFS):
        return _given(Path(given))
    base = base_rootfs()
    sources, library = _sources(), client_port()

    def add(aside: Path) -> None:
        _add_package(base, aside, sources)
        _add_client_port(aside, library)

    return _built(f"rootfs-{_key(base.name, CGROUP_MOUNT, library.name, *sources, *sources.values())}", add)


def with_programs() -> Path:
    """The same with the programs of ebpf mode, which clang compiles. Raises LabError as proxy_rootfs."""
    if os.environ.get(ROOTFS):
        return proxy_rootfs()
    plain, compiled = proxy_rootfs(), [bpf.compiled(source) for source in bpf.BOTH]

    def add(aside: Path) -> None:
        run("cp", "-al", str(plain), str(aside))
        _inside(aside, OBJECTS[0].parent).mkdir(exist_ok=True)
        for made, shipped in zip(compiled, OBJECTS, strict=True):
            shutil.copyfile(made, _inside(aside, shipped))

    return _built(f"rootfs-{_key(plain.name, *(made.read_bytes() for made in compiled))}", add)


def client_port() -> Path:
    """The library that the Dockerfile compiles, too."""
    source = _shipped(CLIENT_PORT[0], Path("preload"))
    flags = ("-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-fvisibility=hidden")
    return compiled(cache(), "client_port-{}.so", ("cc", *flags, str(source)), [source])


def _add_client_port(rootfs: Path, library: Path) -> None:
    target = rootfs / CLIENT_PORT[1]
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(library, target)
    (rootfs / PRELOAD).write_text(f"/{CLIENT_PORT[1]}\n")


def _shipped(name: str, folder: Path = Path()) -> Path:
    """A file of proxy/ that an installed lab has beside this module."""
    installed = Path(__file__).with_name(name)
    return installed if installed.exists() else Path(srcip_proxy.__file__).parents[1] / folder / name


def _inside(rootfs: Path, path: Path) -> Path:
    """An absolute path of the image, on this machine."""
    return rootfs / path.relative_to("/")


def _given(rootfs: Path) -> Path:
    if not (rootfs / "usr/sbin/haproxy").exists():
        raise LabError(f"{ROOTFS}: {rootfs} is not the root file system of a proxy image: it has no usr/sbin/haproxy")
    return rootfs


def cached() -> bool:
    """Whether the slow part, the packages, is there already."""
    return (cache() / _base_name()).is_dir()


def base_rootfs() -> Path:
    """The same without srcip_proxy: only what comes from packages."""
    return _built(_base_name(), _debian)


def _base_name() -> str:
    return f"base-{_key(str(RECIPE), SUITE, os.uname().machine, *package_names())}"


def package_names() -> tuple[str, ...]:
    """The packages of the image, one per line of packages.txt."""
    lines = _shipped("packages.txt").read_text().splitlines()
    return tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))


def _built(name: str, build: Callable[[Path], None]) -> Path:
    """The finished layer `name`. Only a finished one ever has the name, so its presence is all there is to check."""
    layer = cache() / name
    if not layer.is_dir():
        with locked(cache() / f".{name.partition('-')[0]}.lock"):
            if not layer.is_dir():
                _build_aside(layer, build)
    (cache() / f".{name}.used").touch()
    return layer


def _build_aside(layer: Path, build: Callable[[Path], None]) -> None:
    aside = layer.with_name(f".building-{layer.name}")
    shutil.rmtree(aside, ignore_errors=True)  # of a build that was interrupted: the lock is ours
    _remove_unused(layer.name.partition("-")[0])
    build(aside)
    aside.rename(layer)


def _remove_unused(kind: str) -> None:
    for stamp in cache().glob(f".{kind}-*.used"):
        if time.time() - stamp.stat().st_mtime > KEEP_SECONDS:
            shutil.rmtree(cache() / stamp.name[1 : -len(".used")], ignore_errors=True)
            stamp.unlink(missing_ok=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of this file: what is made under it is made once."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _debian(aside: Path) -> None:
    require(("mmdebstrap", "setcap"))
    exclude = [f"--dpkgopt=path-exclude={pattern}" for pattern in UNUSED]
    run(
        "mmdebstrap",
        "--quiet",
        "--variant=minbase",
        f"--include={','.join(package_names())}",
        *exclude,
        SUITE,
        str(aside),
    )
    _add_user(aside)
    for directory in (DIST_PACKAGES, "run/srcip", "run/secrets/kubernetes.io/serviceaccount"):
        (aside / directory).mkdir(parents=True, exist_ok=True)
    entry = aside / "usr/bin/srcip-proxy"
    entry.write_text(ENTRY_POINT)
    entry.chmod(0o755)
    for program, capabilities in FILE_CAPABILITIES.items():
        run("setcap", capabilities, str(_real(aside, program)))


def _real(rootfs: Path, program: str) -> Path:
    """The file behind a relative link: file capabilities belong to the binary, not to the link."""
    path = rootfs / program
    return path.parent / path.readlink() if path.is_symlink() else path


def _add_user(rootfs: Path) -> None:
    lines = {
        "passwd": f"srcip:x:{UID}:{UID}:srcip:/nonexistent:/usr/sbin/nologin",
        "group": f"srcip:x:{UID}:",
        "shadow": "srcip:!:20000::::::",
    }
    for name, line in lines.items():
        with (rootfs / "etc" / name).open("a") as file:
            file.write(line + "\n")


def _sources() -> dict[str, bytes]:
    """Every file of srcip_proxy by its relative path."""
    root = Path(srcip_proxy.__file__).parent
    files = sorted(path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def _add_package(base: Path, aside: Path, sources: dict[str, bytes]) -> None:
    run("cp", "-al", str(base), str(aside))
    _inside(aside, Path(CGROUP_MOUNT)).mkdir(parents=True)
    package = aside / DIST_PACKAGES / "srcip_proxy"
    for name, content in sources.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o644)
    for directory in (package, *(path for path in package.rglob("*") if path.is_dir())):
        directory.chmod(0o755)
    compile_all = f"import compileall; compileall.compile_dir('/{package.relative_to(aside)}', quiet=1)"
    run("chroot", str(aside), "/usr/bin/python3", "-I", "-c", compile_all)


def _key(*parts: str | bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        digest.update(len(raw).to_bytes(8, "big") + raw)
    return digest.hexdigest()[:16]


def haproxy_version(rootfs: Path) -> str:
    """Version of the HAProxy in `rootfs`, such as 3.0.11."""
    words = run("chroot", str(rootfs), "/usr/sbin/haproxy", "-v").split()
    if words[:2] != ["HAProxy", "version"]:
        raise LabError(f"haproxy -v: unexpected answer {' '.join(words[:4])!r}")
    return words[2].partition("-")[0]


if __name__ == "__main__":
    base_rootfs()
