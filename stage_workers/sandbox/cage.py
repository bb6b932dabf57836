"""The cage: what the processes of a sandbox are started in, and how it is chosen. Children start nowhere
else.

``namespaces``
    Bubblewrap: file system, processes, IPC and network of their own, in which there is only what they need,
    and an empty folder in memory. Besides that, all that ``landlock`` means.
``landlock``
    For containers that may not make namespaces: what may be read, written and executed is limited by
    Landlock, there are no sockets, and other processes cannot be reached. Temporary files lie on the disk,
    and only the size of each is limited.
``bare``
    Only limits of memory and an environment by allow-list, for who asks for it.

By default the first that works here. In each but ``bare``: another user where this process is root, no
capabilities, no new privileges, a filter of system calls, limits by control groups where they may be made.
"""

from __future__ import annotations

import functools
import itertools
import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from tunemesh.shared.errors import BadInput
from tunemesh.stage_workers.sandbox import cgroups, landlock, seccomp, views
from tunemesh.stage_workers.sandbox.confinement import Confinement, Mode

WANTED = "TUNEMESH_CAGE"
"""``auto``, or one of the modes."""
MODES: tuple[Mode, ...] = get_args(Mode)

TEMPORARY = "/tmp"
"""Empty, and in memory, where there are namespaces; elsewhere it is everybody's, and nothing is written."""
PROBE_LIMIT = 20.0
"""Seconds in which a program that does nothing ends in a cage."""
PROCESSES = 1024
"""Processes and threads of a sandbox at once, and more for each core, of which libraries make threads."""
OVERHEAD = 2**30
"""Bytes for the fork server and for what it has imported, on top of what a child may have."""
_FIRST_USER = 1 << 30
"""Users that nobody is: one for each sandbox, by process id."""
_count = itertools.count()


