"""Reads, by libbpf, what programs that another process attached to a cgroup have counted in an array of theirs.

The kernel opens a program or a map by its number for CAP_SYS_ADMIN alone, and lists the programs of a cgroup for
CAP_NET_ADMIN (newer kernels for CAP_SYS_ADMIN as well). Maps are opened so that they can be read only.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from srcip_proxy.ebpf import libbpf

MOST_PROGRAMS = 64
"""What the kernel attaches to one hook of one cgroup at most (BPF_CGROUP_MAX_PROGS)."""
_MOST_MAPS = 64  # what one program can use (MAX_USED_MAPS)
_READ_ONLY = 1 << 3  # BPF_F_RDONLY
_ARRAY = 2  # BPF_MAP_TYPE_ARRAY


class _ProgramInfo(ctypes.Structure):
    """The beginning of struct bpf_prog_info; the kernel fills as much as there is room for."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("tag", ctypes.c_uint8 * 8),
        ("jited_prog_len", ctypes.c_uint32),
        ("xlated_prog_len", ctypes.c_uint32),
        ("jited_prog_insns", ctypes.c_uint64),
        ("xlated_prog_insns", ctypes.c_uint64),
        ("load_time", ctypes.c_uint64),
        ("created_by_uid", ctypes.c_uint32),
        ("nr_map_ids", ctypes.c_uint32),
        ("map_ids", ctypes.c_uint64),
        ("name", ctypes.c_char * 16),
    )


class _MapInfo(ctypes.Structure):
    """The beginning of struct bpf_map_info."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("key_size", ctypes.c_uint32),
        ("value_size", ctypes.c_uint32),
        ("max_entries", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
        ("name", ctypes.c_char * 16),
    )


class _OpenOptions(ctypes.Structure):
    """struct bpf_get_fd_by_id_opts."""

    _fields_ = (("sz", ctypes.c_size_t), ("open_flags", ctypes.c_uint32))


@dataclass(frozen=True)
class Program:
    """A program that is loaded."""

    name: str
    loaded: int
    """When, in nanoseconds since the machine started."""
    maps: tuple[int, ...]
    """Numbers of the maps that it uses."""


class Kernel:
    """Every method raises OSError, also where a program, a map or a cgroup has just gone."""

    def __init__(self) -> None:
        """Raises BpfError when libbpf is missing."""
        self._lib = libbpf.library()

    def attached(self, cgroup: Path, kind: int) -> list[int]:
        """Numbers of the programs on this hook of the cgroup itself, in the order in which they run."""
        found, count = (ctypes.c_uint32 * MOST_PROGRAMS)(), ctypes.c_uint32(MOST_PROGRAMS)
        with _closed(os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as handle:
            _check(self._lib.bpf_prog_query(handle, kind, 0, None, found, ctypes.byref(count)))
        return found[: count.value]

    def program(self, number: int) -> Program:
        """The program of this number."""
        maps = (ctypes.c_uint32 * _MOST_MAPS)()
        info = _ProgramInfo(nr_map_ids=_MOST_MAPS, map_ids=ctypes.addressof(maps))
        with _closed(_check(self._lib.bpf_prog_get_fd_by_id(number))) as handle:
            self._describe(handle, info)
        return Program(_text(info.name), info.load_time, tuple(maps[: min(info.nr_map_ids, _MOST_MAPS)]))

    def counters(self, number: int, name: str, most: int) -> tuple[int, ...] | None:
        """The first entries of an array of 64-bit numbers, `most` at most; None if the map is another one."""
        options = _OpenOptions(ctypes.sizeof(_OpenOptions), _READ_ONLY)
        with _closed(_check(self._lib.bpf_map_get_fd_by_id_opts(number, ctypes.byref(options)))) as handle:
            info = _MapInfo()
            self._describe(handle, info)
            if (_text(info.name), info.type, info.key_size, info.value_size) != (name, _ARRAY, 4, 8):
                return None
            return tuple(self._entry(handle, index) for index in range(min(info.max_entries, most)))

    def first(self, number: int, name: str, size: int) -> bytes | None:
        """The first entry, of `size` bytes, of an array of this name; None if the map is another one."""
        options = _OpenOptions(ctypes.sizeof(_OpenOptions), _READ_ONLY)
        with _closed(_check(self._lib.bpf_map_get_fd_by_id_opts(number, ctypes.byref(options)))) as handle:
            info = _MapInfo()
            self._describe(handle, info)
            if (_text(info.name), info.type, info.key_size, info.value_size) != (name, _ARRAY, 4, size):
                return None
            value = ctypes.create_string_buffer(size)
            _check(self._lib.bpf_map_lookup_elem(handle, ctypes.byref(ctypes.c_uint32(0)), value))
            return value.raw

    def on_interface(self, index: int, kind: int) -> list[int]:
        """Numbers of the programs on this hook of tcx; none where the kernel has no tcx."""
        found, count = (ctypes.c_uint32 * MOST_PROGRAMS)(), ctypes.c_uint32(MOST_PROGRAMS)
        result = self._lib.bpf_prog_query(index, kind, 0, None, found, ctypes.byref(count))
        if result == -errno.EINVAL:
            return []
        _check(result)
        return found[: count.value]

    def detach(self, number: int, target: int, kind: int) -> None:
        """Take the program of this number from a hook: of the interface, or of the open cgroup, `target`."""
        with _closed(_check(self._lib.bpf_prog_get_fd_by_id(number))) as handle:
            _check(self._lib.bpf_prog_detach2(handle, target, kind))

    def _entry(self, handle: int, index: int) -> int:
        value = ctypes.c_uint64()
        _check(self._lib.bpf_map_lookup_elem(handle, ctypes.byref(ctypes.c_uint32(index)), ctypes.byref(value)))
        return value.value

    def _describe(self, handle: int, info: ctypes.Structure) -> None:
        length = ctypes.c_uint32(ctypes.sizeof(info))
        _check(self._lib.bpf_obj_get_info_by_fd(handle, ctypes.byref(info), ctypes.byref(length)))


@contextmanager
def _closed(handle: int) -> Iterator[int]:
    """The file descriptor, closed in the end."""
    try:
        yield handle
    finally:
        os.close(handle)


def _check(result: int) -> int:
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


def _text(name: bytes) -> str:
    return name.decode("ascii", "replace")
