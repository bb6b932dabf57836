"""What it costs to move steps about: the CPU time of broker, coordinator and of the workers themselves
(codec, AMQP, artifact store), without that of their sandboxes, where the steps are done."""

from __future__ import annotations

import contextlib

import psutil

PARTS = ("broker", "coordinator", "workers")


def cpu_seconds() -> dict[str, float]:
    """CPU seconds so far of the mesh that this process has started, by part."""
    spent = dict.fromkeys(PARTS, 0.0)
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            part = _part(process.name(), process.cmdline())
            if part is not None:
                times = process.cpu_times()
                spent[part] += times.user + times.system
    return spent


def _part(name: str, command: list[str]) -> str | None:
    """Which part of a mesh a process is; ``None`` for sandboxes and what is not of the mesh."""
    if name.startswith(("beam", "erl_", "inet_gethost", "epmd")):
        return "broker"
    if "tunemesh" not in command:
        return None
    match command[command.index("tunemesh") + 1 :]:
        case ["coordinator", *_]:
            return "coordinator"
        case ["worker", *_]:
            return "workers"
    return None
