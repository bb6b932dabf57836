"""How much of the best known each search has found, over trials or over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.ticker import NullLocator

from benchmarks.plots.style import COLOURS, colour, figure, legend_above

Curve = Sequence[tuple[float, float]]
"""What is known from each number of trials, or second, on: a share from 0 to 1."""


def shares(path: Path, panels: Mapping[str, Mapping[str, Curve]], what: str, ticks: Sequence[float]) -> None:
    """A panel for each table or operator, with a line for each search; the x axis is logarithmic, from the
    first of the ticks to the last. ``what`` it counts."""
    makers = list(dict.fromkeys(maker for curves in panels.values() for maker in curves))
    with figure(path, 1.2 + 3.0 * len(panels), [1] * len(panels)) as (made, all_axes):
        for axes, (title, curves) in zip(all_axes, panels.items(), strict=True):
            for maker, curve in curves.items():
                index = makers.index(maker)
                axes.plot(
                    [x for x, _ in curve],
                    [share for _, share in curve],
                    drawstyle="steps-post",
                    color=colour(index),
                    linestyle="-" if index < len(COLOURS) else "--",
                    linewidth=1.8,
                    label=maker,
                )
            axes.set_title(title, fontsize=11, loc="left")
            axes.set_xscale("log")
            axes.set_xlim(ticks[0], ticks[-1])
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.xaxis.set_minor_locator(NullLocator())
            lowest = min((y for curve in curves.values() for x, y in curve if x >= ticks[0]), default=0.5)
            axes.set_ylim(max(lowest, 0.3) - 0.02, 1.0)
            axes.set_ylabel("share of the best known")
        all_axes[-1].set_xlabel(what)
        legend_above(made, all_axes[0], columns=5)
