"""Child processes that are started again when they end, and that end with this process, however it ends."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from tunemesh.shared import environment as environments
from tunemesh.shared import logs
from tunemesh.shared.errors import BadInput

log = logging.getLogger(__name__)

GRACE = 1.0
"""Seconds that children get to finish by themselves after the first SIGTERM, before the second."""

STOP_LIMIT = 8.0
"""Seconds between the second SIGTERM and SIGKILL."""

RESTARTS = (0.0, 0.5, 2.0, 5.0)
"""Seconds to wait before a child is started again; the last repeats. A minute of life starts over."""


@dataclass(slots=True)
class Child:
    """One process: a ``tunemesh`` subcommand on certain cores."""

    name: str
    arguments: list[str]
    environment: Mapping[str, str]
    """Added to the little that children get of this process's environment (:mod:`shared.environment`)."""
    cpus: frozenset[int] | None = None
    log: Path | None = None
    """Its output; ``None`` to leave it on this process's."""
    module: str = "tunemesh"
    """What Python runs."""
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    restarts: int = 0
    due: float = 0.0

    def start(self) -> None:
        """Start the process."""
        # setpriv: the kernel sends a SIGTERM when this process is gone.
        command = ["setpriv", "--pdeathsig", "TERM", "--"]
        if self.cpus is not None:
            command += ["taskset", "--cpu-list", ",".join(map(str, sorted(self.cpus)))]
        # -P: a module in the folder that this process was started in is not taken for one of Python's.
        command += [sys.executable, "-P", "-m", self.module, *self.arguments]
        output: IO[bytes] | None = self.log.open("ab") if self.log is not None else None
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environments.for_child({**logs.for_children(), **self.environment}),
                # Ctrl-C is for this process alone, which then stops its children in order.
                start_new_session=True,
            )
        finally:
            if output is not None:
                output.close()
        self.started = time.monotonic()

    def last_line(self) -> str:
        """What it said last."""
        lines = self.log.read_text(errors="replace").strip().splitlines() if self.log is not None else []
        return lines[-1].removeprefix("error: ") if lines else "it could not start"


@dataclass(slots=True)
class Children:
    """All children of a mesh."""

    children: list[Child] = field(default_factory=list)

    def start(self, child: Child) -> None:
        """Start ``child`` and look after it from now on."""
        self.children.append(child)
        child.start()

    @property
    def pids(self) -> dict[str, int]:
        """Process ids of those that run, by name."""
        return {
            child.name: child.process.pid
            for child in self.children
            if child.process is not None and child.process.poll() is None
        }

    def supervise(self) -> None:
        """Start again what has ended. Call it at least every second.

        Raises:
            BadInput: a child cannot run here (its exit code says so); with its own words.
        """
        now = time.monotonic()
        for child in self.children:
            if child.process is None:
                if now >= child.due:
                    self._start_again(child)
                continue
            code = child.process.poll()
            if code is None:
                continue
            if code == BadInput.exit_code:
                raise BadInput(f"{child.name}: {child.last_line()}")
            if now - child.started > 60:
                child.restarts = 0
            child.process = None
            self._rest(child)
            log.warning("%s has ended (%s); starting it again", child.name, _ending(code))

    def _start_again(self, child: Child) -> None:
        try:
            child.start()
        except OSError as error:  # this machine has no room for a process now
            log.warning("cannot start %s now: %s", child.name, error)
            self._rest(child)

    @staticmethod
    def _rest(child: Child) -> None:
        child.due = time.monotonic() + RESTARTS[min(child.restarts, len(RESTARTS) - 1)]
        child.restarts += 1

    def stop(self) -> None:
        """Ask all to leave, then insist."""
        running = [child.process for child in self.children if child.process is not None]
        for signum, limit in ((signal.SIGTERM, GRACE), (signal.SIGTERM, STOP_LIMIT), (signal.SIGKILL, 5.0)):
            alive = [process for process in running if process.poll() is None]
            for process in alive:
                process.send_signal(signum)
            deadline = time.monotonic() + limit
            while time.monotonic() < deadline and any(process.poll() is None for process in alive):
                time.sleep(0.02)
        self.children.clear()


def _ending(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"status {code}"


def worker_arguments(
    queue: str, engines: Iterable[str], memory: float, device: str | None = None, target: str = ""
) -> list[str]:
    """The command line of one worker.

    Args:
        memory: GiB for its sandbox.
        target: what ``device`` is, where there is one.
    """
    arguments = ["worker", queue, "--memory", f"{memory:g}"]
    arguments += [argument for name in engines for argument in ("--engine", name)]
    return arguments if device is None else [*arguments, "--device", device, "--target", target]
