"""What ``benchmarks.chaos`` does to the machine of a process is noticed by that process alone."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.chaos_machine import JUMPS, Machines

WRITES = """
import os, sys, time
try:
    os.write(os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT), b"x")
except OSError as error:
    print(error.strerror)
print(time.time())
"""


def run(file: Path, environment: dict[str, str]) -> list[str]:
    command = [sys.executable, "-c", WRITES, str(file)]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_a_disk_is_full_and_a_clock_is_wrong_for_those_who_are_meant(tmp_path: Path) -> None:
    disk, other = tmp_path / "disk", tmp_path / "other"
    disk.mkdir()
    other.mkdir()
    machines = Machines(tmp_path, disk)
    own = machines.environment("one")
    with machines.full(0.0):
        assert run(disk / "a", own)[0] == "No space left on device"
        assert len(run(other / "a", own)) == len(run(disk / "a", {})) == 1
    assert len(run(disk / "a", own)) == 1
    with machines.jumped(0.0, random.Random(1)):
        wrong, right = (float(run(disk / "a", each)[-1]) - time.time() for each in (own, {}))
    assert min(abs(abs(wrong) - jump) for jump in JUMPS) < 5.0 > abs(right)
    assert float(run(disk / "a", own)[-1]) == pytest.approx(time.time(), abs=5.0)
