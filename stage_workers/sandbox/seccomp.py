"""System calls that children may not make: a filter of libseccomp's, kept as bytes, for the kernel.

All others are allowed: compilers, drivers and libraries make new ones with every release. Those that are
denied are of no use to them, and reach other processes, the network, or rarely used parts of the kernel.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket

_SET_MODE_FILTER = 1
_SPEC_ALLOW = 1 << 2
"""Kernels before 5.16 would slow down a filtered process against Spectre, and with it what is measured."""

DENIED = (
    # Other processes.
    "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "pidfd_getfd", "kcmp",
    # A session or a group of its own, to outlive the call.
    "setsid", "setpgid",
    # The network. Pairs of sockets are left.
    "connect", "bind", "listen",
    # Other views of the file system, other namespaces.
    "mount", "umount2", "move_mount", "open_tree", "fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr",
    "pivot_root", "chroot", "unshare", "setns", "name_to_handle_at", "open_by_handle_at",
    # Ways around this filter, and parts of the kernel with many holes.
    "io_uring_setup", "io_uring_enter", "io_uring_register", "bpf", "perf_event_open", "userfaultfd",
    "add_key", "request_key", "keyctl",
    # The machine.
    "init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "reboot", "swapon",
    "swapoff", "acct", "quotactl", "syslog", "settimeofday", "clock_settime", "adjtimex", "clock_adjtime",
    "iopl", "ioperm", "sethostname", "setdomainname", "vhangup",
)  # fmt: skip
_OF_SOCKETS = ("connect", "bind", "listen")
_NAMESPACES = (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)
"""``CLONE_NEW…``: mounts, cgroups, names of the host, IPC, users, processes, network."""

_libc = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    """``struct sock_fprog``."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def missing() -> str:
    """Why there is no filter here; nothing if there is."""
    try:
        import pyseccomp  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        return f"libseccomp: {error}"
    return ""


def program(local: bool) -> bytes:
    """The filter, as the kernel takes it.

    Args:
        local: whether sockets of this machine (``AF_UNIX``) may be made. None of the network can.
    """
    import pyseccomp as seccomp

    denied = seccomp.ERRNO(errno.EPERM)
    rules = seccomp.SyscallFilter(seccomp.ALLOW)
    rules.set_attr(seccomp.Attr.CTL_NNP, 0)
    for name in DENIED:
        if not (local and name in _OF_SOCKETS):
            # One that this machine's kind, or this library, does not have.
            with contextlib.suppress(OSError):
                rules.add_rule(denied, name)
    if local:
        rules.add_rule(denied, "socket", seccomp.Arg(0, seccomp.NE, socket.AF_UNIX))
    else:
        rules.add_rule(denied, "socket")
    for flag in _NAMESPACES:
        rules.add_rule(denied, "clone", seccomp.Arg(0, seccomp.MASKED_EQ, flag, flag))
    # Its flags lie in memory, where a filter cannot look; libraries then take the one above.
    rules.add_rule(seccomp.ERRNO(errno.ENOSYS), "clone3")
    with open(os.memfd_create("filter"), "w+b", buffering=0) as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()


def restrict(filter_: bytes) -> None:
    """Obey a filter from now on, for good. Needs ``no_new_privs``. Raises OSError."""
    program = _Program(len(filter_) // 8, filter_)
    number = _seccomp_number()
    if _libc.syscall(number, _SET_MODE_FILTER, _SPEC_ALLOW, ctypes.byref(program)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"seccomp: {os.strerror(code)}")


def _seccomp_number() -> int:
    import pyseccomp

    return int(pyseccomp.resolve_syscall(pyseccomp.system_arch(), "seccomp"))
