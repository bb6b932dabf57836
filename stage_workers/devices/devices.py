"""Devices by name, and the locks that keep each to one worker per machine.

``cpu:2-3`` are cores, in the notation of ``taskset``; ``cuda:1`` is the GPU that ``nvidia-smi`` calls 1,
whatever ``CUDA_VISIBLE_DEVICES`` says. A lock is held through an open file, by the worker and by all
processes of its sandbox: when a worker is killed, its device is free only once its last child is gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import stat
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from tunemesh.shared.errors import BadInput, Unavailable, unusable
from tunemesh.shared.retry import Retry

log = logging.getLogger(__name__)

LOCK_BACKOFF = (0.05, 0.1, 0.5, 1.0)
"""Seconds between two attempts at the lock of an owner that is dead."""
SMI_TIMEOUT = 30.0
"""Seconds; the driver's first answer after boot is slow."""


@dataclass(frozen=True, slots=True)
class Device:
    """What a profiling worker has for itself."""

    name: str
    """As given: ``cpu:2-3``, ``cuda:1``."""
    inside: str
    """As the engine in the sandbox sees it: ``cpu`` or ``cuda:0``."""
    locks: tuple[str, ...]
    """One lock per thing that nobody else may use: a core, a GPU."""
    cores: frozenset[int] | None = None
    """Cores that the sandbox runs on; ``None`` where the device is not a CPU."""
    cache: int = 0
    """Bytes of the cores' last-level cache; 0 where it is not known, or the device is not a CPU."""
    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """For the sandbox."""

    @property
    def threads(self) -> int:
        """Threads that a kernel may have on the host, where its target does not say how many."""
        return len(self.cores) if self.cores is not None else 1


LAST = "last"
"""The core with the highest number that this process may use: what it is given may not be known before."""


def parse_device(text: str) -> Device:
    """The device called ``text``, which must be on this machine.

    Raises:
        BadInput: it is not the name of a device, or this machine or process does not have it.
        Unavailable: whether this machine has it cannot be known now.
    """
    kind, _, rest = text.partition(":")
    if kind == "cpu":
        cores = frozenset({max(os.sched_getaffinity(0))}) if rest == LAST else parse_cores(rest)
        locks = tuple(f"core-{core}" for core in sorted(cores))
        return Device(text, "cpu", locks, cores, last_level_cache(min(cores)))
    if kind == "cuda" and re.fullmatch(r"\d{1,4}", rest):
        return _cuda(text, int(rest))
    raise BadInput(
        f"{text!r} is no device; expected cpu:<cores> such as cpu:0,2-3, cpu:{LAST}, or cuda:<number>"
    )


def parse_cores(text: str) -> frozenset[int]:
    """Cores from a list such as ``0,2-3``.

    Raises:
        BadInput: it is no such list, or names a core that this process may not use.
    """
    cores: set[int] = set()
    for part in text.split(","):
        found = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", part.strip())
        if found is None:
            raise BadInput(f"{text!r} is no list of cores; expected something like 0,2-3")
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first:
            raise BadInput(f"{part.strip()!r} is no range of cores: it ends before it begins")
        cores.update(range(first, last + 1))
    usable = os.sched_getaffinity(0)
    if missing := sorted(cores - usable):
        names = f"core {missing[0]} is" if len(missing) == 1 else f"cores {_listed(missing)} are"
        raise BadInput(
            f"{names} not on this machine or not allowed to this process; it has {_listed(sorted(usable))}"
        )
    return frozenset(cores)


def last_level_cache(core: int, folder: Path = Path("/sys/devices/system/cpu")) -> int:
    """Bytes of the largest cache of a core, shared or not; 0 where the kernel does not tell."""
    sizes = [0]
    for file in folder.glob(f"cpu{core}/cache/index*/size"):
        with contextlib.suppress(OSError, ValueError):
            sizes.append(int(file.read_text().strip().removesuffix("K")) * 1024)
    return max(sizes)


@dataclass(slots=True)
class DeviceLock:
    """The locks of one device, until :meth:`release`."""

    descriptors: tuple[int, ...]
    """Open files that hold the locks; hand them to every process that works on the device."""

    def release(self) -> None:
        """Let go. Others that were given :attr:`descriptors` still hold on."""
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors = ()


def lock_device(device: Device, folder: Path | None = None) -> DeviceLock:
    """Make ``device`` this process's own.

    Waits where its last owner is dead but a child of it is not gone yet, for as long as that takes.

    Args:
        folder: where the lock files lie; the same for all users of this machine by default.

    Raises:
        BadInput: the lock files cannot be used.
        Unavailable: another process has it, named by its process id; it may be on its way out. Or there is no
            room for the lock files now.
    """
    place = lock_folder() if folder is None else folder
    taken: list[int] = []
    try:
        # In the order of their names, so that two workers never wait for each other.
        for name in device.locks:
            taken.append(_take(place / f"{name}.lock", device.name))
    except BaseException:
        for descriptor in taken:
            os.close(descriptor)
        raise
    return DeviceLock(tuple(taken))


