"""What a fork server and its children give up by themselves, whatever they were started in.

The fork server settles once: another user where it can be one, no capabilities, no new privileges. Each child
then enters: limits, Landlock, the filter of system calls. The fork server, which imports what an operator has
installed and runs nothing of a job, needs the file system for that and keeps it.
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct
from dataclasses import dataclass
from typing import Literal

import msgspec

from tunemesh.stage_workers.sandbox import landlock, seccomp

Mode = Literal["namespaces", "landlock", "bare"]

PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP = 4, 38, 24
_CAPSET = {"x86_64": 126, "aarch64": 91}
_CAPABILITY_VERSION = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


class Confinement(msgspec.Struct, frozen=True, kw_only=True):
    """What they are told about it."""

    mode: Mode
    user: int | None
    """Number of the user and the group to become; ``None``: stay who they are."""
    landlock: bool
    seccomp: bool
    readable: list[str]
    """Files and folders that may be read and executed."""
    writable: list[str]
    devices: list[str]
    """Device files that may be used."""
    gpu: bool
    """Whether drivers of a GPU run in it."""
    file_bytes: int
    """Bytes of the largest file that may be written."""
    processes: int
    """Processes at once of this user, threads included."""


@dataclass(frozen=True, slots=True)
class Settled:
    """What a child needs, made in advance."""

    confinement: Confinement
    filter: bytes | None
    """Of system calls."""


def settle(confinement: Confinement) -> Settled:
    """Give up what the fork server does not need. Raises OSError."""
    if confinement.mode == "bare":
        return Settled(confinement, None)
    if confinement.user is not None:
        os.setgroups([])
        os.setresgid(*[confinement.user] * 3)
        os.setresuid(*[confinement.user] * 3)
    _drop_capabilities()
    _control(PR_SET_NO_NEW_PRIVS, 1)
    # A child of the same user could read and change this process otherwise, and with it the children to come.
    _control(PR_SET_DUMPABLE, 0)
    return Settled(confinement, seccomp.program(local=confinement.gpu) if confinement.seccomp else None)


def enter(settled: Settled) -> None:
    """Give up, in a child and for good, all that its calls do not need. Raises OSError."""
    confinement = settled.confinement
    if confinement.mode == "bare":
        return
    _control(PR_SET_DUMPABLE, 1)
    for limit, most in (
        (resource.RLIMIT_FSIZE, confinement.file_bytes),
        (resource.RLIMIT_NPROC, confinement.processes),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        _limit(limit, most)
    if confinement.landlock:
        # A tenth of a millisecond. Each child has its own: only here is it known which process it is.
        rules = landlock.ruleset(
            confinement.readable, [*confinement.writable, _own_threads()], confinement.devices
        )
        landlock.restrict(rules)
        os.close(rules)
    if settled.filter is not None:
        seccomp.restrict(settled.filter)


def _own_threads() -> str:
    """The folder in which a process names its threads: CUDA's driver does not start where it cannot."""
    # Open for as long as this process lives: the kernel forgets a rule with the folder that it is about.
    return f"/proc/self/fd/{os.open('/proc/self/task', os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)}"


def _limit(limit: int, most: int) -> None:
    """No more than ``most``, and no more than before."""
    _, hard = resource.getrlimit(limit)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(limit, (most, most))


def _drop_capabilities() -> None:
    for capability in range(64):  # the kernel has 41 so far, and refuses the others
        _libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    number = _CAPSET.get(os.uname().machine)
    # Who has none must not ask either: a service manager may end processes for that call.
    if number is not None and _has_capabilities():
        head = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
        _libc.syscall(number, head, bytes(24))


def _has_capabilities() -> bool:
    with open("/proc/self/status") as file:
        return any(line.startswith("CapPrm:") and int(line.split()[1], 16) for line in file)


def _control(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl {option}: {os.strerror(code)}")
