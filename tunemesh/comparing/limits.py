"""What a core can do at most, measured: ``python -m tunemesh.comparing.limits`` prints it as JSON, with
``flops`` behind it only how many operations it does.

Bytes are those that a kernel asks for; what a cache fetches besides before it writes is not counted, as in
the STREAM benchmark.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct

from tunemesh.shared.errors import TunemeshError

SOURCE = Path(__file__).with_name("limits.c")
COMMAND = ("cc", "-O3", "-march=native", "-ffast-math", "-shared", "-fPIC")
LIMIT = 120.0
"""Seconds for all measurements."""
ROUNDS = 1_000_000
"""Of multiply-adds: a few milliseconds, so that some of the repeats are disturbed by nobody."""
ELEMENTS = 32 * 2**20
"""Of an array: 128 MiB, more than caches hold."""
REPEATS = 30


class Limits(Struct, frozen=True, kw_only=True):
    """Of one core.

    Attributes:
        flops: float operations per second, in f32, a multiply-add counted as two.
        triad: bytes per second from and to memory.
        copy: the same where one array is read and one is written.
    """

    flops: float
    triad: float
    copy: float

    @property
    def bandwidth(self) -> float:
        """The larger of both."""
        return max(self.triad, self.copy)


def of_core(core: int) -> Limits:
    """Measure a core, in a process of its own.

    Raises:
        TunemeshError: it cannot be measured; says why.
    """
    return msgspec.json.decode(_measured(core), type=Limits)


def flops_of_core(core: int) -> float:
    """The same of its operations only, which takes less than a second.

    Raises:
        TunemeshError: as for :func:`of_core`.
    """
    return msgspec.json.decode(_measured(core, "flops"), type=float)


def _measured(core: int, *what: str) -> bytes:
    command = ["taskset", "--cpu-list", str(core), sys.executable, "-m", "tunemesh.comparing.limits", *what]
    done = subprocess.run(command, capture_output=True, timeout=LIMIT, check=False)
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason is known"]
        raise TunemeshError(f"cannot measure core {core}, which needs a C compiler (cc): {words[-1]}")
    return done.stdout


def measure() -> Limits:
    """The best of a few repeats, each."""
    with _kernels() as kernels:
        arrays = [np.ones(ELEMENTS, np.float32) for _ in range(3)]
        a, b, c = (ctypes.c_void_p(array.ctypes.data) for array in arrays)
        count, scale, size = ctypes.c_long(ELEMENTS), ctypes.c_float(0.5), arrays[0].nbytes
        return Limits(
            flops=_flops(kernels),
            triad=3 * size / _least(lambda: kernels.triad(count, a, b, c, scale)),
            copy=2 * size / _least(lambda: kernels.copy(count, a, b)),
        )


def measure_flops() -> float:
    """Operations alone."""
    with _kernels() as kernels:
        return _flops(kernels)


@contextmanager
def _kernels() -> Iterator[ctypes.CDLL]:
    with tempfile.TemporaryDirectory(prefix="tunemesh-limits-") as folder:
        library = Path(folder, "limits.so")
        subprocess.run([*COMMAND, str(SOURCE), "-o", str(library)], check=True, timeout=LIMIT)
        yield ctypes.CDLL(str(library))


def _flops(kernels: ctypes.CDLL) -> float:
    kernels.multiply_add.restype = ctypes.c_double
    sink, one, half = ctypes.c_float(), ctypes.c_float(0.999), ctypes.c_float(0.001)
    done: float = kernels.multiply_add(ctypes.c_long(1), one, half, ctypes.byref(sink)) * ROUNDS
    return done / _least(lambda: kernels.multiply_add(ctypes.c_long(ROUNDS), one, half, ctypes.byref(sink)))


def _least(run: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return min(times)


if __name__ == "__main__":
    print(msgspec.json.encode(measure_flops() if sys.argv[1:] == ["flops"] else measure()).decode())
