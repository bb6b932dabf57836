"""A machine of each process: its clock can jump, and its disk can be full, while others notice nothing."""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tunemesh.shared import environment as environments
from tunemesh.shared.errors import BadInput

SOURCE = Path(__file__).with_name("chaos_machine.c")
STATE = struct.Struct("=qq")
"""As in the source: nanoseconds that the clock is ahead, and whether the disk is full."""
JUMPS = (1.0, 60.0, 3600.0)
"""Seconds by which a clock jumps, ahead or back."""


class Machines:
    """What the processes of a mesh are started with, so that something can happen to their machines.

    Args:
        folder: where all of it is kept.
        disk: the folder that can be full.

    Raises:
        BadInput: there is no C compiler.
    """

    def __init__(self, folder: Path, disk: Path) -> None:
        self._folder, self._disk = folder, disk
        self._library = folder / "machine.so"
        command = ["gcc", "-O1", "-shared", "-fPIC", "-o", str(self._library), str(SOURCE)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise BadInput(f"cannot compile {SOURCE.name}: {error}; install gcc") from None
        self._states: dict[str, mmap.mmap] = {}

    def environment(self, name: str) -> dict[str, str]:
        """What a process is to be started with; its children are on the same machine."""
        path = self._folder / f"{name}.machine"
        if name not in self._states:
            path.write_bytes(bytes(STATE.size))
            with path.open("r+b") as file:
                self._states[name] = mmap.mmap(file.fileno(), STATE.size)
        return {
            "LD_PRELOAD": str(self._library),
            "CHAOS_STATE": str(path),
            "CHAOS_DISK": f"{self._disk.resolve()}{os.sep}",
            environments.PASS: "CHAOS_STATE,CHAOS_DISK",
        }

    @contextlib.contextmanager
    def full(self, seconds: float) -> Iterator[None]:
        """No process can write into the folder for so long."""
        self._set(list(self._states), full=True)
        yield
        time.sleep(seconds)
        self._set(list(self._states), full=False)

    @contextlib.contextmanager
    def jumped(self, seconds: float, rng: random.Random) -> Iterator[None]:
        """The clock of some of the machines, or of all, is wrong for so long, and then is right again."""
        names = rng.sample(list(self._states), rng.randint(1, len(self._states)))
        self._set(names, ahead=rng.choice(JUMPS) * rng.choice((-1, 1)))
        yield
        time.sleep(seconds)
        self._set(names, ahead=0.0)

    def _set(self, names: list[str], ahead: float | None = None, full: bool | None = None) -> None:
        for name in names:
            state = self._states[name]
            was_ahead, was_full = STATE.unpack(state[:])
            state[:] = STATE.pack(
                was_ahead if ahead is None else int(ahead * 1e9), was_full if full is None else full
            )
