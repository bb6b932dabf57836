"""Limits for all processes of a sandbox together, where this process may make control groups.

Version 1 is written by root. In version 2 only the root of all groups may have processes of its own and be
divided, so that a delegated group helps: in a unit of systemd, ``Delegate=yes``. Its processes then move into
a group below, unless systemd has started them there (``DelegateSubgroup=worker``, from version 254 on).
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

NAME = "tunemesh-"
BELOW = "worker"
"""Where the processes of a delegated group move to."""
PATIENCE = 2.0
"""Seconds until the last process of a group is gone."""
CONTROLLERS = ("memory", "pids")


@dataclass(frozen=True, slots=True)
class Groups:
    """The control groups of one sandbox: one in version 2, up to two in version 1.

    Args:
        folders: those that a process has to be written into.
        limits: what they limit, of :data:`CONTROLLERS`.
    """

    folders: tuple[Path, ...] = ()
    limits: tuple[str, ...] = ()

    def remove(self) -> None:
        """Once their processes have been killed. What cannot be removed is left to the next sandbox."""
        deadline = time.monotonic() + PATIENCE
        for folder in self.folders:
            while folder.exists() and not _removed(folder) and time.monotonic() < deadline:
                time.sleep(0.01)


def make(memory: int, processes: int, root: Path = Path("/")) -> Groups:
    """Groups with limits, as far as this process may make them; others that nobody uses any more are removed.

    Args:
        memory: bytes of all processes together, temporary files in memory included.
        processes: at once, threads included.
        root: where ``proc`` and the mounted groups are found.
    """
    folders, limits = [], []
    for parent, controllers in _parents(root).items():
        _sweep(parent)
        folder = parent / f"{NAME}{os.getpid()}-{time.monotonic_ns()}"
        try:
            folder.mkdir()
        except OSError:
            continue
        done = [name for name in controllers if _limited(folder, name, memory, processes)]
        if done and _takes_processes(folder):
            folders.append(folder)
            limits += done
        else:
            _removed(folder)
    return Groups(tuple(folders), tuple(limits))


def _parents(root: Path) -> Mapping[Path, list[str]]:
    """Folders of groups that may be divided, and by which controllers."""
    own: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, names, path = line.split(":", 2)
            own |= dict.fromkeys(names.split(","), path)
    found: dict[Path, list[str]] = {}
    for place, kind, options in _mounts(root):
        if kind == "cgroup":
            for name in set(options) & own.keys() & {*CONTROLLERS}:
                found.setdefault(_below(root, place, own[name]), []).append(name)
        elif kind == "cgroup2" and "" in own:
            group = _below(root, place, own[""])
            parent = group.parent if _delegated(group.parent) else _freed(group)
            if passed := _passed_on(parent):
                found[parent] = passed
    return found


def _freed(group: Path) -> Path:
    """A group, from which its processes have moved down if it is delegated."""
    if _delegated(group) and _processes(group):
        below = group / BELOW
        with contextlib.suppress(OSError):
            below.mkdir(exist_ok=True)
            for process in _processes(group):
                (below / "cgroup.procs").write_text(process)
    return group


def _processes(group: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return (group / "cgroup.procs").read_text().split()
    return []


def _mounts(root: Path) -> Iterator[tuple[str, str, list[str]]]:
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/mounts").read_text().splitlines():
            _, place, kind, options, *_ = line.split(" ")
            yield place, kind, options.split(",")


def _below(root: Path, place: str, path: str) -> Path:
    return root / place.lstrip("/") / path.lstrip("/")


def _passed_on(group: Path) -> list[str]:
    """Controllers of version 2 that a new group below ``group`` has.

    A group with processes, other than the root of all, is left alone: some controllers could be passed on,
    but then no group below takes processes any more, whoever made it."""
    if (group / "cgroup.type").exists() and _processes(group):
        return []
    switch = group / "cgroup.subtree_control"
    with contextlib.suppress(OSError):
        for name in CONTROLLERS:
            with contextlib.suppress(OSError):
                if name not in switch.read_text().split():
                    switch.write_text(f"+{name}")
        return [name for name in CONTROLLERS if name in switch.read_text().split()]
    return []


def _delegated(group: Path) -> bool:
    with contextlib.suppress(OSError):
        return os.getxattr(group, "user.delegate") == b"1"
    return False


def _limited(folder: Path, controller: str, memory: int, processes: int) -> bool:
    """Whether a group has its limit now. Swap counts too, where it is counted at all."""
    if controller == "pids":
        return _written(folder / "pids.max", processes)
    if (folder / "memory.max").exists():
        _written(folder / "memory.swap.max", 0)
        return _written(folder / "memory.max", memory)
    done = _written(folder / "memory.limit_in_bytes", memory)
    _written(folder / "memory.memsw.limit_in_bytes", memory)
    return done


def _takes_processes(folder: Path) -> bool:
    """Whether a process can enter a group: one that is to be in it goes on outside where it cannot."""
    enter = ["/bin/sh", "-c", 'echo $$ >"$1/cgroup.procs"', "sh", str(folder)]
    return (
        subprocess.run(enter, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode
        == 0
    )


def _written(file: Path, value: int) -> bool:
    try:
        if not file.exists():  # the kernel's files are there, or are not: nobody makes one
            return False
        file.write_text(str(value))
    except OSError:
        return False
    return True


def _removed(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError:
        return False
    return True


def _sweep(parent: Path) -> None:
    """Groups of workers that were killed."""
    for folder in parent.glob(f"{NAME}*-*"):
        owner = folder.name.removeprefix(NAME).split("-")[0]
        if owner.isdecimal() and not Path("/proc", owner).exists():
            _removed(folder)
