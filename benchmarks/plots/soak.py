"""What a mesh holds while jobs come and go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.axes import Axes

from benchmarks.plots.style import colour, figure

if TYPE_CHECKING:
    from benchmarks.soak import Sample


def soak(path: Path, samples: Sequence[Sample]) -> None:
    """Memory, descriptors, messages and files over time."""
    minutes = [each.at / 60 for each in samples]
    last = samples[-1]
    with figure(path, 10.0, (1, 1, 1, 1, 1)) as (_, panels):
        memory, descriptors, messages, disk, jobs = panels
        _draw(memory, minutes, {k: [e.memory.get(k, 0) / 1e6 for e in samples] for k in last.memory}, "MB")
        _draw(
            descriptors,
            minutes,
            {k: [e.descriptors.get(k, 0) for e in samples] for k in last.descriptors},
            "descriptors",
        )
        held = {"waiting": [e.ready for e in samples], "held": [e.held for e in samples]}
        _draw(messages, minutes, held, "messages")
        _draw(disk, minutes, {k: [e.disk[k] / 1e6 for e in samples] for k in last.disk}, "MB on disk")
        _draw(jobs, minutes, {"jobs that have ended": [e.ended for e in samples]}, "jobs")
        jobs.set_xlabel("minutes")


def _draw(axes: Axes, at: Sequence[float], lines: Mapping[str, Sequence[float]], unit: str) -> None:
    for index, (name, values) in enumerate(lines.items()):
        axes.plot(at, values, color=colour(index), label=name, linewidth=1.3)
    axes.set_ylabel(unit)
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
