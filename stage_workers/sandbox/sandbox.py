"""Engine code runs in here: in a warm child process with limits, so that nothing it does harms the worker.

A crash, a hang or a lack of memory ends one call and one child; the next child is forked from a process that
has everything imported (:mod:`stage_workers.sandbox.forkserver`), in milliseconds. Every child has a socket
of its own, so half a message of a killed child is gone with it, and the end of the child is seen at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from tunemesh.shared import errors
from tunemesh.shared.errors import TunemeshError
from tunemesh.shared.text import clip
from tunemesh.stage_workers.sandbox import frames
from tunemesh.stage_workers.sandbox.forkserver import NUMBER, NurserySettings

PRELOAD_LIMIT = 300.0
"""Seconds that a nursery may take to import its engines: 25 s for TVM alone on a slow core, several times
that when all workers of a machine start together."""
GONE_LIMIT = 10.0
"""Seconds until a killed process is really gone; a driver may hold it for a while."""
LEAST_WAIT = 0.01
"""Seconds between two looks at a child's CPU time; the kernel counts in such steps."""
TAIL = 600
"""Characters of a dead child's output that go into the error text."""

C = TypeVar("C")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CallFailure:
    """Why a call gave no value. ``text`` is one line or a few, for people."""

    kind: Literal["timed-out", "crashed", "out-of-memory", "raised"]
    text: str


class Abandoned(Exception):
    """The sandbox was aborted; the call has no result."""


class _Gone(Exception):
    """The child or its nursery has ended."""


@dataclass(slots=True)
class _Child:
    peer: socket.socket
    pid: int | None = None
    """Known once the nursery has forked it."""


