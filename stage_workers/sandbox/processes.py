"""The fork server and its present child, as the worker sees them: started, asked, awaited, killed, counted.

Nothing of the worker's surroundings reaches them but what is meant to: the environment is chosen by an
allow-list, the folders for work and for temporary files are their own, and Python adds none to its path by
itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

import tunemesh
from tunemesh.shared import environment as environments
from tunemesh.stage_workers.sandbox import cage, frames
from tunemesh.stage_workers.sandbox.forkserver import NUMBER, TEMPORARY, ForkserverSettings

GONE_LIMIT = 10.0
"""Seconds until a killed process is really gone; a driver may hold it for a while."""
PREFIX = "tunemesh-scratch-"
"""Of the names of working folders."""
UNLOCKED_LIMIT = 60.0
"""Seconds after which a working folder that nobody has locked has no owner."""
LEAST_SCRATCH = 64 * 2**20
"""Bytes of temporary files that children may have in any case; else half of the memory."""
TAIL = 600
"""Characters of the processes' output that go into an error text."""

# Behind everything else on the path, so that it shadows nothing: this package need not be installed.
_CODE = (
    "import sys; sys.path.append(sys.argv[2]);"
    " from tunemesh.stage_workers.sandbox.forkserver import main; main(sys.argv[1])"
)


class Abandoned(Exception):
    """The sandbox was aborted; the call has no result."""


class Gone(Exception):
    """The child or its fork server has ended."""


@dataclass(slots=True)
class Child:
    """A child that was ordered."""

    peer: socket.socket
    pid: int | None = None
    """Known once the fork server has forked it."""


