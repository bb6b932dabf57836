"""What the mesh measured over what the candidate takes alone."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

from benchmarks.plots.style import GREY, colour, figure, legend_above, name_groups, plain_log_scale
from benchmarks.summary import geometric_mean

MESH, NOISE = "in the mesh / alone", "noise: alone again / alone"
TICKS = (0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2, 1.4, 1.7, 2.0, 3.0, 5.0, 10.0, 20.0)
WIDTH = 0.26
"""Of a cloud of dots, in groups."""


def fidelity(path: Path, ratios: Mapping[str, tuple[list[float], list[float]]]) -> None:
    """Draw every candidate as a dot: in the mesh over alone, and beside it the noise (alone over alone)."""
    chance = random.Random(0)
    with figure(path, 4.4) as (made, (axes,)):
        axes.axhline(1.0, color="black", linewidth=0.8)
        for index, (mesh, noise) in enumerate(ratios.values()):
            clouds = ((index - 0.2, mesh, colour(0), MESH), (index + 0.2, noise, GREY, NOISE))
            for middle, values, paint, name in clouds:
                places = [middle + (chance.random() - 0.5) * WIDTH for _ in values]
                first = None if index else name
                axes.plot(places, values, "o", color=paint, alpha=0.55, markersize=4, mew=0, label=first)
                mean = geometric_mean(values)
                if mean is not None:
                    half = WIDTH / 2 + 0.03
                    axes.hlines(
                        mean, middle - half, middle + half, color="black", linewidth=2.2,
                        label="_mean" if index or name != MESH else "geometric mean",
                    )  # fmt: skip
                    axes.annotate(
                        f"mean {mean:.2f}", (middle, max(values)), xytext=(0, 5), textcoords="offset points",
                        ha="center", fontsize=8.5,
                    )  # fmt: skip
        every = [value for pair in ratios.values() for values in pair for value in values]
        axes.set_ylim(min(0.9, min(every) / 1.08), max(1.15, max(every) * 1.25))
        plain_log_scale(axes, TICKS)
        name_groups(axes, list(ratios))
        axes.set_ylabel("ratio of latencies (1 = undisturbed)")
        legend_above(made, axes)
