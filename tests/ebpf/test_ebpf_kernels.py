"""An older kernel takes the programs: the oldest that Debian has for this machine boots in a virtual machine."""

import io
import os
import shutil
import sys

import pytest

from srcip_e2e.kernels import machine, package
from srcip_lab import bpf
from srcip_lab.errors import LabError
from srcip_lab.tools import machine_path
from support import ebpf_rig

pytestmark = pytest.mark.dataplane

OLDEST = "6.1"
PATIENT = ("-p", "no:cacheprovider", "-o", "timeout=1200")
"""Options of pytest: what takes seconds takes minutes where the processor runs no guests."""
ATTACH = "tests/ebpf/test_ebpf_attach.py"
FORGED = "tests/ebpf/test_ebpf_judged.py::test_a_segment_that_tcp_drops_states_no_client"
TESTS = (
    f"{ATTACH}::test_bpf_and_net_admin_are_enough",
    f"{ATTACH}::test_stats_need_no_capability",
    *(f"{FORGED}[checksum of a card that never came-{version}-with timestamps]" for version in ("IPv4", "IPv6")),
    "tests/ebpf/test_ebpf_judged.py::test_a_checksum_that_the_card_has_still_to_make_is_right",
)


@pytest.fixture
def oldest() -> package.Kernel:
    """The kernel; without what it takes the test is skipped with the reason, which is a failure in CI."""
    ebpf_rig.needs_root()
    if os.uname().machine != "x86_64":
        pytest.skip(f"no machine for {os.uname().machine} is described here")
    missing = [str(name) for name in ("qemu-system-x86_64", "busybox", machine.SHARING) if not shutil.which(name)]
    try:
        if not missing:
            return package.kernel(OLDEST)
        reason = f"missing on this machine: {', '.join(missing)} (e2e/setup.sh test)"
    except LabError as error:
        reason = str(error)
    return pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)


@pytest.mark.timeout(3600)
def test_the_oldest_kernel_of_debian_shows_the_client(oldest: package.Kernel) -> None:
    """BPF and NET_ADMIN alone attach the programs there, a connection with a header shows its client, any process reads
    the counters, and a forged packet is told from one whose checksum the card has still to make. In software, where the
    processor runs no guests, it takes some minutes."""
    for source in bpf.BOTH:
        bpf.compiled(source)  # here, where it is faster
    said = io.StringIO()
    words = ["sh", "-c", 'uname -r; exec "$@"', "sh", sys.executable, "-m", "pytest", *PATIENT, *TESTS]
    code = machine.run_in(oldest, words, said, PATH=machine_path(), CI="1", TERM="dumb")
    assert code == 0, said.getvalue()
    assert oldest.release in said.getvalue().splitlines()  # a kernel on a busy machine may say something before
    assert "6 passed" in said.getvalue()
