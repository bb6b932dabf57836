"""Utilisation and makespan: what a strategy makes of the machine."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path

from benchmarks.markdown import digits
from benchmarks.plots.style import colour, figure, legend_above, name_groups

RESOURCES = {"use_update": "model update", "use_build": "build", "use_profile": "device"}


def utilisation(path: Path, shares: Mapping[str, Mapping[str, list[float]]]) -> None:
    """Draw the busy share of each resource: ``shares[label][column]`` holds one value per run."""
    shown = [name for name in RESOURCES if any(runs.get(name) for runs in shares.values())]
    width = 0.8 / max(len(shown), 1)
    with figure(path, 4.0) as (made, (axes,)):
        for number, name in enumerate(shown):
            places = [index + (number - (len(shown) - 1) / 2) * width for index in range(len(shares))]
            medians = [statistics.median(runs.get(name) or [0.0]) * 100 for runs in shares.values()]
            low = [m - min(r.get(name) or [0.0]) * 100 for m, r in zip(medians, shares.values(), strict=True)]
            high = [
                max(r.get(name) or [0.0]) * 100 - m for m, r in zip(medians, shares.values(), strict=True)
            ]
            bars = axes.bar(places, medians, width * 0.92, color=colour(number), label=RESOURCES[name])
            axes.errorbar(places, medians, [low, high], fmt="none", ecolor="black", capsize=3, linewidth=1)
            for bar, most, more in zip(bars, medians, high, strict=True):
                middle = bar.get_x() + bar.get_width() / 2
                axes.text(middle, most + more + 1.5, f"{most:.0f}", ha="center", va="bottom", fontsize=9)
        name_groups(axes, list(shares))
        axes.set_ylim(0, 112)
        axes.set_yticks(range(0, 101, 20))
        axes.set_ylabel("busy (% of makespan x slots)")
        legend_above(made, axes)


def makespan(
    path: Path, seconds: Mapping[str, list[float]], label: str = "makespan (s)", bound: float | None = None
) -> None:
    """Draw the makespan of every run as a dot, the median as a bar, and a lower bound if one is known."""
    with figure(path, 3.8) as (made, (axes,)):
        for index, values in enumerate(seconds.values()):
            middle = statistics.median(values)
            axes.bar(index, middle, 0.55, color=colour(0), alpha=0.4, label="median" if not index else None)
            axes.plot(
                _beside(index, len(values)),
                values,
                "o",
                color=colour(0),
                markeredgecolor="black",
                markersize=6,
                label="one run" if not index else None,
            )
            axes.annotate(
                f"{digits(middle)} s",
                (index, max(values)),
                xytext=(0, 7),
                textcoords="offset points",
                ha="center",
                fontsize=10,
            )
        if bound is not None:
            axes.axhline(bound, color="black", linestyle="--", linewidth=1, label="lower bound")
        name_groups(axes, list(seconds))
        axes.set_ylim(0, max(max(values) for values in seconds.values()) * 1.18)
        axes.set_ylabel(label)
        legend_above(made, axes)


def _beside(index: int, count: int) -> list[float]:
    """Places of ``count`` dots side by side around ``index``."""
    step = min(0.12, 0.4 / max(count, 1))
    return [index + (number - (count - 1) / 2) * step for number in range(count)]
