"""What a run ran on: machine, versions, and how busy the machine was before."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""Of the repository, where this is run from one."""
LOOK = 1.0
"""Seconds for which the machine is watched before a run."""
COLUMNS = (
    "host", "cpu_model", "cores", "load_before", "busy_before",
    "version", "git_commit", "python", "tvm",
)  # fmt: skip


def facts() -> dict[str, str | int | float]:
    """One value per column. Takes :data:`LOOK` seconds, in which it watches how busy the cores are."""
    return {
        "host": platform.node(),
        "cpu_model": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": os.getloadavg()[0],
        "busy_before": _busy_share(LOOK),
        "version": _version("tunemesh"),
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "tvm": _version("apache-tvm"),
    }


def cores_of(count: int | None) -> frozenset[int]:
    """The last ``count`` of the cores that this process may use; all of them where it is ``None``."""
    return frozenset(sorted(os.sched_getaffinity(0))[-count:] if count else os.sched_getaffinity(0))


def cpu_model() -> str:
    """As the kernel calls it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()


def _busy_share(seconds: float) -> float:
    """Share of all cores' time that was not idle: unlike the load average it forgets the run before."""
    idle_before, total_before = _jiffies()
    time.sleep(seconds)
    idle, total = _jiffies()
    return 1.0 - (idle - idle_before) / max(total - total_before, 1)


def _jiffies() -> tuple[int, int]:
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    return fields[3] + fields[4], sum(fields[:8])


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _git_commit() -> str:
    """Of the checkout that this runs from, with ``+`` when something in it is changed; empty outside one."""
    commit = _git("rev-parse", "--short=12", "HEAD")
    return commit + ("+" if commit and _git("status", "--porcelain", "--untracked-files=no") else "")


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
