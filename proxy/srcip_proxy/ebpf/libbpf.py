"""libbpf (Debian's libbpf1) by ctypes: open an object, size and fill its maps, load it, attach its programs.

Chosen over `tc` and `bpftool`: those need a mounted bpffs to hand the maps of one object to several programs, and
that an init container cannot mount. Here the kernel's own attach points keep the programs, and with them the maps.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from pathlib import Path
from typing import Any

SONAME = "libbpf.so.1"
TC_INGRESS, TC_EGRESS = 1, 2  # enum bpf_tc_attach_point
GETPEERNAME4, GETPEERNAME6 = 29, 30  # enum bpf_attach_type
_TCX = {TC_INGRESS: 46, TC_EGRESS: 47}
PRIORITY = 7371
"""Of our filters in clsact; a lower one runs before them."""
_REPLACE = 1  # BPF_TC_F_REPLACE
_ALLOW_MULTI = 2  # BPF_F_ALLOW_MULTI: beside others, such as Cilium's
_MAX_LINES = 40
"""Of libbpf's messages, in an error: a verifier's log has thousands, with the reason at its end."""
_PRINT = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)


class BpfError(Exception):
    """The kernel or libbpf refused; the text says what, `errno` why (errno(3); 0 where nobody says)."""

    def __init__(self, text: str, number: int = 0) -> None:
        self.errno = number
        super().__init__(text)


class LoadError(BpfError):
    """The kernel refused to load the programs: EPERM where bpf(2) is not allowed at all, else its verifier did."""


class HookError(BpfError):
    """A program can't be attached to a hook of an interface."""


class _Hook(ctypes.Structure):
    """struct bpf_tc_hook."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("ifindex", ctypes.c_int),
        ("attach_point", ctypes.c_int),
        ("parent", ctypes.c_uint32),
    )


class _Options(ctypes.Structure):
    """struct bpf_tc_opts."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("prog_fd", ctypes.c_int),
        ("flags", ctypes.c_uint32),
        ("prog_id", ctypes.c_uint32),
        ("handle", ctypes.c_uint32),
        ("priority", ctypes.c_uint32),
    )