def owner_of(device: Device, folder: Path | None = None) -> int | None:
    """The process that has ``device``, or a part of it, now; ``None`` if it is free, or its owner is dead.

    Raises:
        BadInput: the folder of the lock files cannot be used.
        Unavailable: there is no room for it now.
    """
    place = lock_folder() if folder is None else folder
    for name in device.locks:
        with contextlib.suppress(OSError):
            descriptor = os.open(place / f"{name}.lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = _owner(descriptor)
                if owner.alive:
                    return owner.pid
            finally:
                os.close(descriptor)
    return None


def _take(path: Path, device: str) -> int:
    try:
        descriptor = _open(path)
    except OSError as error:
        raise unusable(f"cannot lock device {device}: {path}", error) from None
    retry, locked = Retry(log, LOCK_BACKOFF), False
    try:
        while not locked:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                locked = True
            except BlockingIOError:
                owner = _owner(descriptor)
                if owner.alive:
                    raise Unavailable(
                        f"device {device} is in use by process {owner} ({path.stem});"
                        " a device serves one worker at a time"
                    ) from None
                # Its children hold the lock until the kernel, or a driver, has let go of them.
                what = f"device {device} is not free: its last owner, process {owner}, is dead"
                time.sleep(retry.failed(f"{what}, but something of it still runs"))
        retry.succeeded(f"device {device} is free")
        _write_name(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _open(path: Path) -> int:
    """Open or make a lock file that every user may lock."""
    with contextlib.suppress(FileNotFoundError):
        # Without O_CREAT: the kernel refuses that for another user's file in a folder like /tmp.
        return os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except FileExistsError:  # somebody was faster
        return os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    os.fchmod(descriptor, 0o666)  # whatever the umask says
    return descriptor


@dataclass(frozen=True, slots=True)
class _Owner:
    """The process that wrote its name into a lock file. Process ids are given again, so the file says as well
    when it was born."""

    pid: int | None
    born: str = ""

    def __str__(self) -> str:
        return str(self.pid or "unknown")

    @property
    def alive(self) -> bool:
        """Whether that process still runs. One that its parent has not collected yet is dead."""
        fields = _stat(self.pid) if self.pid is not None else None
        return fields is not None and fields[0] not in ("Z", "X") and fields[BORN] == self.born


BORN = 19
"""Index of a process's start time (clock ticks since boot) among the fields behind its name."""


def _stat(pid: int) -> list[str] | None:
    """The fields behind the name in ``/proc/<pid>/stat``; ``None`` when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _owner(descriptor: int) -> _Owner:
    fields = os.pread(descriptor, 64, 0).decode(errors="replace").split()
    if len(fields) != 2 or not fields[0].isdigit():
        return _Owner(None)  # it has the lock and has not written its name yet
    return _Owner(int(fields[0]), fields[1])


def _write_name(descriptor: int) -> None:
    fields = _stat(os.getpid())
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()} {fields[BORN] if fields else ''}\n".encode(), 0)


def lock_folder() -> Path:
    """One folder for all users: under ``/run/lock`` where everybody may write there, else under ``/tmp``."""
    root = Path("/run/lock")
    if not (root.is_dir() and root.stat().st_mode & stat.S_IWOTH):
        root = Path("/tmp")
    folder = root / "tunemesh"
    try:
        folder.mkdir(exist_ok=True)
        if folder.stat().st_uid == os.getuid():
            folder.chmod(0o1777)  # whatever the umask says
    except OSError as error:
        raise unusable(f"cannot use {folder} for device locks", error) from None
    return folder


def _cuda(name: str, index: int) -> Device:
    gpus = _gpus()
    if index not in gpus:
        have = f"it has {_listed(sorted(gpus))}" if gpus else "nvidia-smi finds none"
        raise BadInput(f"there is no GPU {index} on this machine; {have}")
    uuid = gpus[index]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        allowed = [each.strip() for each in visible.split(",")]
        if not any(each == str(index) or (len(each) > 4 and uuid.startswith(each)) for each in allowed):
            raise BadInput(f"GPU {index} is not allowed to this process: CUDA_VISIBLE_DEVICES={visible}")
    environment = {
        # The order of nvidia-smi; by default CUDA counts the fastest first.
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": str(index),
    }
    return Device(name, "cuda:0", (f"gpu-{uuid}",), environment=MappingProxyType(environment))


def _gpus() -> dict[int, str]:
    """UUID of every GPU by its number; empty without NVIDIA's driver.

    Raises:
        Unavailable: the driver does not answer now.
    """
    command = ["nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SMI_TIMEOUT, check=True)
    except FileNotFoundError:
        return {}
    except subprocess.CalledProcessError as error:
        said = " ".join((error.stdout or error.stderr or "").split()) or f"status {error.returncode}"
        raise Unavailable(f"nvidia-smi does not name the GPUs of this machine: {said[:300]}") from None
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable(f"nvidia-smi does not name the GPUs of this machine: {error}") from None
    pairs = (line.split(",") for line in done.stdout.splitlines() if line.count(",") == 1)
    return {int(number): uuid.strip() for number, uuid in pairs}


def _listed(cores: list[int]) -> str:
    """``0-3,8``: the notation that :func:`parse_cores` reads."""
    runs: list[list[int]] = []
    for core in cores:
        if runs and core == runs[-1][1] + 1:
            runs[-1][1] = core
        else:
            runs.append([core, core])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
