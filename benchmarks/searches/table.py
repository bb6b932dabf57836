"""Searches on a table: all kernels of a small space of Woodpecker's convolution, measured once on one core of
a Zen 5 (EPYC) and shipped. A search asks the table where it would build and measure: thousands of runs take
seconds, and all searches see the same numbers. What it says holds for this space only."""

from __future__ import annotations

import lzma
import math
import random
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from benchmarks.searches import operators, running
from tunemesh.shared.messages import Candidate
from tunemesh.stage_workers.engines import load
from tunemesh.stage_workers.engines.template import searches
from tunemesh.stage_workers.engines.template.space import Genome, Knob, Space

FILE = Path(__file__).with_name("table.jsonl.xz")
KNOBS = (
    Knob("lanes", (8, 16)),
    Knob("vectors", (1, 2, 3, 4)),
    Knob("rows", (1, 2, 3, 4, 6, 8, 10, 12, 14, 20)),
    Knob("unroll", (1, 4)),
    Knob("rows_block", (0, 2)),
    Knob("rows_first", (0, 1)),
    Knob("pack_still", (0, 1)),
)
FIXED = {"depth": 0, "columns_block": 0, "pack_moving": 0}
"""Of the knobs that the template has besides."""
BATCH = 16
MARKS = (32, 64, 128, 256, 512, 1024)
"""Trials after which it is looked what was found."""


class Row(Struct, frozen=True):
    """One kernel: what its knobs are set to, and its latency in seconds."""

    values: list[int]
    latency: float


def measure() -> Iterator[Row]:
    """Every valid kernel of the space, in a random order, so that a disturbance hits no neighbours."""
    from tunemesh.stage_workers.engines.template import schedules, tuning

    bench = running.Bench(operators.WOODPECKER, "given")
    taken = tuning.taken(bench.task.workload, bench.target)
    engine = load("template")
    everything = Space(KNOBS, lambda _: True)
    ranks = list(range(everything.size))

    random.Random(0).shuffle(ranks)
    for rank in ranks:
        values = everything.values(everything.genome(rank))
        named = dict(zip((knob.name for knob in KNOBS), values, strict=True)) | FIXED
        genome = schedules.genome_of(schedules.Schedule(taken.template.name, named), taken.space)
        if genome is None or not taken.space.is_valid(genome):
            continue
        name, schedule = schedules.packed(taken.template.name, taken.space, genome)
        trial, _ = bench.tried(engine, Candidate(0, name, schedule), math.inf, 0.0)
        yield Row(values, trial.latency)


def shipped() -> tuple[Space, Mapping[Genome, float]]:
    """The table as a space, and the latency of each of its genomes."""
    lines = lzma.decompress(FILE.read_bytes()).splitlines()
    rows = {tuple(row.values): row.latency for row in (msgspec.json.decode(line, type=Row) for line in lines)}
    space = Space(KNOBS, lambda values: tuple(values) in rows)
    return space, {genome: rows[tuple(space.values(genome))] for genome in space.all()}


def compare(seeds: int, trials: int) -> str:
    """A table for people: the share of the best that each search has after so many trials, the median of the
    seeds; and the trials after which half of the seeds have 0.95 of it."""
    space, latencies = shipped()
    best = min(latencies.values())
    marks = [mark for mark in MARKS if mark <= min(trials, len(latencies))]
    lines = [
        f"{len(latencies)} kernels, {seeds} seeds, batches of {BATCH}: share of the best",
        "",
        f"| search | {' | '.join(map(str, marks))} | 0.95 after |",
        "|" + "---|" * (len(marks) + 2),
    ]
    for name in searches.NAMES:
        curves = [_curve(name, space, latencies, seed, marks[-1]) for seed in range(seeds)]
        shares = [statistics.median(best / curve[mark - 1] for curve in curves) for mark in marks]
        reached = [next((n + 1 for n, each in enumerate(c) if best / each >= 0.95), math.inf) for c in curves]
        after = statistics.median(reached)
        row = [f"{share:.3f}" for share in shares]
        lines.append(f"| {name} | {' | '.join(row)} | {'-' if math.isinf(after) else f'{after:.0f}'} |")
    return "\n".join(lines)


def _curve(name: str, space: Space, latencies: Mapping[Genome, float], seed: int, trials: int) -> list[float]:
    """The best latency so far, trial by trial."""
    state, results, curve, best = None, list[tuple[Genome, float]](), list[float](), math.inf
    while len(curve) < trials:
        state, genomes = searches.propose(name, space, state, results, min(BATCH, trials - len(curve)), seed)
        if not genomes:
            break
        results = [(genome, latencies[genome]) for genome in genomes]
        for _, latency in results:
            best = min(best, latency)
            curve.append(best)
    return curve + [best] * (trials - len(curve))
