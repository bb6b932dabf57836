"""What the cage costs: seconds for a fresh child, and how fast kernels run in it.

    python -m benchmarks.cage

Children are renewed in turns, with the cage of this machine and bare. The same kernels of one convolution are
profiled in both, in turns on one core, first the one and then the other; medians of the paired ratios.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from unittest import mock

from benchmarks import markdown
from benchmarks.disturbance import Bench
from examples import make_models
from tunemesh.stage_workers.sandbox import cage
from tunemesh.stage_workers.sandbox.sandbox import Sandbox


def renewed(sandbox: Sandbox) -> float:
    """Seconds until another child waits for work."""
    began = time.perf_counter()
    sandbox.renew()
    while not sandbox.ready(1.0):
        pass
    return time.perf_counter() - began


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--forks", type=int, default=200, help="children of each kind, 200 by default")
    parser.add_argument("--rounds", type=int, default=6, help="profiles of each kernel of each kind")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)), help="by default the last")
    parser.add_argument("--mode", choices=[*cage.MODES[:-1], "auto"], default="auto")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        benches = {}
        for name in ("bare", arguments.mode):
            with mock.patch.dict(os.environ, {cage.WANTED: name}):
                benches[name] = Bench(arguments.core, Path(folder, name))
        bare, caged = benches.values()
        try:
            print(f"cage: {caged.sandbox.cage}\n")
            print("\n".join(_forks(bare, caged, arguments.forks)), end="\n\n")
            print("\n".join(_kernels(bare, caged, arguments.rounds)))
        finally:
            for each in benches.values():
                each.sandbox.stop()


def _forks(bare: Bench, caged: Bench, count: int) -> list[str]:
    pairs = [(renewed(bare.sandbox), renewed(caged.sandbox)) for _ in range(count)]
    more = statistics.median(inside - outside for outside, inside in pairs)
    figures = [f"{statistics.median(each) * 1e3:.2f}" for each in zip(*pairs, strict=True)]
    return markdown.table(["ms", "bare", "caged", "more"], [["a child", *figures, f"{more * 1e3:+.2f}"]])


def _kernels(bare: Bench, caged: Bench, rounds: int) -> list[str]:
    model = make_models.one_convolution().SerializeToString()
    # Stored in both: a store is of one bench.
    task, built = bare.candidates(bare.store.put(model))
    other, again = caged.candidates(caged.store.put(model))
    ratios: dict[int, list[float]] = {}
    for number in range(rounds):
        turns = [(bare, task, built), (caged, other, again)]
        done = [(bench, bench.profile(its, those)[0]) for bench, its, those in turns[:: (-1) ** number]]
        outside, inside = (next(found for bench, found in done if bench is each) for each in (bare, caged))
        for index in outside.keys() & inside.keys():
            ratios.setdefault(index, []).append(inside[index].median / outside[index].median)
    medians = sorted(statistics.median(each) for each in ratios.values())
    row = [
        str(len(medians)),
        *(f"{each:.3f}" for each in (medians[0], statistics.median(medians), medians[-1])),
    ]
    return markdown.table(["kernels", "least", "caged / bare", "most"], [row])


if __name__ == "__main__":
    main()
