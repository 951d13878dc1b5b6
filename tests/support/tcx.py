"""Print the programs on an interface's tcx hooks, which Debian 12's bpftool does not know: `python tcx.py eth0`."""

import ctypes
import errno
import socket
import sys

HOOKS = {"ingress": 46, "egress": 47}  # enum bpf_attach_type
MOST = 64


def programs(interface: str, hook: str) -> list[int]:
    """Their ids; none where the kernel has no tcx."""
    ids, count, flags = (ctypes.c_uint32 * MOST)(), ctypes.c_uint32(MOST), ctypes.c_uint32(0)
    lib = ctypes.CDLL("libbpf.so.1")
    index = socket.if_nametoindex(interface)
    done = lib.bpf_prog_query(index, HOOKS[hook], 0, ctypes.byref(flags), ids, ctypes.byref(count))
    if done < 0 and -done not in (errno.EINVAL, errno.ENOENT):
        raise OSError(-done, f"bpf_prog_query of {interface}")
    return list(ids)[: count.value] if done == 0 else []


if __name__ == "__main__":
    for hook in HOOKS:
        for number in programs(sys.argv[1], hook):
            print(f"{hook} id {number}")
