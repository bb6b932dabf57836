"""Engine code runs in here: in a warm child process with limits, so that nothing it does harms the worker.

A crash, a hang or a lack of memory ends one call and one child; the next child is forked from a process that
has everything imported (:mod:`stage_workers.sandbox.forkserver`), in milliseconds. Every child has a socket
of its own, so half a message of a killed child is gone with it, and the end of the child is seen at once.

What happens to the processes while no call runs is nobody's failure: they are started again, as often as it
takes, and the log says so.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from tunemesh.shared import errors
from tunemesh.shared.errors import TunemeshError
from tunemesh.shared.retry import Retry
from tunemesh.shared.text import clip
from tunemesh.stage_workers.sandbox import frames
from tunemesh.stage_workers.sandbox.processes import (
    GONE_LIMIT,
    Abandoned,
    Child,
    Gone,
    Processes,
    cpu_seconds,
    kernel_kills,
    readable,
)

__all__ = ["Abandoned", "CallFailure", "Sandbox"]

log = logging.getLogger(__name__)

PRELOAD_LIMIT = 300.0
"""Seconds until an ordered child is there. Before the first one the fork server imports its engines: 25 s for
TVM alone on a slow core, several times that when all workers of a machine start together."""
LEAST_WAIT = 0.01
"""Seconds between two looks at a child's CPU time; the kernel counts in such steps."""
ATTEMPTS = 3
"""Times that a call is made whose fork server is killed meanwhile: what runs in a child does not do that."""
TURN = 1.0
"""Seconds between two looks at a fork server that is awaited."""

C = TypeVar("C")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CallFailure:
    """Why a call gave no value. ``text`` is one line or a few, for people."""

    kind: Literal["timed-out", "crashed", "out-of-memory", "raised"]
    text: str


