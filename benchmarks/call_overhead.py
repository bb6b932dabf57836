"""What ``Tuned.run`` and ``Tuned.bind`` cost over the bare module, on results of ``tunemesh tune``.

    python -m benchmarks.call_overhead tuned/tiny_cnn tuned/resnet18

The bare module is TVM's virtual machine called with tensors that lie ready. All take turns on one core, call
by call; medians. ``run`` is called with arrays that begin anywhere, as numpy's do, and are copied; and with
arrays that can be used in place.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import markdown
from benchmarks.deployed_child import inputs, plain
from tunemesh import session

SECONDS = 6.0
LEAST_TURNS = 25
MEGABYTE = 1e6


def misaligned(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A copy that begins 16 bytes after a multiple of 64, as numpy's allocator likes to have it."""
    memory = np.empty(array.nbytes + 80, np.uint8)
    begin = (16 - memory.ctypes.data) % 64
    copied: np.ndarray[Any, Any] = memory[begin : begin + array.nbytes].view(array.dtype)
    copied = copied.reshape(array.shape)
    copied[...] = array
    return copied


def measure(folder: Path) -> list[str]:
    """A row of the table."""
    tuned = session.load(folder.resolve())
    given = inputs(folder)
    bound = tuned.bind()
    for name, array in given.items():
        bound.inputs[name][...] = array
    elsewhere = {name: misaligned(array) for name, array in given.items()}
    contestants: dict[str, Callable[[], Any]] = {
        "bare": plain(folder),
        "copied": lambda: tuned.run(elsewhere),
        "in place": lambda: tuned.run(bound.inputs),
        "bound": bound.run,
    }
    for call in contestants.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in contestants}
    until = time.perf_counter() + SECONDS
    while len(times["bare"]) < LEAST_TURNS or time.perf_counter() < until:
        for name, call in contestants.items():
            began = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - began)
    bare, *others = (statistics.median(each) * 1e6 for each in times.values())
    size = sum(array.nbytes for array in given.values()) / MEGABYTE
    return [folder.name, f"{size:.3f}", f"{bare:,.1f}", *(f"{other - bare:+.1f}" for other in others)]


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+", help="folders with model.so and report.json")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)), help="by default the last")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {arguments.core})
    headers = ["us", "inputs, MB", "bare module", "run, copied", "run, in place", "bound"]
    print("\n".join(markdown.table(headers, [measure(folder) for folder in arguments.results])))


if __name__ == "__main__":
    main()
