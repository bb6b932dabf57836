"""Landlock, the kernel's own way for a process to give up rights, by three system calls.

See ``landlock(7)``. Rights to files are given by folder; what no rule gives is denied. What the kernel does
not know yet is left out, by the version of its interface: TCP since 4, signals and abstract sockets since 6.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
import struct
from collections.abc import Iterable

_CREATE, _ADD, _RESTRICT = 444, 445, 446
"""Numbers of the system calls; the same on all machines."""
_VERSION = 1
_PATH_BENEATH = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REFER, _TRUNCATE, _IOCTL = 1 << 13, 1 << 14, 1 << 15
_MAKE_DEVICES = 1 << 6 | 1 << 11
_FIRST = (1 << 13) - 1
"""All rights of the first version."""
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL
"""Those that mean something for what is no folder."""
_TCP = 0b11
_SCOPES = 0b11
"""Abstract sockets and signals: only inside the domain."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def version() -> int:
    """Of the kernel's interface; 0 where there is none, or it is not to be used."""
    found = int(_libc.syscall(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION)))
    return max(found, 0)


def ruleset(readable: Iterable[str], writable: Iterable[str], devices: Iterable[str]) -> int:
    """A file descriptor of rules, for :func:`restrict`. Paths that are not there are left out.

    Args:
        readable: files and folders that may be read and executed.
        writable: folders, and files, that may also be written.
        devices: device files to open and to control.

    Raises:
        OSError: the kernel refuses.
    """
    known = version()
    files = _FIRST | (_REFER if known >= 2 else 0) | (_TRUNCATE if known >= 3 else 0)
    files |= _IOCTL if known >= 5 else 0
    attributes = struct.pack("=QQQ", files, _TCP if known >= 4 else 0, _SCOPES if known >= 6 else 0)
    size = 24 if known >= 6 else 16 if known >= 4 else 8
    rules = _checked(_libc.syscall(_CREATE, attributes, ctypes.c_size_t(size), ctypes.c_uint32(0)))
    reading = _EXECUTE | _READ_FILE | _READ_DIR
    for paths, rights in (
        (readable, reading),
        (writable, files & ~(_MAKE_DEVICES | _IOCTL)),
        (devices, reading | _WRITE_FILE | _TRUNCATE | _IOCTL),
    ):
        for path in paths:
            with contextlib.suppress(FileNotFoundError, PermissionError):
                _add(rules, path, rights & files)
    return rules


def _add(rules: int, path: str, rights: int) -> None:
    beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(beneath).st_mode):
            rights &= _OF_FILES
        rule = struct.pack("=Qi", rights, beneath)
        _checked(
            _libc.syscall(_ADD, ctypes.c_int(rules), ctypes.c_int(_PATH_BENEATH), rule, ctypes.c_uint32(0))
        )
    finally:
        os.close(beneath)


def restrict(rules: int) -> None:
    """Give up, for good, what ``rules`` do not give. Needs ``no_new_privs``. Raises OSError."""
    _checked(_libc.syscall(_RESTRICT, ctypes.c_int(rules), ctypes.c_uint32(0)))


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"landlock: {os.strerror(number)}")
    return result
