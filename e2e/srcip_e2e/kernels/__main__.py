"""`python -m srcip_e2e.kernels [--kernel 6.1] [PYTEST-ARGUMENT ...]`: ebpf mode on another kernel, as root."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from srcip_e2e.kernels import machine, package
from srcip_lab import bpf
from srcip_lab.errors import LabError
from srcip_lab.tools import machine_path

TESTS = Path("tests/ebpf")
CHOICE = "(not test_parser or kernel) and not user_namespace"
ALL = (str(TESTS), "-k", CHOICE, "--ignore", str(TESTS / "test_ebpf_kernels.py"))
"""All that touches the kernel. In a chroot nobody makes a user namespace; the last would boot a kernel in this one."""
PATIENT = ("-vv", "-o", "timeout=1200")
"""A line for each test; what takes seconds takes minutes where the processor runs no guests."""


def main() -> None:
    """Exit code of pytest; 1 with the reasons where no kernel boots."""
    arguments, options = _parser().parse_known_args()
    try:
        sys.exit(tests(package.kernel(arguments.kernel), [*PATIENT, *_chosen(options)]))
    except LabError as error:
        sys.exit("\n".join(error.errors))


def _chosen(options: list[str]) -> list[str]:
    """All tests, unless a path is among the options."""
    return options if any(option.startswith("tests") for option in options) else [*ALL, *options]


def tests(kernel: package.Kernel, options: list[str]) -> int:
    """Run pytest with `options` on a kernel. Raises LabError."""
    for source in (*bpf.BOTH, *TESTS.glob("*.bpf.c")):
        bpf.compiled(source)  # here, where it is faster
    how = "by KVM" if machine.has_kvm() else "in software"
    print(f"Linux {kernel.release}, {how}", flush=True)
    words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options]
    return machine.run_in(kernel, words, sys.stdout, PATH=machine_path(), TMPDIR="/run", CI="1", TERM="dumb")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m srcip_e2e.kernels", description="Run tests of ebpf mode on another kernel."
    )
    help_text = "a version that this machine's package sources have, or a directory with unpacked packages"
    parser.add_argument("--kernel", default="6.1", metavar="VERSION|DIR", help=help_text)
    return parser


if __name__ == "__main__":
    main()
