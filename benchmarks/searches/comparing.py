"""Searches and engines on the same real kernels, on equal terms: one process, one core, as many trials and as
many seconds for each. They take turns: all of them with one seed, then all with the next."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec import Struct

from benchmarks import lines
from benchmarks.searches.running import Bench, Tried
from tunemesh.shared.messages import Options
from tunemesh.stage_workers import engines
from tunemesh.stage_workers.engines.template import searches

OTHERS = (engines.METASCHEDULE, engines.HALIDE)
"""Further engines, each with the search that it has by default."""
TEMPLATE = "template"
MAKERS = (*searches.OWN, *OTHERS)
HERE = tuple(each for each in MAKERS if not engines.missing(each))
"""Those that this machine has what they need for."""


class Trials(Struct, frozen=True, kw_only=True):
    """One search, as it is kept: a line of JSON.

    Attributes:
        operator: by its name in :mod:`.operators`.
        maker: the search, or the engine.
        seed: of all chance.
        trials: in their order.
    """

    operator: str
    maker: str
    seed: int
    trials: list[Tried]


@dataclass(frozen=True)
class Plan:
    """What is to be run.

    Attributes:
        operators: see :mod:`.operators`.
        makers: of :data:`MAKERS`.
        seeds: how many of each.
        trials: of one search.
        seconds: of one search, after which it ends where it is.
    """

    operators: Sequence[str]
    makers: Sequence[str]
    seeds: int
    trials: int
    seconds: float

    def all(self) -> Iterator[tuple[str, str, int]]:
        """Operator, maker and seed of each search. Who begins changes from seed to seed."""
        for seed in range(self.seeds):
            for operator in self.operators:
                turn = seed % len(self.makers)
                for maker in (*self.makers[turn:], *self.makers[:turn]):
                    yield operator, maker, seed


def load(path: Path) -> list[Trials]:
    """The searches in a file of :func:`run`."""
    return lines.read(path, Trials)


def run(plan: Plan, out: Path, limit: float) -> int:
    """Run what is not in the file yet, and add it there. None is begun after ``limit`` seconds, nor where one
    as long as the longest so far would end later. How many are left."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    done = {(each.operator, each.maker, each.seed) for each in load(out)}
    left = [each for each in plan.all() if each not in done]
    benches: dict[str, Bench] = {}
    began, longest = time.monotonic(), 0.0
    for number, (operator, maker, seed) in enumerate(left):
        started = time.monotonic()
        if started + longest > began + limit:
            return len(left) - number
        if operator not in benches:
            benches[operator] = Bench.of_operator(operator)
        engine = maker if maker in OTHERS else TEMPLATE
        options: Options = {"search": maker} if engine == TEMPLATE else {}
        tried = list(benches[operator].run(engine, options, seed, plan.trials, plan.seconds))
        _summarise(operator, maker, seed, tried)
        lines.add(out, [Trials(operator=operator, maker=maker, seed=seed, trials=tried)])
        longest = max(longest, time.monotonic() - started)
    return 0


def _summarise(operator: str, maker: str, seed: int, tried: Sequence[Tried]) -> None:
    latencies = [each.latency for each in tried if each.latency is not None]
    if latencies:
        print(
            f"{operator} {maker} {seed}: {len(tried)} trials in {tried[-1].since:.0f} s, "
            f"best {min(latencies) * 1e6:.1f} us, "
            f"medians: build {statistics.median(each.build for each in tried) * 1e3:.0f} ms, "
            f"profile {statistics.median(each.profile for each in tried) * 1e3:.0f} ms",
            file=sys.stderr,
            flush=True,
        )