class Sandbox:
    """One child process at a time, in which engine methods are called.

    Call :meth:`start` from a thread that lives as long as the sandbox: the kernel ties the processes to it.

    Args:
        preload: engines to import before the first call; others are imported by the call that needs them.
        platforms: those to import before the first call.
        memory: bytes of data that a child may allocate, and of an answer that it may give.
        cpus: cores for the children.
        environment: added to the little that children get of this process's environment
            (:mod:`shared.environment`).
        held: file descriptors (device locks) that stay open as long as any of the processes lives.
        gpu: whether children measure on a GPU, whose device files they get.

    Raises:
        BadInput: no cage works here, or not the one that was asked for (:mod:`stage_workers.sandbox.cage`).
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
        gpu: bool = False,
    ) -> None:
        self._memory = memory
        cores = None if cpus is None else sorted(cpus)
        self._processes = Processes(preload, platforms, memory, cores, environment or {}, held, gpu)
        self._retry = Retry(log)
        self._again_at = 0.0
        """When to look at the processes again after they had to be started anew (monotonic)."""

    def __enter__(self) -> Sandbox:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def cage(self) -> str:
        """What holds its children, for people."""
        return str(self._processes.cage)

    @property
    def given(self) -> Path:
        """A folder of which children can read what this process puts there."""
        return self._processes.given

    @property
    def child_pid(self) -> int | None:
        """Process id of the present child, ``None`` while it is not there yet."""
        child = self._processes.child
        return child.pid if child is not None else None

    def start(self) -> None:
        """Start the fork server and return; it imports the engines meanwhile and then forks a first child."""
        self._processes.start()

    def ready(self, timeout: float) -> bool:
        """Whether a call would start at once, after waiting up to ``timeout`` seconds for it. Processes that
        have ended are started again.

        Raises:
            Abandoned: the sandbox was aborted.
        """
        return self._child_by(time.monotonic() + timeout) is not None

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
        protocol, name = frames.protocol_of(method), method.__name__
        # Nothing else holds the record's bytes while it is away: they may be those of a large model.
        request = msgspec.msgpack.encode(
            frames.Call(protocol, callee, name, msgspec.Raw(msgspec.msgpack.encode(record)))
        )
        if len(request) > self._memory:  # the child would not even read it
            return CallFailure("out-of-memory", self._exceeded())
        for attempt in range(1, ATTEMPTS + 1):
            while (child := self._child_by(time.monotonic() + TURN)) is None:
                pass
            self._processes.forget_output()
            deadline = time.monotonic() + timeout
            try:
                reply = self._exchange(child, request, deadline, cpu_limit)
                break
            except TimeoutError as error:
                return self._failed("timed-out", str(error) or f"exceeded {timeout:g} s")
            except frames.TooLong as error:
                return self._failed("crashed", f"{error}; it may allocate {self._memory:,}")
            except Gone:
                status = self._processes.wait_status()
                if status is not None:
                    return self._death(status)
                failure = self._failed("crashed", "the sandbox's processes were killed")
                if attempt == ATTEMPTS:
                    return failure
                log.warning("the fork server ended during %s; calling again", name)
        match reply.kind:
            case "value":
                try:
                    value: T = msgspec.msgpack.decode(reply.value, type=frames.answer_type(method))
                    return value
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    return CallFailure(
                        "raised", f"{protocol.lower()} {callee} gave an invalid answer: {error}"
                    )
            case "refused":
                raise _refusal(reply)
            case "out-of-memory":
                # What it allocated may still hang in caches and frames.
                return self._failed("out-of-memory", self._exceeded())
            case "raised":
                return CallFailure("raised", reply.text)

    def renew(self) -> None:
        """Let the next call find a process that has run nothing yet.

        Raises:
            Abandoned: the sandbox was aborted.
        """
        self._replace_child()

    def abort(self) -> None:
        """End whatever runs, from any thread or signal handler's thread. Nothing can be called any more."""
        self._processes.abort()

    def stop(self) -> None:
        """End all processes of the sandbox and wait until they are gone. Idempotent."""
        self._processes.stop()

    # -- One call ----------------------------------------------------------------------------------------

    def _exchange(
        self, child: Child, request: bytes, deadline: float, cpu_limit: float | None
    ) -> frames.Reply:
        try:
            child.peer.settimeout(max(deadline - time.monotonic(), 0.001))
            frames.send(child.peer, request)
            if cpu_limit is not None:
                _await_or_exceed(child, min(cpu_limit, deadline - time.monotonic()), deadline)
            if not readable(child.peer, deadline):
                raise TimeoutError
            # It has begun to answer: let it finish.
            try:
                frame = frames.receive(child.peer, self._memory, time.monotonic() + GONE_LIMIT)
            except TimeoutError:
                raise TimeoutError(f"began to answer and did not finish within {GONE_LIMIT:g} s") from None
        except ConnectionError as error:
            raise Gone from error
        if frame is None:
            raise Gone
        try:
            return msgspec.msgpack.decode(frame, type=frames.Reply)
        except msgspec.DecodeError as error:
            raise Gone from error

    def _death(self, status: int) -> CallFailure:
        """The child has ended in the middle of a call: say how."""
        if not os.WIFSIGNALED(status):
            return self._failed("crashed", f"exited with status {os.WEXITSTATUS(status)}")
        number, tail = os.WTERMSIG(status), self._processes.tail()
        if number == signal.SIGPROF:
            return self._failed("timed-out", "exceeded the CPU time that its engine gave it")
        # C++ answers a failed allocation with an exception that nobody catches: libraries report and abort.
        if number == signal.SIGABRT and any(sign in tail for sign in ("bad_alloc", "ut of memory")):
            return self._failed("out-of-memory", self._exceeded())
        if number == signal.SIGKILL and kernel_kills() > self._processes.kernel_kills:
            return self._failed("out-of-memory", "killed by the kernel, which had no memory left")
        return self._failed("crashed", f"killed by {signal.Signals(number).name}")

    def _failed(self, kind: Literal["timed-out", "crashed", "out-of-memory"], text: str) -> CallFailure:
        """Make sure that the child is gone, order the next one, and report."""
        tail = self._processes.tail()
        self._replace_child()
        return CallFailure(kind, clip(f"{text}: {tail}" if tail else text))

    def _exceeded(self) -> str:
        return f"exceeded {self._memory / 2**30:.3g} GiB of memory"

    # -- Children ----------------------------------------------------------------------------------------

    def _child_by(self, deadline: float) -> Child | None:
        """A child that waits for work, ``None`` if there is none at the deadline. Processes that have ended
        are started again, with growing pauses."""
        processes = self._processes
        pause = self._again_at - time.monotonic()
        if pause > 0:
            if processes.aborted.wait(max(min(pause, deadline - time.monotonic()), 0.0)):
                raise Abandoned
            if time.monotonic() < self._again_at:
                return None
        try:
            child = processes.await_child(deadline)
        except Gone:
            end = processes.forkserver_end()
            problem = f"the fork server has ended ({end})"
            if (engine := processes.leave_out()) is not None:
                log.warning("engine %s ends the process that imports it (%s); it serves nothing", engine, end)
        else:
            if child is not None and processes.idle(child):
                self._retry.succeeded("the sandbox is ready again")
                return child
            if child is not None:
                problem = "the sandbox's child, or its fork server, ended before it was asked for anything"
            elif time.monotonic() - processes.ordered > PRELOAD_LIMIT:
                problem = f"the fork server has not imported its engines after {PRELOAD_LIMIT:.0f} s"
            else:
                return None
        self._again_at = time.monotonic() + self._retry.failed(problem)
        self._replace_child()
        return None

    def _replace_child(self) -> None:
        """Order another child, from another fork server if the present one is not able to."""
        processes = self._processes
        if processes.child is not None and processes.child.pid is not None:
            processes.kill_child()
            processes.wait_status()
        if processes.aborted.is_set():
            raise Abandoned
        try:
            if processes.child is None and processes.running:
                processes.order_child()
            else:  # its fork server is gone too, or cannot get rid of it
                processes.restart()
        except OSError as error:  # no room for a process: the next look at the child tries again
            log.warning("cannot start the sandbox's processes now: %s", error)


def _await_or_exceed(child: Child, cpu_limit: float, deadline: float) -> None:
    """Return when the child has answered, or at the deadline.

    Raises:
        TimeoutError: it had more than ``cpu_limit`` seconds of CPU time before.
    """
    assert child.pid is not None
    before, left = cpu_seconds(child.pid), cpu_limit
    while not readable(child.peer, min(time.monotonic() + left, deadline)):
        left = cpu_limit - (cpu_seconds(child.pid) - before)
        if time.monotonic() >= deadline:
            return
        if left <= 0:
            raise TimeoutError(f"exceeded {cpu_limit:.3g} s of CPU time")
        left = max(left, LEAST_WAIT)


def _refusal(reply: frames.Reply) -> TunemeshError:
    kind: Any = getattr(errors, reply.error, TunemeshError)
    return kind(reply.text) if issubclass(kind, TunemeshError) else TunemeshError(reply.text)
