"""``python -m benchmarks.searches``: strategies of search compared.

run OPERATOR --engine template --search reinforce --trials 256 --seeds 5 > trials.jsonl
table > table.jsonl.xz              every kernel of a small space of one operator, measured
compare                             all searches on the shipped table, many seeds
"""

from __future__ import annotations

import argparse
import lzma
import statistics
import sys

import msgspec

from benchmarks.searches import operators, running, table
from tunemesh.stage_workers.engines.template import searches


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.searches", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="search real kernels, one trial a line")
    run.add_argument("operator", choices=operators.NAMES)
    run.add_argument("--engine", default="template")
    run.add_argument("--search", choices=searches.NAMES)
    run.add_argument("--layout", choices=("given", "chosen"), default="given")
    run.add_argument("--trials", type=int, default=256)
    run.add_argument("--seconds", type=float, default=600.0)
    run.add_argument("--seeds", type=int, default=1)
    commands.add_parser("table", help="measure the table")
    compare = commands.add_parser("compare", help="searches on the table")
    compare.add_argument("--seeds", type=int, default=20)
    compare.add_argument("--trials", type=int, default=1024)
    given = parser.parse_args()
    if given.command == "run":
        _run(given)
    elif given.command == "table":
        lines = b"".join(msgspec.json.encode(row) + b"\n" for row in table.measure())
        sys.stdout.buffer.write(lzma.compress(lines))
    else:
        print(table.compare(given.seeds, given.trials))


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
