"""What a mesh holds while jobs come and go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.plots.style import colour, figure

PANEL = 1.9
"""Inches."""


def soak(path: Path, minutes: Sequence[float], panels: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """Draw a panel for each unit, with a line for each name."""
    with figure(path, PANEL * len(panels), (1,) * len(panels)) as (_, drawn):
        for axes, (unit, lines) in zip(drawn, panels.items(), strict=True):
            for index, (name, values) in enumerate(lines.items()):
                axes.plot(minutes, values, color=colour(index), label=name, linewidth=1.3)
            axes.set_ylabel(unit)
            axes.set_ylim(bottom=0)
            axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        drawn[-1].set_xlabel("minutes")