class Processes:
    """One fork server and one child of it at a time.

    Args:
        preload: engines to import before the first child is forked.
        platforms: those to import before that.
        memory: bytes of data that a child may allocate.
        cpus: cores for all of them.
        environment: added to what they get of this process's environment.
        held: file descriptors that stay open as long as any of them lives.
        gpu: whether they measure on a GPU.

    Raises:
        BadInput: no cage works here, or not the one that was asked for.
    """

    def __init__(
        self,
        preload: Sequence[str],
        platforms: Sequence[str],
        memory: int,
        cpus: Sequence[int] | None,
        environment: Mapping[str, str],
        held: Sequence[int],
        gpu: bool,
    ) -> None:
        self.child: Child | None = None
        self.ordered = 0.0
        """When the present child was ordered (monotonic)."""
        self.kernel_kills = 0
        """Processes that the kernel had killed for want of memory before the present child."""
        self.aborted = threading.Event()
        self._preload = list(preload)
        self._platforms = list(platforms)
        self._memory = memory
        self._cpus = None if cpus is None else list(cpus)
        self._held = tuple(held)
        self._size = max(memory // 2, LEAST_SCRATCH)
        self.cage = cage.choose(environments.for_child(environment), gpu=gpu, memory=memory, size=self._size)
        self._output = tempfile.TemporaryFile(prefix="tunemesh-sandbox-", buffering=0)  # noqa: SIM115
        # The processes share our file position: appending is what keeps them right after a truncation.
        fcntl.fcntl(self._output, fcntl.F_SETFL, os.O_RDWR | os.O_APPEND)
        sweep(Path(tempfile.gettempdir()))
        self._scratch = tempfile.mkdtemp(prefix=PREFIX)
        self._owned: int | None = os.open(self._scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self._owned, fcntl.LOCK_EX)
        folder = Path(self._scratch)
        self.given = folder / "given"
        """A folder of which children can read what this process puts there."""
        self._work = folder / "work"
        own = {"HOME": str(self._work), "TMPDIR": str(self._work / TEMPORARY)}
        self._environment = environments.for_child({**environment, **own})
        self.cage.prepare(folder)
        self._importing: str | None = None
        """The engine that the fork server imports now."""
        self._forkserver: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._lock = threading.Lock()
        """Between starting a fork server and aborting: an abort must not miss one that is being started."""

    # -- Starting and ending -----------------------------------------------------------------------------

    def start(self) -> None:
        """Start the fork server and order the first child.

        Raises:
            Abandoned: they were aborted before.
            OSError: this machine has no room for a process.
        """
        with self._lock:
            if self.aborted.is_set():
                raise Abandoned
            ours, theirs = socket.socketpair()
            settings = ForkserverSettings(
                parent=None if self.cage.mode == "namespaces" else os.getpid(),
                control=theirs.fileno(),
                preload=self._preload,
                platforms=self._platforms,
                folder=self._scratch,
                scratch=str(self._work),
                confinement=self.cage.confinement(Path(self._scratch), self._size),
                alone=self.cage.mode == "namespaces" or self.cage.user is not None,
                memory=self._memory,
                cpus=self._cpus,
            )
            root = str(Path(tunemesh.__file__).resolve().parents[1])
            self._control, self._importing = ours, None
            program = [sys.executable, "-P", "-u", "-c", _CODE, msgspec.json.encode(settings).decode(), root]
            with theirs:
                self._forkserver = subprocess.Popen(
                    self.cage.command(program, Path(self._scratch), self._size),
                    stdin=subprocess.DEVNULL,
                    stdout=self._output,
                    stderr=self._output,
                    env=self._environment,
                    cwd=self._work,
                    pass_fds=(theirs.fileno(), *self._held),
                    start_new_session=True,  # Ctrl-C at the terminal is for the worker
                )
        self.order_child()

    def restart(self) -> None:
        """Kill what is there and start anew. Raises as :meth:`start` does."""
        self.kill()
        with self._lock:
            self._bury()
        self.start()

    def abort(self) -> None:
        """End everything, from any thread. Nothing is started again."""
        self.aborted.set()
        self.kill()

    def stop(self) -> None:
        """End everything and wait until it is gone. Idempotent."""
        self.abort()
        with self._lock:
            self._bury()
        self._output.close()
        if self._owned is not None:
            os.close(self._owned)
            self._owned = None
        shutil.rmtree(self._scratch, ignore_errors=True)
        self.cage.groups.remove()

    def kill(self) -> None:
        """SIGKILL to everything; the kernel passes it on from the fork server to its child."""
        with self._lock:
            self.kill_child()
            if self._forkserver is not None:
                self._forkserver.kill()

    def kill_child(self) -> None:
        """SIGKILL to the child, and to all that it has started."""
        if self.child is not None and self.child.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.child.pid, signal.SIGKILL)

    def _bury(self) -> None:
        if self._forkserver is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._forkserver.wait(GONE_LIMIT)
        if self._control is not None:
            _await_end(self._control)
        self._close_child()
        if self._control is not None:
            self._control.close()
        self._control = self._forkserver = None

    def _close_child(self) -> None:
        if self.child is not None:
            self.child.peer.close()
        self.child = None

    @property
    def running(self) -> bool:
        """Whether there is a fork server to ask; it may have ended by itself since."""
        return self._forkserver is not None and self._control is not None

    # -- The child ---------------------------------------------------------------------------------------

    def order_child(self) -> None:
        """Ask the fork server for a child; it forks as soon as it can."""
        control = self._control
        assert control is not None
        ours, theirs = socket.socketpair()
        self.child = Child(ours)
        self.ordered = time.monotonic()
        self.kernel_kills = kernel_kills()
        with theirs, contextlib.suppress(OSError):  # a dead fork server is noticed when the child is awaited
            socket.send_fds(control, [b"f"], [theirs.fileno()])

    def await_child(self, deadline: float) -> Child | None:
        """The child once it is there, ``None`` at the deadline (monotonic).

        Raises:
            Gone: the fork server has ended.
            Abandoned: they were aborted.
        """
        if self.aborted.is_set():
            raise Abandoned
        child, control = self.child, self._control
        if child is None or control is None:
            raise Gone
        while child.pid is None:
            if not readable(control, deadline):
                return None
            data, descriptors = b"", list[int]()
            with contextlib.suppress(OSError):
                data, descriptors, _, _ = socket.recv_fds(control, NUMBER.size, 1)
            number = _named(descriptors)
            if self.aborted.is_set():
                raise Abandoned
            if len(data) < NUMBER.size:
                raise Gone
            if number is not None:
                if number <= 0:  # it has ended before it was of any use
                    raise Gone
                child.pid = number
                continue
            number = int(NUMBER.unpack(data)[0])
            if number > 0:
                raise Gone
            self._importing = self._preload[-number] if -number < len(self._preload) else None
        return child

    def leave_out(self) -> str | None:
        """The engine whose import has ended the fork server, if that is what did. It is not imported in
        advance any more, so that the others can be. Call it after :meth:`forkserver_end`."""
        name = self._importing
        # SIGKILL comes from outside: the kernel's, for want of memory, or a person's.
        if name is None or self._return_code() in (None, -signal.SIGKILL):
            return None
        self._preload.remove(name)
        self._importing = None
        return name

    def idle(self, child: Child) -> bool:
        """Whether ``child`` waits for work. Its fork server may have been killed a moment earlier than it."""
        control = self._control
        return control is not None and not readable(child.peer, 0.0) and not readable(control, 0.0)

    def wait_status(self) -> int | None:
        """The wait status of the child that has just ended, from its fork server; ``None`` without one."""
        control = self._control
        if control is None or not readable(control, time.monotonic() + GONE_LIMIT):
            return None
        with contextlib.suppress(OSError):
            data = frames.receive_exactly(control, NUMBER.size)
            if data is not None:
                self._close_child()
                return int(NUMBER.unpack(data)[0])
        return None

    # -- What is known of them ---------------------------------------------------------------------------

    def forkserver_end(self) -> str:
        """How the fork server has ended, and what it said last."""
        forkserver = self._forkserver
        if forkserver is None:
            return "it could not be started"
        with contextlib.suppress(subprocess.TimeoutExpired):
            forkserver.wait(1.0)
        code = self._return_code()
        if code is None:
            how = "it does not answer"
        else:
            how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"
        said = self.tail()
        return f"{how}: {said}" if said else how

    def _return_code(self) -> int | None:
        """The fork server's, a signal as a negative number; ``None`` while it runs."""
        code = self._forkserver.returncode if self._forkserver is not None else None
        # Bubblewrap says it as a shell does.
        return 128 - code if code is not None and code > 128 and self.cage.mode == "namespaces" else code

    def forget_output(self) -> None:
        """What was written until now belongs to no later call."""
        self._output.truncate(0)

    def tail(self) -> str:
        """The end of what was written to standard output and error, as one line."""
        file = self._output.fileno()
        size = os.fstat(file).st_size
        text = os.pread(file, 4 * TAIL, max(size - 4 * TAIL, 0)).decode(errors="replace")
        return " | ".join(line.strip() for line in text.splitlines() if line.strip())[-TAIL:]


