"""The best latency that is known at each moment of a run."""

from __future__ import annotations

import bisect
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes

from benchmarks.evidence import Evidence, TaskCurve
from benchmarks.plots.style import colour, figure, legend_above, plain_log_scale

TICKS = tuple(digit * 10.0**power for power in range(-4, 6) for digit in (1, 1.5, 2, 3, 4, 5, 7))
"""Milliseconds."""
Steps = list[tuple[float, float]]
"""Time in seconds, and the latency in seconds that holds from then on."""


def best_latency(curves: Sequence[TaskCurve]) -> Steps:
    """Sum over the tasks of weight times best latency so far; the untuned one until a better one is measured.

    A task whose untuned workload could not be measured counts with its first measurement from the start.
    """
    changes: list[tuple[float, float]] = []
    total = 0.0
    for curve in curves:
        best = curve.untuned
        if best is None:
            if not curve.measured:
                continue
            best = curve.measured[0].latency
        total += curve.weight * best
        for each in curve.measured:
            if each.latency < best:
                changes.append((each.at, curve.weight * (best - each.latency)))
                best = each.latency
    steps = [(0.0, total)]
    for at, gain in sorted(changes):
        total -= gain
        if at == steps[-1][0]:
            steps[-1] = (at, total)
        else:
            steps.append((at, total))
    return steps


def progress(path: Path, runs: Mapping[str, Sequence[Evidence]]) -> None:
    """Draw every run thin and the median of the runs thick, by label."""
    drawn = {
        label: [(best_latency(evidence.curves), evidence.makespan) for evidence in group if evidence.curves]
        for label, group in runs.items()
    }
    end = max((makespan for group in drawn.values() for _, makespan in group), default=1.0)
    with figure(path, 4.2) as (made, (axes,)):
        for index, (label, group) in enumerate(drawn.items()):
            for steps, makespan in group:
                _draw(axes, [*steps, (makespan, steps[-1][1])], colour(index), 0.9, 0.3)
            if group:
                middle = median_of([steps for steps, _ in group], min(makespan for _, makespan in group))
                _draw(axes, middle, colour(index), 2.0, 1.0, label)
        axes.set_xlim(0, end)
        plain_log_scale(axes, TICKS)
        axes.set_xlabel("time since the first request (s)")
        axes.set_ylabel("best known latency of all models (ms)")
        legend_above(made, axes)


def median_of(runs: Sequence[Steps], end: float) -> Steps:
    """The median over runs at every moment until ``end``."""
    times = sorted({at for steps in runs for at, _ in steps if at <= end} | {end})
    return [(moment, statistics.median(at_time(steps, moment) for steps in runs)) for moment in times]


def at_time(steps: Steps, moment: float) -> float:
    """The latency that is known at a moment."""
    return steps[max(bisect.bisect_right([at for at, _ in steps], moment) - 1, 0)][1]


def _draw(axes: Axes, steps: Steps, paint: str, width: float, alpha: float, label: str = "_run") -> None:
    # matplotlib leaves labels with an underscore out of the legend.
    milliseconds = [latency * 1e3 for _, latency in steps]
    times = [at for at, _ in steps]
    axes.step(times, milliseconds, where="post", color=paint, linewidth=width, alpha=alpha, label=label)