class Sandbox:
    """One child process at a time, in which engine methods are called.

    Call :meth:`start` from a thread that lives as long as the sandbox: the kernel ties the processes to it.

    Args:
        preload: engines to import before the first call; others are imported by the call that needs them.
        platforms: those to import before the first call.
        memory: bytes of data that a child may allocate.
        cpus: cores for the children.
        environment: added to this process's environment.
        held: file descriptors (device locks) that stay open as long as any of the processes lives.
    """

    def __init__(
        self,
        preload: Sequence[str] = (),
        *,
        platforms: Sequence[str] = (),
        memory: int,
        cpus: Collection[int] | None = None,
        environment: Mapping[str, str] | None = None,
        held: Sequence[int] = (),
    ) -> None:
        self._preload = list(preload)
        self._platforms = list(platforms)
        self._memory = memory
        self._cpus = None if cpus is None else sorted(cpus)
        self._environment = {**os.environ, **(environment or {})}
        self._held = tuple(held)
        self._output = tempfile.TemporaryFile(prefix="tunemesh-sandbox-", buffering=0)  # noqa: SIM115
        # The processes share our file position: appending is what keeps them right after a truncation.
        fcntl.fcntl(self._output, fcntl.F_SETFL, os.O_RDWR | os.O_APPEND)
        self._nursery: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._child: _Child | None = None
        self._kernel_kills = 0
        """Of this machine, for want of memory, before the present child."""
        self._aborted = False
        self._lock = threading.Lock()
        """Between starting a nursery and aborting: an abort must not miss one that is being started."""

    def __enter__(self) -> Sandbox:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def child_pid(self) -> int | None:
        """Process id of the present child, ``None`` while it is not there yet."""
        return self._child.pid if self._child is not None else None

    def start(self) -> None:
        """Start the nursery and return; it imports the engines meanwhile and then forks the first child."""
        with self._lock:
            if self._aborted:
                raise Abandoned
            ours, theirs = socket.socketpair()
            settings = NurserySettings(
                parent=os.getpid(),
                control=theirs.fileno(),
                preload=self._preload,
                platforms=self._platforms,
                memory=self._memory,
                cpus=self._cpus,
            )
            # Not ``-m``: the path of this process decides what is imported, not the folder it was started in.
            code = (
                f"import sys; sys.path[:] = {json.dumps([p or os.getcwd() for p in sys.path])};"
                " from tunemesh.stage_workers.sandbox.forkserver import main; main(sys.argv[1])"
            )
            with theirs:
                self._nursery = subprocess.Popen(
                    [sys.executable, "-u", "-c", code, msgspec.json.encode(settings).decode()],
                    stdin=subprocess.DEVNULL,
                    stdout=self._output,
                    stderr=self._output,
                    env=self._environment,
                    pass_fds=(theirs.fileno(), *self._held),
                    start_new_session=True,  # Ctrl-C at the terminal is for the worker
                )
            self._control = ours
        self._order_child()

    def ready(self, timeout: float) -> bool:
        """Whether a call would start at once, after waiting up to ``timeout`` seconds for it.

        Raises:
            Abandoned: the sandbox was aborted.
        """
        try:
            return self._await_child(time.monotonic() + timeout) is not None
        except _Gone:
            return True  # the next call starts it anew, and reports what is wrong if it fails again

    def call(
        self,
        callee: str,
        method: Callable[[Any, C], T],
        record: C,
        timeout: float,
        cpu_limit: float | None = None,
    ) -> T | CallFailure:
        """Call a method of the engine or the platform that is called ``callee``, in the child.

        Args:
            method: that of the protocol: ``Engine.build``, ``Platform.profile``.
            record: its argument.
            timeout: seconds from when the child is ready.
            cpu_limit: seconds in which it has a core, so that they mean the same on a busy machine.

        Raises:
            TunemeshError: what was raised on purpose (``BadModel``, ``BadTarget``).
            Abandoned: the sandbox was aborted meanwhile.
        """
        protocol = frames.protocol_of(method)
        who = f"{protocol.lower()} {callee}"
        call = frames.Call(protocol, callee, method.__name__, msgspec.Raw(msgspec.msgpack.encode(record)))
        request = msgspec.msgpack.encode(call)
        try:
            child = self._fresh_child()
        except _Gone:
            return self._failed("crashed", f"{who} could not be started")
        self._output.truncate(0)
        deadline = time.monotonic() + timeout
        try:
            reply = self._exchange(child, request, deadline, cpu_limit)
        except TimeoutError as error:
            return self._failed("timed-out", str(error) or f"exceeded {timeout:g} s")
        except _Gone:
            return self._death()
        match reply.kind:
            case "value":
                try:
                    value: T = msgspec.msgpack.decode(reply.value, type=frames.answer_type(method))
                    return value
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    return CallFailure("raised", f"{who} gave an invalid answer: {error}")
            case "refused":
                raise _refusal(reply)
            case "out-of-memory":
                # What it allocated may still hang in caches and frames.
                return self._failed("out-of-memory", self._exceeded())
            case "raised":
                return CallFailure("raised", reply.text)

    def abort(self) -> None:
        """End whatever runs, from any thread or signal handler's thread. Nothing can be called any more."""
        self._aborted = True
        self._kill()

    def stop(self) -> None:
        """End all processes of the sandbox and wait until they are gone. Idempotent."""
        self._aborted = True
        self._kill()
        with self._lock:
            self._bury()
        self._output.close()

    # -- One call ----------------------------------------------------------------------------------------

    def _exchange(
        self, child: _Child, request: bytes, deadline: float, cpu_limit: float | None
    ) -> frames.Reply:
        try:
            child.peer.settimeout(max(deadline - time.monotonic(), 0.001))
            frames.send(child.peer, request)
            if cpu_limit is not None:
                _await_or_exceed(child, min(cpu_limit, deadline - time.monotonic()), deadline)
            if not _readable(child.peer, deadline):
                raise TimeoutError
            # It has begun to answer: let it finish.
            frame = frames.receive(child.peer, time.monotonic() + GONE_LIMIT)
        except ConnectionError as error:
            raise _Gone from error
        if frame is None:
            raise _Gone
        try:
            return msgspec.msgpack.decode(frame, type=frames.Reply)
        except msgspec.DecodeError as error:
            raise _Gone from error

    def _death(self) -> CallFailure:
        """The child has ended in the middle of a call: say how."""
        status = self._wait_status()
        if status is None:
            return self._failed("crashed", "the sandbox's process was killed")
        if not os.WIFSIGNALED(status):
            return self._failed("crashed", f"exited with status {os.WEXITSTATUS(status)}")
        number = os.WTERMSIG(status)
        if number == signal.SIGPROF:
            return self._failed("timed-out", "exceeded the CPU time that its engine gave it")
        # C++ answers a failed allocation with an exception that nobody catches: libraries report and abort.
        if number == signal.SIGABRT and any(sign in self._tail() for sign in ("bad_alloc", "ut of memory")):
            return self._failed("out-of-memory", self._exceeded())
        if number == signal.SIGKILL and _kernel_kills() > self._kernel_kills:
            return self._failed("out-of-memory", "killed by the kernel, which had no memory left")
        return self._failed("crashed", f"killed by {signal.Signals(number).name}")

    def _wait_status(self) -> int | None:
        """The wait status of the child that has just ended, from its nursery."""
        control = self._control
        assert control is not None
        if not _readable(control, time.monotonic() + GONE_LIMIT):
            return None
        with contextlib.suppress(OSError):
            data = frames.receive_exactly(control, NUMBER.size)
            if data is not None:
                self._close_child()
                return int(NUMBER.unpack(data)[0])
        return None

    def _failed(self, kind: Literal["timed-out", "crashed", "out-of-memory"], text: str) -> CallFailure:
        """Make sure that the child is gone, order the next one, and report."""
        tail = self._tail()
        if self._child is not None and self._child.pid is not None:
            self._kill_group(self._child)
            self._wait_status()
        if self._aborted:
            raise Abandoned
        if self._child is None:
            self._order_child()
        else:  # its nursery is gone too, or cannot get rid of it
            self._restart()
        return CallFailure(kind, clip(f"{text}: {tail}" if tail else text))

    def _tail(self) -> str:
        """The end of what the child has written to its standard output and error, as one line."""
        file = self._output.fileno()
        size = os.fstat(file).st_size
        text = os.pread(file, 4 * TAIL, max(size - 4 * TAIL, 0)).decode(errors="replace")
        return " | ".join(line.strip() for line in text.splitlines() if line.strip())[-TAIL:]

    def _exceeded(self) -> str:
        return f"exceeded {self._memory / 2**30:.3g} GiB of memory"

    # -- Children ----------------------------------------------------------------------------------------

    def _order_child(self) -> None:
        """Ask the nursery for a child; it forks as soon as it can."""
        control = self._control
        assert control is not None
        ours, theirs = socket.socketpair()
        self._child = _Child(ours)
        self._kernel_kills = _kernel_kills()
        with theirs, contextlib.suppress(OSError):  # a dead nursery is noticed when the child is awaited
            socket.send_fds(control, [b"f"], [theirs.fileno()])

    def _fresh_child(self) -> _Child:
        """A child that waits for work; one that has died while idle, or with its nursery, is replaced."""
        for _ in range(3):
            try:
                child = self._await_child(time.monotonic() + PRELOAD_LIMIT)
            except _Gone:
                self._restart()
                continue
            if child is None:
                break
            if not _readable(child.peer, 0.0):
                return child
            self._kill_group(child)
            if self._wait_status() is None:
                self._restart()
            else:
                self._order_child()
        raise _Gone

    def _await_child(self, deadline: float) -> _Child | None:
        """The child once it is there, ``None`` at the deadline; raises ``_Gone`` with the nursery."""
        if self._aborted:
            raise Abandoned
        child, control = self._child, self._control
        if child is None or control is None:
            raise _Gone
        if child.pid is None:
            if not _readable(control, deadline):
                return None
            try:
                data = frames.receive_exactly(control, NUMBER.size)
            except OSError:
                data = None
            if self._aborted:
                raise Abandoned
            if data is None:
                raise _Gone
            child.pid = int(NUMBER.unpack(data)[0])
        return child

    def _restart(self) -> None:
        self._kill()
        with self._lock:
            self._bury()
        self.start()

    def _kill(self) -> None:
        """SIGKILL to everything; the kernel passes it on from the nursery to its child."""
        with self._lock:
            if self._child is not None:
                self._kill_group(self._child)
            if self._nursery is not None:
                self._nursery.kill()

    @staticmethod
    def _kill_group(child: _Child) -> None:
        if child.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)

    def _bury(self) -> None:
        if self._nursery is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._nursery.wait(GONE_LIMIT)
        self._close_child()
        if self._control is not None:
            self._control.close()
        self._control = self._nursery = None

    def _close_child(self) -> None:
        if self._child is not None:
            self._child.peer.close()
        self._child = None


