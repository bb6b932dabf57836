"""``python -m benchmarks.searches OPERATOR --search reinforce --trials 256 --seeds 5``: a search on real
kernels, one trial a line, and a summary of each seed."""

from __future__ import annotations

import argparse
import statistics
import sys

import msgspec

from benchmarks.searches import operators, running
from tunemesh.stage_workers.engines.template import searches


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.searches", description=__doc__)
    parser.add_argument("operator", choices=operators.NAMES)
    parser.add_argument("--engine", default="template")
    parser.add_argument("--search", choices=searches.NAMES)
    parser.add_argument("--layout", choices=("given", "chosen"), default="given")
    parser.add_argument("--trials", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seeds", type=int, default=1)
    _run(parser.parse_args())


def _run(given: argparse.Namespace) -> None:
    bench = running.Bench(given.operator, given.layout)
    options = {} if given.search is None else {"search": given.search}
    for seed in range(given.seeds):
        tried = []
        for each in bench.run(given.engine, options, seed, given.trials, given.seconds):
            tried.append(each)
            about = {"operator": given.operator, "engine": given.engine, "search": given.search, "seed": seed}
            print(msgspec.json.encode({**about, **msgspec.structs.asdict(each)}).decode(), flush=True)
        latencies = [each.latency for each in tried if each.latency is not None]
        if latencies:
            print(
                f"seed {seed}: {len(tried)} trials in {tried[-1].since:.0f} s, "
                f"best {min(latencies) * 1e6:.1f} us, "
                f"medians: build {statistics.median(each.build for each in tried) * 1e3:.0f} ms, "
                f"profile {statistics.median(each.profile for each in tried) * 1e3:.0f} ms",
                file=sys.stderr,
            )


if __name__ == "__main__":
    main()
