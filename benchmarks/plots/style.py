"""How all figures look: Agg, readable in a README, colours that colour-blind people can tell apart."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#B8A200", "#666666")
"""Okabe and Ito (2008), with a yellow that can be seen on white."""
GREY = "#8A8A8A"
WIDTH = 8.0
"""Inches; at 96 dots per inch a README shows it unscaled."""

SETTINGS: Any = {
    "font.size": 11,
    "font.family": "DejaVu Sans",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "legend.frameon": False,
    "svg.hashsalt": "tunemesh",
    # Text stays text: small files that can be searched.
    "svg.fonttype": "none",
    "hatch.linewidth": 0.6,
}


@contextmanager
def figure(path: Path, height: float, rows: Sequence[float] = (1,)) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure with panels of these relative heights one above the other, which share their x axis, saved to
    ``path`` at the end."""
    with mpl.rc_context(SETTINGS):
        made = Figure(figsize=(WIDTH, height), layout="constrained")
        FigureCanvasAgg(made)
        panels = made.subplots(
            len(rows), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": list(rows)}
        )
        yield made, [panel for (panel,) in panels.tolist()]
        path.parent.mkdir(parents=True, exist_ok=True)
        # No date: the same results give the same file.
        metadata = {"Date": None} if path.suffix == ".svg" else None
        made.savefig(path, metadata=metadata)


def colour(index: int) -> str:
    """The colour of the ``index``-th thing; they repeat after eight."""
    return COLOURS[index % len(COLOURS)]


def plain_log_scale(axes: Axes, ticks: Sequence[float]) -> None:
    """A logarithmic y axis with ordinary numbers at those of ``ticks`` that are in view, well apart.

    Call it when all is drawn.
    """
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    apart = 0.06 * math.log(high / low)
    shown: list[float] = []
    for tick in sorted(ticks, key=lambda tick: (tick != 1.0, tick)):
        if low <= tick <= high and all(abs(math.log(tick / other)) >= apart for other in shown):
            shown.append(tick)
    axes.yaxis.set_major_locator(FixedLocator(sorted(shown)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _position: f"{value:.3g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def name_groups(axes: Axes, labels: list[str]) -> None:
    """Labels of groups at 0, 1, … on the x axis, in two lines where they are long."""
    shown = [label.replace(", ", ",\n") for label in labels]
    axes.set_xticks(range(len(labels)), shown)
    if max(map(len, "\n".join(shown).split("\n"))) * len(labels) > 75:
        axes.tick_params(axis="x", rotation=20)
    axes.set_xlim(-0.6, len(labels) - 0.4)


def legend_above(made: Figure, axes: Axes, columns: int = 4) -> None:
    """A legend over the whole figure, where it overlaps nothing."""
    handles, labels = axes.get_legend_handles_labels()
    made.legend(handles, labels, loc="outside upper center", ncols=min(columns, len(labels)))