def sweep(folder: Path) -> None:
    """Remove the sandboxes' working folders whose workers are gone: nobody holds their locks."""
    for each in folder.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # another user's, or gone
            descriptor = os.open(each, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # A worker makes its folder a moment before it locks it.
                if time.time() - os.fstat(descriptor).st_ctime > UNLOCKED_LIMIT:
                    shutil.rmtree(each, ignore_errors=True)
            finally:
                os.close(descriptor)


def _named(descriptors: Sequence[int]) -> int | None:
    """The process that a descriptor stands for, by the number that it has here: 0 or less when it is gone,
    ``None`` without a descriptor."""
    for descriptor in descriptors:
        try:
            text = Path(f"/proc/self/fdinfo/{descriptor}").read_text()
        finally:
            os.close(descriptor)
        return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("Pid:")), 0)
    return None


def _await_end(control: socket.socket) -> None:
    """Return when nobody has the other end of a socket any more: a namespace ends after its first process."""
    deadline = time.monotonic() + GONE_LIMIT
    with contextlib.suppress(OSError):
        while readable(control, deadline) and control.recv(1024):
            pass


def readable(peer: socket.socket, deadline: float) -> bool:
    """Whether there is something to read (or the peer is gone) before ``deadline`` (monotonic)."""
    poll = select.poll()
    poll.register(peer, select.POLLIN)
    return bool(poll.poll(max(deadline - time.monotonic(), 0.0) * 1000))


def cpu_seconds(pid: int) -> float:
    """CPU time so far of a process, all its threads; 0 when it is gone."""
    try:
        # Behind the name, which may hold anything, user and system time are the 12th and 13th field.
        fields = Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def kernel_kills() -> int:
    """How many processes the kernel has killed for want of memory since it booted."""
    with contextlib.suppress(OSError), open("/proc/vmstat") as file:
        return next((int(line.split()[1]) for line in file if line.startswith("oom_kill ")), 0)
    return 0