class Object:
    """A compiled object: opened, then sized, loaded, filled and attached, in this order."""

    def __init__(self, path: Path) -> None:
        self._lib, self._messages = _with_types(library()), list[str]()
        self._print = _PRINT(self._on_message)  # kept: libbpf calls it
        self._lib.libbpf_set_print(self._print)
        self._attached: list[tuple[int, int, int]] = []
        self._object = self._lib.bpf_object__open_file(str(path).encode(), None)
        if not self._object:
            raise self._error(f"open {path}")

    def resize(self, name: str, entries: int) -> None:
        """Let the map `name` have room for so many entries."""
        self._check(self._lib.bpf_map__set_max_entries(self._map(name), entries), f"size of map {name}")

    def load(self) -> None:
        """Make the maps and let the kernel verify the programs."""
        self._check(self._lib.bpf_object__load(self._object), "load", LoadError)

    def put(self, name: str, key: bytes, value: bytes) -> None:
        """Set one entry of a map."""
        handle = self._lib.bpf_map__fd(self._map(name))
        self._check(self._lib.bpf_map_update_elem(handle, key, value, ctypes.c_uint64(0)), f"write to map {name}")

    def attach_tcx(self, program: str, interface: str, point: int) -> bool:
        """Attach to an interface, behind whatever is there. False where the kernel has no tcx: before Linux 6.6."""
        handle, index = self._program(program), socket.if_nametoindex(interface)
        result = self._lib.bpf_prog_attach(handle, index, _TCX[point], 0)
        if result == -errno.EINVAL:
            return False
        self._check(result, f"{program} on {interface}", HookError)
        self._attached.append((handle, index, _TCX[point]))
        return True

    def attach_clsact(self, program: str, interface: str, point: int, priority: int = PRIORITY) -> None:
        """Attach to clsact of an interface, in the place of an earlier filter of this priority."""
        hook = _Hook(ctypes.sizeof(_Hook), socket.if_nametoindex(interface), point, 0)
        result = self._lib.bpf_tc_hook_create(ctypes.byref(hook))
        if result not in (0, -errno.EEXIST):
            self._check(result, f"clsact of {interface}", HookError)
        options = _Options(ctypes.sizeof(_Options), self._program(program), _REPLACE, 0, 1, priority)
        result = self._lib.bpf_tc_attach(ctypes.byref(hook), ctypes.byref(options))
        self._check(result, f"{program} on {interface}", HookError)

    def attach_cgroup(self, program: str, cgroup: Path, kind: int) -> None:
        """Attach to a cgroup of version 2, beside whatever is there."""
        directory = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
        result = self._lib.bpf_prog_attach(self._program(program), directory, kind, _ALLOW_MULTI)
        os.close(directory)
        self._check(result, f"{program} on {cgroup}")

    def detach(self) -> None:
        """Detach what this object has attached by tcx; in clsact the next attach replaces it."""
        for handle, index, kind in self._attached:
            self._lib.bpf_prog_detach2(handle, index, kind)

    def close(self) -> None:
        """Close all file descriptors; programs that are attached stay, and keep their maps."""
        self._lib.bpf_object__close(self._object)

    def _map(self, name: str) -> Any:
        found = self._lib.bpf_object__find_map_by_name(self._object, name.encode())
        if not found:
            raise self._error(f"map {name}")
        return found

    def _program(self, name: str) -> int:
        found = self._lib.bpf_object__find_program_by_name(self._object, name.encode())
        if not found:
            raise self._error(f"program {name}")
        return int(self._lib.bpf_program__fd(found))

    def _check(self, result: int, doing: str, kind: type[BpfError] = BpfError) -> None:
        if result < 0:
            raise self._error(doing, -result, kind)

    def _error(self, doing: str, number: int = 0, kind: type[BpfError] = BpfError) -> BpfError:
        number = number or ctypes.get_errno()
        messages = "\n".join(self._messages).splitlines()
        return kind("\n".join([f"{doing}: {os.strerror(number)}", *messages[-_MAX_LINES:]]), number)

    def _on_message(self, level: int, form: bytes, arguments: int) -> int:
        """Collects libbpf's warnings for the text of an error (enum libbpf_print_level: 0 is warning)."""
        if level == 0:
            text = ctypes.create_string_buffer(65536)
            ctypes.CDLL(None).vsnprintf(text, len(text), form, ctypes.c_void_p(arguments))
            self._messages.append(text.value.decode(errors="replace").strip())
        return 0


def library() -> ctypes.CDLL:
    """libbpf as it is. Raises BpfError when it is missing."""
    try:
        return ctypes.CDLL(SONAME, use_errno=True)
    except OSError:
        raise BpfError(f"{SONAME} is missing (Debian package libbpf1)") from None


def _with_types(lib: ctypes.CDLL) -> ctypes.CDLL:
    for name in ("bpf_object__open_file", "bpf_object__find_map_by_name", "bpf_object__find_program_by_name"):
        getattr(lib, name).restype = ctypes.c_void_p
    pointer, text = ctypes.c_void_p, ctypes.c_char_p
    lib.bpf_object__open_file.argtypes = (text, pointer)
    lib.bpf_object__load.argtypes = lib.bpf_object__close.argtypes = (pointer,)
    lib.bpf_object__find_map_by_name.argtypes = lib.bpf_object__find_program_by_name.argtypes = (pointer, text)
    lib.bpf_map__set_max_entries.argtypes = (pointer, ctypes.c_uint32)
    lib.bpf_map__fd.argtypes = lib.bpf_program__fd.argtypes = (pointer,)
    lib.bpf_map_update_elem.argtypes = (ctypes.c_int, text, text, ctypes.c_uint64)
    return lib
