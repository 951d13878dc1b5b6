"""A virtual machine with another kernel and this machine's root file system: what it writes is gone when it ends."""

from __future__ import annotations

import lzma
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE
from typing import TextIO

from srcip_e2e.kernels.package import Kernel
from srcip_lab.errors import LabError
from srcip_lab.tools import machine_path, run

KVM = Path("/dev/kvm")
SHARING = Path("/usr/lib/qemu/virtiofsd")
INIT = Path(__file__).with_name("init.sh")
FIRST_MODULES = ("virtio_pci", "virtiofs", "overlay")
"""What it takes to reach the root file system; the kernel loads all others by itself."""
MEMORY = "3G"
_END = re.compile(r"srcip-kernels: (\d+)")


def run_in(kernel: Kernel, command: Sequence[str], output: TextIO, *, seconds: int = 3 * 3600, **variables: str) -> int:
    """Run a command in the working directory on another kernel and return its exit code. Raises LabError."""
    with tempfile.TemporaryDirectory(prefix="srcip-kernel-") as name:
        place = Path(name)
        variables = {
            "HOME": str(Path.home()),
            **variables,
        }  # where the cache is; the kernel gives its first process HOME=/
        words = [f"cd {shlex.quote(str(Path.cwd()))}", *(f"export {k}={shlex.quote(v)}" for k, v in variables.items())]
        words += [f"{shlex.join(command)} </dev/null", 'echo "srcip-kernels: $?"', "busybox poweroff -f"]
        (place / "script").write_text("\n".join(words))
        _initramfs(kernel, place)
        with _shared(place):
            return _boot(kernel, place, output, seconds)


def has_kvm() -> bool:
    """Whether the processor itself runs guests. Some virtual machines offer /dev/kvm without, and boot no usual kernel.

    Without it one CPU must do: with two in software, kernels that change their own code fail now and then.
    """
    flags = re.search(r"^flags\b.*\b(vmx|svm)\b", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return bool(flags) and os.access(KVM, os.R_OK | os.W_OK)


def _initramfs(kernel: Kernel, place: Path) -> None:
    """busybox, the init script and the first modules."""
    tree = place / "initramfs"
    tree.mkdir()
    busybox = Path(shutil.which("busybox", path=machine_path()) or "")
    if not busybox.is_file() or b"ld-linux" in busybox.read_bytes()[:4096]:
        raise LabError("busybox that needs no library is missing (Debian package busybox-static)")
    shutil.copy(busybox, tree / "busybox")
    shutil.copy(INIT, tree / "init")
    (tree / "init").chmod(0o755)
    order = []
    for file in _files(kernel):
        order.append(file.name.removesuffix(".xz"))
        content = lzma.decompress(file.read_bytes()) if file.suffix == ".xz" else file.read_bytes()
        (tree / order[-1]).write_bytes(content)
    (tree / "order").write_text("\n".join(order))
    pack = 'cd "$1" && find . | busybox cpio -o -H newc >"$2" 2>/dev/null'
    run("sh", "-c", pack, "sh", str(tree), str(place / "initramfs.cpio"))


def _files(kernel: Kernel) -> list[Path]:
    """The files of the first modules and of what they need, in the order in which they are loaded."""
    words = ("modprobe", "--show-depends", "-d", str(kernel.root), "-S", kernel.release)
    lines = [line for module in FIRST_MODULES for line in run(*words, module).splitlines()]
    return [Path(line.split()[1]) for line in dict.fromkeys(lines) if line.startswith("insmod ")]


@contextmanager
def _shared(place: Path) -> Iterator[None]:
    """Serve the root file system by virtiofs, through a read-only mount that nobody else sees."""
    (place / "all").mkdir()
    socket = place / "socket"
    options = ("-o", f"source={place / 'all'}", "-o", "cache=always", "-o", "log_level=err")
    script = 'mount --rbind / "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
    serve = ("sh", "-c", script, str(place / "all"), str(SHARING), f"--socket-path={socket}", *options)
    with subprocess.Popen(["unshare", "--mount", *serve]) as server:
        try:
            deadline = time.monotonic() + 10
            while not socket.exists():
                if server.poll() is not None or time.monotonic() > deadline:
                    raise LabError(f"{SHARING} did not start")
                time.sleep(0.01)
            yield
        finally:
            server.terminate()


def _boot(kernel: Kernel, place: Path, output: TextIO, seconds: int) -> int:
    told = f"console=ttyS0 quiet panic=-1 srcip.modules={kernel.modules} srcip.script={place / 'script'}"
    words = [
        *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"),
        *("-machine", "q35,memory-backend=memory", "-object", f"memory-backend-memfd,id=memory,size={MEMORY},share=on"),
        *(("-accel", "kvm", "-cpu", "host", "-smp", "2") if has_kvm() else ("-accel", "tcg", "-cpu", "max")),
        *("-m", MEMORY),
        *("-chardev", f"socket,id=shared,path={place / 'socket'}"),
        *("-device", "vhost-user-fs-pci,chardev=shared,tag=shared"),
        *("-kernel", str(kernel.image), "-initrd", str(place / "initramfs.cpio"), "-append", told),
    ]
    with subprocess.Popen(
        ["timeout", str(seconds), *words], stdin=subprocess.DEVNULL, stdout=PIPE, text=True
    ) as machine:
        assert machine.stdout
        for line in machine.stdout:
            if end := _END.match(line):
                return int(end[1])
            print(line.rstrip("\n"), file=output, flush=True)
    raise LabError(f"Linux {kernel.release} did not come to its end within {seconds} seconds")
