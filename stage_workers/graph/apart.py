"""Work in a process of its own, a copy of this one: where it crashes or hangs, this one goes on."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import time
from collections.abc import Callable

from tunemesh.shared.text import clip
from tunemesh.stage_workers.graph.errors import first_line

PR_SET_PDEATHSIG = 1
BLOCK = 1 << 16


class Died(Exception):
    """The work came to no end; the text says why, on one line."""


def run(work: Callable[[], bytes], limit: float) -> bytes:
    """What ``work`` gives, called in a copy of this process that has ``limit`` seconds.

    It must be called where no other thread of this process holds a lock that ``work`` needs: the copy has
    only the thread that called.

    Raises:
        Died: it raised, crashed, or did not end in time.
    """
    reader, writer = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _run(work, writer, parent)
    os.close(writer)
    try:
        answer = _read(reader, time.monotonic() + limit)
    finally:
        os.close(reader)
        os.kill(pid, signal.SIGKILL)  # it is not waited for yet, so the number is still its own
        _, status = os.waitpid(pid, 0)
    if answer is None:
        raise Died(f"took more than {limit:.0f} s")
    if answer[:1] == b"+":
        return answer[1:]
    if answer[:1] == b"-":
        raise Died(answer[1:].decode(errors="replace"))
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    raise Died(f"TVM crashed ({signal.Signals(number).name})" if number else "TVM ended the process")


def _run(work: Callable[[], bytes], writer: int, parent: int) -> None:
    try:
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        # TVM prints a stack for these, which helps nobody: whoever waits for this process names the signal.
        for number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE):
            signal.signal(number, signal.SIG_DFL)
        if os.getppid() == parent:
            try:
                answer = b"+" + work()
            except BaseException as error:  # whatever it was, it goes to whoever asked
                answer = b"-" + clip(first_line(error)).encode()
            view = memoryview(answer)
            while view:
                view = view[os.write(writer, view) :]
    finally:
        os._exit(0)


def _read(reader: int, deadline: float) -> bytes | None:
    """All that is written until the other end is closed; ``None`` when that is not before the deadline."""
    found = bytearray()
    while True:
        ready, _, _ = select.select([reader], [], [], max(deadline - time.monotonic(), 0.0))
        if not ready:
            return None
        block = os.read(reader, BLOCK)
        if not block:
            return bytes(found)
        found += block
