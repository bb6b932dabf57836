"""Do a piece of work in a process of its own, for a limited time."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

from benchmarks import work as work_module
from benchmarks.work import RESULT, WORK, Result, Work

LEAVE_LIMIT = 40.0
"""Seconds for a mesh to be taken down in order, before it is killed."""
LOG = "log.txt"


def in_child(work: Work, folder: Path, limit: float) -> Result:
    """Do ``work`` in a fresh ``folder``; what was in it is removed.

    Whatever happens to the child is in the result: it is ``timed-out`` after ``limit`` seconds, and
    ``failed`` with the end of its log when it dies. When this process dies, the child takes its mesh down
    and ends. The result stays in the folder as well.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    work_module.write(work, folder / WORK)
    # setpriv: the kernel sends a SIGTERM when this process is gone, however it went.
    command = ["setpriv", "--pdeathsig", "TERM", "--", sys.executable, "-m", "benchmarks.child", str(folder)]
    with (folder / LOG).open("ab") as log:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    result = _await(child, folder, limit)
    work_module.write(result, folder / RESULT)
    return result


def _await(child: subprocess.Popen[bytes], folder: Path, limit: float) -> Result:
    try:
        child.wait(limit)
    except subprocess.TimeoutExpired:
        return Result(status="timed-out", error=f"stopped after {limit:g} s, the limit_s of the experiment")
    finally:
        _end(child)
    result = work_module.read_result(folder)
    if result is not None:
        return result
    lines = (folder / LOG).read_text(errors="replace").strip().splitlines()
    said = lines[-1] if lines else "no output"
    return Result(status="failed", error=f"exit status {child.returncode}: {said}")


def _end(child: subprocess.Popen[bytes]) -> None:
    for signum in (signal.SIGTERM, signal.SIGKILL):
        if child.poll() is not None:
            return
        child.send_signal(signum)
        try:
            child.wait(LEAVE_LIMIT)
        except subprocess.TimeoutExpired:
            continue
