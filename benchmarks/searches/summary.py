"""What came out of comparisons: tables for people, and curves for plots."""

from __future__ import annotations

import bisect
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path

from benchmarks import markdown
from benchmarks.plots.shares import Curve, shares
from benchmarks.searches.comparing import MAKERS, Trials
from benchmarks.searches.running import BATCH
from benchmarks.searches.simulating import Simulated

SIMULATED_AT = (16, 32, 64, 128, 256, 512)
"""Trials that a table of the simulated searches has columns for."""
GOALS = (0.95, 0.99)
"""Shares of the best known whose trials are of interest."""
REAL_AT = (16, 32, 64)
SECONDS_AT = (1.0, 2.0, 4.0, 6.0)


def simulated(found: Iterable[Simulated]) -> list[str]:
    """For each table: the mean over the seeds of the share of the best known, and after how many trials half
    of the seeds have a share."""
    lines: list[str] = []
    for operator, searches in _by_search(found).items():
        counts = {len(runs) for runs in searches.values()}
        lines += [f"{operator}, {min(counts)} seeds:", ""]
        body = [
            [
                name,
                *(_share(statistics.fmean(_after(run, at) for run in runs)) for at in SIMULATED_AT),
                *(_count(runs, goal) for goal in GOALS),
            ]
            for name, runs in searches.items()
        ]
        heads = ["search", *map(str, SIMULATED_AT), *(f"trials to {goal}" for goal in GOALS)]
        lines += [*markdown.table(heads, body), ""]
    return lines


def plot_simulated(path: Path, found: Iterable[Simulated]) -> None:
    """The mean over the seeds, for each table a panel."""
    panels: dict[str, dict[str, Curve]] = {}
    for operator, searches in _by_search(found).items():
        panels[operator] = {
            name: [
                ((batch + 1) * BATCH, statistics.fmean(shares_then))
                for batch, shares_then in enumerate(zip(*runs, strict=False))
            ]
            for name, runs in searches.items()
        }
    shares(path, panels, "trials", [BATCH, 32, 64, 128, 256, 512])


def real(found: Sequence[Trials]) -> list[str]:
    """Geometric means over operators and seeds of the share of the best known, after trials and after
    seconds; and the best latency of each search and operator."""
    best, makers = _best(found), list(_by_maker(found))
    operators = list(best)
    body = []
    for maker in makers:
        runs = [each for each in found if each.maker == maker]
        cells = [_mean(_real_after(each, at, best) for each in runs) for at in REAL_AT]
        cells += [_mean(_real_within(each, at, best) for each in runs) for at in SECONDS_AT]
        body.append([maker, str(len(runs)), *cells])
    heads = ["search", "runs", *(f"{at} trials" for at in REAL_AT), *(f"{at:g} s" for at in SECONDS_AT)]
    lines = [*markdown.table(heads, body), ""]
    body = [
        [
            maker,
            *(
                markdown.middle(
                    [
                        min(t.latency or math.inf for t in each.trials[: REAL_AT[-1]]) * 1e6
                        for each in found
                        if (each.maker, each.operator) == (maker, operator)
                    ]
                )
                for operator in operators
            ),
        ]
        for maker in makers
    ]
    return [*lines, *markdown.table(["us", *operators], body), ""]


def plot_real(over_trials: Path, over_time: Path, found: Sequence[Trials]) -> None:
    """Geometric means over operators and seeds, over trials and over seconds."""
    best, by_maker = _best(found), _by_maker(found)
    title = f"{len(best)} operators, geometric mean"
    trials = {
        maker: [
            (at, statistics.geometric_mean([_real_after(each, at, best) for each in runs]))
            for at in range(8, REAL_AT[-1] + 1, 4)
        ]
        for maker, runs in by_maker.items()
    }
    shares(over_trials, {title: trials}, "trials", [8, 16, 32, 64])
    moments = [0.5 * 1.1**step for step in range(34)]
    time = {
        maker: [
            (at, statistics.geometric_mean([_real_within(each, at, best) for each in runs]))
            for at in moments
            if all(_real_within(each, at, best) for each in runs)
        ]
        for maker, runs in by_maker.items()
    }
    shares(over_time, {title: time}, "seconds", [0.5, 1, 2, 4, 6])


def _by_maker(found: Iterable[Trials]) -> dict[str, list[Trials]]:
    """Always in the same order, so that each keeps its colour."""
    made = defaultdict(list)
    for each in sorted(found, key=lambda each: MAKERS.index(each.maker)):
        made[each.maker].append(each)
    return made


def _by_search(found: Iterable[Simulated]) -> dict[str, dict[str, list[list[float]]]]:
    made: dict[str, dict[str, list[list[float]]]] = defaultdict(lambda: defaultdict(list))
    for each in sorted(found, key=lambda each: MAKERS.index(each.search)):
        title = f"{each.operator}, promises hidden" if each.plain else each.operator
        made[title][each.search].append(each.shares)
    return made


def _after(run: Sequence[float], trials: int) -> float:
    """The share after so many trials; of the whole table where it has no more."""
    return run[min(trials // BATCH, len(run)) - 1]


def _count(runs: Sequence[Sequence[float]], goal: float) -> str:
    """Trials after which half of the runs have a share; empty where they never do."""
    ends = sorted(bisect.bisect_left(run, goal) for run in runs)
    middle = ends[(len(ends) - 1) // 2]
    return "" if any(middle >= len(run) for run in runs) else str((middle + 1) * BATCH)


def _best(found: Iterable[Trials]) -> dict[str, float]:
    """The lowest latency of each operator that any trial has."""
    best: dict[str, float] = {}
    for each in found:
        own = min((trial.latency or math.inf for trial in each.trials), default=math.inf)
        best[each.operator] = min(best.get(each.operator, math.inf), own)
    return best


def _real_after(run: Trials, trials: int, best: Mapping[str, float]) -> float:
    known = [trial.latency or math.inf for trial in run.trials[:trials]]
    return best[run.operator] / min(known, default=math.inf)


def _real_within(run: Trials, seconds: float, best: Mapping[str, float]) -> float:
    lowest = list(accumulate((trial.latency or math.inf for trial in run.trials), min))
    count = bisect.bisect_right([trial.since for trial in run.trials], seconds)
    return best[run.operator] / lowest[count - 1] if count else 0.0


def _mean(values: Iterable[float]) -> str:
    found = list(values)
    return _share(statistics.geometric_mean(found)) if found and all(found) else ""


def _share(value: float) -> str:
    return f"{value:.3f}"
