"""``python -m tunemesh.comparing.child WORK``: load one model, and run it whenever a line comes in.

See :mod:`.work` for what it is given and what it answers. It ends when its input does.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tunemesh.comparing.runners import load
from tunemesh.comparing.work import Answer, Failed, Ready, Turn, Work

WARM_RUNS, WARM_SECONDS = 3, 0.5
"""Before the first turn, at least that many and that long: caches, clocks, memory pools, compilers."""
WORDS = 40
"""Of what a library says on an error, which may be pages."""
TURN_RUNS, TURN_SECONDS = 3, 0.05
"""Of a turn, beside the run before them that brings the model back into the caches."""


def main() -> None:
    """Answer until the input ends."""
    work = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Work)
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what libraries print must not get between the answers

    def answer(value: Answer) -> None:
        answers.write(msgspec.json.encode(value) + b"\n")

    try:
        arrays = np.load(work.inputs, allow_pickle=False)
        loaded = load(work, {name: arrays[name] for name in work.names})
        outputs: dict[str, Any] = {str(number): each for number, each in enumerate(loaded.outputs())}
        np.savez(work.outputs, **outputs)
        measure(loaded.run, WARM_RUNS, WARM_SECONDS)
    except Exception as error:  # libraries raise what they like
        words = " ".join(str(error).split()[:WORDS])
        answer(Failed(error=f"{type(error).__name__}: {words}"))
        sys.exit(1)
    answer(Ready(version=loaded.version))
    for _ in sys.stdin:
        loaded.run()
        answer(Turn(seconds=measure(loaded.run, TURN_RUNS, TURN_SECONDS)))


def measure(run: Callable[[], Any], runs: int, seconds: float) -> float:
    """The median in seconds of at least that many runs, and for at least that long."""
    times: list[float] = []
    first = now = time.perf_counter()
    while len(times) < runs or now - first < seconds:
        began = now
        run()
        now = time.perf_counter()
        times.append(now - began)
    return statistics.median(times)


if __name__ == "__main__":
    main()