def _readable(peer: socket.socket, deadline: float) -> bool:
    """Whether there is something to read (or the peer is gone) before ``deadline`` (monotonic)."""
    poll = select.poll()
    poll.register(peer, select.POLLIN)
    return bool(poll.poll(max(deadline - time.monotonic(), 0.0) * 1000))


def _await_or_exceed(child: _Child, cpu_limit: float, deadline: float) -> None:
    """Return when the child has answered, or at the deadline.

    Raises:
        TimeoutError: it had more than ``cpu_limit`` seconds of CPU time before.
    """
    assert child.pid is not None
    before, left = _cpu_seconds(child.pid), cpu_limit
    while not _readable(child.peer, min(time.monotonic() + left, deadline)):
        left = cpu_limit - (_cpu_seconds(child.pid) - before)
        if time.monotonic() >= deadline:
            return
        if left <= 0:
            raise TimeoutError(f"exceeded {cpu_limit:.3g} s of CPU time")
        left = max(left, LEAST_WAIT)


def _cpu_seconds(pid: int) -> float:
    """CPU time so far of a process, all its threads; 0 when it is gone."""
    try:
        # Behind the name, which may hold anything, user and system time are the 12th and 13th field.
        fields = Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _kernel_kills() -> int:
    """How many processes the kernel has killed for want of memory since it booted."""
    with contextlib.suppress(OSError), open("/proc/vmstat") as file:
        return next((int(line.split()[1]) for line in file if line.startswith("oom_kill ")), 0)
    return 0


def _refusal(reply: frames.Reply) -> TunemeshError:
    kind: Any = getattr(errors, reply.error, TunemeshError)
    return kind(reply.text) if issubclass(kind, TunemeshError) else TunemeshError(reply.text)