@dataclass(frozen=True, slots=True)
class Cage:
    """Of one sandbox."""

    mode: Mode
    user: int | None = None
    """Who its processes are, where this process can choose."""
    own_root: bool = False
    """Whether it needs a user namespace: this process is not root, or has not all rights."""
    view: tuple[str, ...] = ()
    """What may be read."""
    devices: tuple[str, ...] = ()
    landlock: int = 0
    """Version of the kernel's interface; 0: none."""
    seccomp: bool = False
    groups: cgroups.Groups = field(default_factory=cgroups.Groups)

    def __str__(self) -> str:
        """For people: what holds the children of this worker."""
        if self.mode == "bare":
            return "bare"
        parts: list[str] = [self.mode]
        if self.user is not None:
            parts.append("own user")
        if self.landlock:
            parts.append(f"landlock {self.landlock}")
        if self.seccomp:
            parts.append("seccomp")
        if self.groups.limits:
            parts.append(f"cgroup ({', '.join(sorted(self.groups.limits))})")
        return ", ".join(parts)

    def command(self, program: Sequence[str], folder: Path, size: int) -> list[str]:
        """How ``program`` is started in it.

        Args:
            folder: the sandbox's folder, see :func:`prepare`.
            size: bytes that its temporary files may have together, where they are limited.
        """
        wrapped = [*self._bubblewrap(folder, size), *program] if self.mode == "namespaces" else [*program]
        if not self.groups.folders:
            return wrapped
        # Into its groups before it is anything else: what it starts is in them, too.
        enter = 'while [ "$1" != -- ]; do echo $$ >"$1/cgroup.procs"; shift; done; shift; exec "$@"'
        return ["/bin/sh", "-c", enter, "sh", *map(str, self.groups.folders), "--", *wrapped]

    def _bubblewrap(self, folder: Path, size: int) -> list[str]:
        given, work = str(folder / "given"), str(folder / "work")
        # First, for what is read may lie in it. Some compilers make temporary files nowhere else.
        command, *others = self.namespaces()
        arguments = [command, "--perms", "1777", "--size", str(size), "--tmpfs", TEMPORARY, *others]
        arguments += [*_ways_to([work]), "--ro-bind", given, given]
        arguments += ["--size", str(size), "--tmpfs", "/dev/shm"]
        arguments += ["--perms", "0777", "--size", str(size), "--tmpfs", work]
        return [*arguments, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", work, "--"]

    def namespaces(self) -> list[str]:
        """Bubblewrap's arguments but for the sandbox's folder."""
        arguments = ["bwrap", "--die-with-parent", "--unshare-ipc", "--unshare-pid", "--unshare-net"]
        arguments += ["--unshare-uts", "--unshare-cgroup-try", "--cap-drop", "ALL"]
        if self.own_root:
            arguments += ["--unshare-user"]
        elif self.user is not None:
            arguments += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
        arguments += _ways_to(self.view)
        for path in self.view:
            arguments += ["--ro-bind", path, path]
        arguments += ["--proc", "/proc", "--dev", "/dev"]
        for device in self.devices:
            arguments += ["--dev-bind", device, device]
        return arguments

    def confinement(self, folder: Path, size: int) -> Confinement:
        """What its processes are told to give up."""
        return Confinement(
            mode=self.mode,
            user=self.user,
            landlock=bool(self.landlock),
            seccomp=self.seccomp,
            readable=[*self.view, str(folder / "given"), "/proc"],
            writable=[str(folder / "work"), TEMPORARY, "/dev/shm"]
            if self.mode == "namespaces"
            else [str(folder / "work")],
            devices=[*views.PLAIN_DEVICES, *self.devices],
            gpu=bool(self.devices),
            file_bytes=size,
            processes=_processes() if self.user is not None or self.own_root else 4 * _processes() + _tasks(),
        )

    def prepare(self, folder: Path) -> None:
        """Make what a sandbox's folder has in it: ``given``, which children can read, and ``work``, where
        they are at home. Raises OSError."""
        for name in ("given", "work"):
            path = folder / name
            path.mkdir()
            path.chmod(0o755)
        if self.user is not None:
            folder.chmod(0o711)
            if self.mode == "landlock":
                os.chown(folder / "work", self.user, self.user)


def _ways_to(paths: Iterable[str]) -> list[str]:
    """Bubblewrap's arguments for the folders above ``paths``; by itself it lets nobody but root pass them."""
    above = {str(folder) for path in paths for folder in Path(path).parents}
    return [each for folder in sorted(above - {"/"}) for each in ("--perms", "0755", "--dir", folder)]


def choose(environment: dict[str, str], *, gpu: bool, memory: int, size: int) -> Cage:
    """The cage of a new sandbox.

    Args:
        environment: that of its processes.
        gpu: whether they measure on a GPU.
        memory: bytes that a child may allocate.
        size: bytes of temporary files.

    Raises:
        BadInput: what was asked for does not work here, or nothing does and nobody has asked for ``bare``.
    """
    wanted = os.environ.get(WANTED, "auto") or "auto"
    if wanted not in ("auto", *MODES):
        raise BadInput(f"{WANTED} is {wanted!r}; known: auto, {', '.join(MODES)}")
    if wanted == "bare":
        return Cage("bare")
    view = tuple(views.readable(environment))
    devices = tuple(views.gpus()) if gpu else ()
    problems = []
    for mode, find in (("namespaces", _namespaces), ("landlock", _landlock)):
        if wanted in ("auto", mode):
            found = find(view, devices)
            if isinstance(found, Cage):
                groups = cgroups.make(memory + size + OVERHEAD, _processes())
                return Cage(
                    found.mode, found.user, found.own_root, view, devices, landlock.version(),
                    not seccomp.missing(), groups,
                )  # fmt: skip
            problems.append(f"{mode}: {found}")
    raise BadInput(
        f"no cage for what is not ours works here ({'; '.join(problems)}). With {WANTED}=bare models, "
        "compilers and kernels run without one, with all rights of this user: only where you trust whoever "
        "sends models"
    )


def _namespaces(view: tuple[str, ...], devices: tuple[str, ...]) -> Cage | str:
    """A cage of this mode, or why there is none."""
    if shutil.which("bwrap") is None:
        return "the package bubblewrap is missing"
    attempts = [Cage("namespaces", None, True, view, devices)]
    if os.geteuid() == 0 and _mapped() and views.readable_by_others([*view]):
        attempts.insert(0, Cage("namespaces", _user(), False, view, devices))
    said = ""
    for attempt in attempts:
        said = _probed(tuple(attempt.namespaces()))
        if not said:
            return attempt
    return said


@functools.lru_cache(maxsize=8)
def _probed(bubblewrap: tuple[str, ...]) -> str:
    """Why a program does not run in it; nothing if it does."""
    try:
        done = subprocess.run(
            [*bubblewrap, "--", "/bin/true"], capture_output=True, text=True, timeout=PROBE_LIMIT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"bubblewrap: {error}"
    return "" if done.returncode == 0 else (done.stderr.strip() or f"exit status {done.returncode}")


def _landlock(view: tuple[str, ...], devices: tuple[str, ...]) -> Cage | str:
    if not landlock.version():
        return "this kernel has no Landlock, or does not let us use it"
    if missing := seccomp.missing():
        return missing
    other = os.geteuid() == 0 and _mapped() and views.readable_by_others([*view]) and views.passable([*view])
    return Cage("landlock", _user() if other else None, False, view, devices)


def _user() -> int:
    return _FIRST_USER + (next(_count) % 64 << 22) + os.getpid()


def _mapped() -> bool:
    """Whether this process may become any user: root of a rootless container may not."""
    try:
        lines = Path("/proc/self/uid_map").read_text().splitlines()
    except OSError:
        return False
    return any(int(first) == 0 and int(count) >= 1 << 31 for first, _, count in map(str.split, lines))


def _processes() -> int:
    return PROCESSES + 16 * (os.cpu_count() or 1)


def _tasks() -> int:
    """Of this user now: where the limit counts all of them, others must not take what a child needs."""
    own, count = os.getuid(), 0
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            try:
                if entry.stat().st_uid == own:
                    count += len(os.listdir(f"/proc/{entry.name}/task"))
            except OSError:
                continue
    return count
