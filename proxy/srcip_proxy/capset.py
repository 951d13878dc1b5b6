"""Switches on the capabilities that this process may have (file capabilities with +p give them, but switched off), or
gives all of them up."""

from __future__ import annotations

import ctypes
import os

from srcip_proxy import capabilities

_VERSION_3 = 0x20080522


class _Header(ctypes.Structure):
    """struct __user_cap_header_struct."""

    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Half(ctypes.Structure):
    """struct __user_cap_data_struct: 32 bits of each set."""

    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def use_all() -> None:
    """Make every permitted capability effective. Raises OSError."""
    _set(capabilities.held("CapPrm"))


def drop_all() -> None:
    """Give up every capability, for good. Raises OSError."""
    _set(0)


def _set(permitted: int) -> None:
    halves = (_Half * 2)(*(_Half(half, half, 0) for half in (permitted & 0xFFFFFFFF, permitted >> 32)))
    if ctypes.CDLL(None, use_errno=True).capset(ctypes.byref(_Header(_VERSION_3, 0)), halves):
        raise OSError(ctypes.get_errno(), f"capset: {os.strerror(ctypes.get_errno())}")
