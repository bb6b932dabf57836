"""Shared objects on a device: load, run, time."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tunemesh.stage_workers.graph import targets
from tunemesh.stage_workers.measuring.comparison import Array

MOST_GROWTH = 16
"""Times as many elements as it had that a weight may be packed into."""
BIND = "TVM_BIND_THREADS"
THREADS = ("TVM_NUM_THREADS", BIND)
"""Variables that TVM reads when it starts its pool of threads."""


def load(artifact: bytes) -> Any:
    """The TVM runtime module of a shared object, unloaded when nothing refers to it any more. The file is
    gone when this returns: the loader has mapped it, and a crash then leaves nothing behind."""
    import tvm_ffi

    with tempfile.TemporaryDirectory(prefix="tunemesh-run-") as folder:
        path = Path(folder, "module.so")
        path.write_bytes(artifact)
        # tvm.runtime.load_module keeps every module for good; after 11,000 candidates no more can be mapped.
        return tvm_ffi.load_module(path, keep_module_alive=False)


def packed_shape(library: Any, elements: str, shape: Sequence[int]) -> tuple[int, ...]:
    """Of a weight in the order that a kernel wants it in.

    Args:
        elements: the name of the function that says how many elements that has; without one it has the shape
            that the weight had.

    Raises:
        ValueError: it has far more than the weight.
    """
    before = tuple(int(length) for length in shape)
    if not library.implements_function(elements):
        return before
    count, most = int(library[elements]()), MOST_GROWTH * math.prod(before)
    if not 0 < count <= most:
        raise ValueError(f"{elements} says {count:,}: the weight is packed into 1 to {most:,} elements")
    return (count,)


def flatten(result: Any) -> list[Array]:
    """The arrays in what a virtual machine returns: one tensor, or tuples of them."""
    if hasattr(result, "numpy"):
        return [result.numpy()]
    return [array for field in result for array in flatten(field)]


class CoreWatch:
    """How long this thread has to wait for its core, as the kernel's scheduler counts it."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._waited = _run_delay()

    def share(self) -> float:
        """Of the time since this was made; 0 where the kernel does not tell."""
        elapsed = time.monotonic() - self._began
        return min(max(_run_delay() - self._waited, 0.0) / elapsed, 1.0) if elapsed > 0 else 0.0


def _run_delay() -> float:
    """Seconds that this thread was ready to run and did not: the second field of ``schedstat``."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


@contextlib.contextmanager
def threads(target: str) -> Iterator[None]:
    """Let kernels use as many threads as the target has cores.

    TVM reads this when it starts its pool, at the first parallel kernel of the process. It must not bind the
    threads to cores of its own choice: the worker has been given its cores already.
    """
    wanted = dict(zip(THREADS, (str(targets.cores(target)), "0"), strict=True))
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def as_anywhere() -> Iterator[None]:
    """Let nothing in the environment tell TVM how many threads there are: as a person runs a finished model,
    on cores that were given to the process."""
    before = {name: os.environ.pop(name) for name in THREADS if name in os.environ}
    os.environ[BIND] = "0"
    try:
        yield
    finally:
        del os.environ[BIND]
        os.environ.update(before)


@contextlib.contextmanager
def ended_after(seconds: float) -> Iterator[None]:
    """End this process when the block takes more CPU time than ``seconds`` (0: no limit): nothing else stops
    a kernel. It ends by SIGPROF, which the sandbox takes for a limit that was exceeded."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
