"""What it costs to move steps about: the CPU time of broker, coordinator and of the workers themselves
(codec, AMQP, artifact store), without that of their sandboxes, where the steps are done."""

from __future__ import annotations

import contextlib
import time

import psutil

PARTS = ("broker", "coordinator", "workers")
REST = "rest"
"""Sandboxes, and what is not of the mesh."""

CALM = 0.03
"""Share of a core that a mesh without work takes at most, sandboxes included."""
CALM_FOR = 4.0
"""Seconds for which it must."""
CALM_LIMIT = 60.0
"""Seconds to wait for that."""


def cpu_seconds() -> dict[str, float]:
    """CPU seconds so far of the mesh that this process has started, by part, and of the rest."""
    spent = dict.fromkeys((*PARTS, REST), 0.0)
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            times = process.cpu_times()
            spent[_part(process.name(), process.cmdline())] += times.user + times.system
    return spent


def wait_until_calm() -> None:
    """Wait until the mesh that this process has started is up: its workers have imported what they need, and
    the broker has nothing left to do of its start. Goes on after ``CALM_LIMIT`` seconds as it is."""
    deadline = time.monotonic() + CALM_LIMIT
    before = sum(cpu_seconds().values())
    while time.monotonic() < deadline:
        time.sleep(CALM_FOR)
        now = sum(cpu_seconds().values())
        if 0 <= now - before < CALM * CALM_FOR:  # less than nothing: a process has ended
            return
        before = now


def _part(name: str, command: list[str]) -> str:
    """Which part of a mesh a process is."""
    if name.startswith(("beam", "erl_", "inet_gethost", "epmd")):
        return "broker"
    if "tunemesh" not in command:
        return REST
    match command[command.index("tunemesh") + 1 :]:
        case ["coordinator", *_]:
            return "coordinator"
        case ["worker", *_]:
            return "workers"
    return REST
