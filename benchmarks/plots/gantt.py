"""Who worked when: one row per worker, one panel per thing that is compared, all on the same time scale."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path as File

from matplotlib.axes import Axes
from matplotlib.patches import Patch, PathPatch
from matplotlib.path import Path

from benchmarks.evidence import Bar, Evidence, kind_of
from benchmarks.plots.style import colour, figure

HATCHES = {
    "import": "---",
    "model-update": "",
    "build": "",
    "profile": "",
    "assemble": "xxx",
    "validate": "///",
}
"""Of stages. Model updates, builds and profiles have rows of their own and need none."""
ORDER = ("update", "build", "profile")


def gantt(path: File, chosen: Mapping[str, Evidence]) -> None:
    """Draw the runs, by label."""
    rows = {label: _rows(evidence) for label, evidence in chosen.items()}
    jobs = list(dict.fromkeys(bar.job for evidence in chosen.values() for bar in evidence.bars))
    stages = {bar.stage for evidence in chosen.values() for bar in evidence.bars}
    height = 1.2 + sum(0.75 + 0.28 * len(each) for each in rows.values())
    with figure(path, height, [1 + len(each) for each in rows.values()]) as (made, panels):
        for panel, (label, evidence) in zip(panels, chosen.items(), strict=True):
            _panel(panel, evidence, rows[label], jobs)
            panel.set_title(f"{label}: {evidence.makespan:.0f} s", loc="left", fontsize=11)
        panels[-1].set_xlabel("time since the first request (s)")
        panels[-1].set_xlim(0, max(evidence.makespan for evidence in chosen.values()) * 1.01)
        handles = [Patch(facecolor=colour(index), label=job) for index, job in enumerate(jobs)]
        handles += [
            Patch(facecolor="white", edgecolor="black", hatch=hatch, label=stage)
            for stage, hatch in HATCHES.items()
            if hatch and stage in stages
        ]
        made.legend(handles=handles, loc="outside upper center", ncols=4)


def _panel(panel: Axes, evidence: Evidence, rows: list[tuple[str, str]], jobs: list[str]) -> None:
    spans: dict[tuple[int, str, str], list[tuple[float, float]]] = defaultdict(list)
    place = {worker: index for index, (worker, _) in enumerate(rows)}
    for bar in evidence.bars:
        spans[place[bar.worker], bar.job, bar.stage].append((bar.started, bar.finished - bar.started))
    for (row, job, stage), pieces in sorted(spans.items()):
        hatch = HATCHES.get(stage, "")
        patch = PathPatch(
            _boxes(pieces, row - 0.4, 0.8),
            facecolor=colour(jobs.index(job)),
            edgecolor="black" if hatch else "none",
            linewidth=0.3,
            hatch=hatch,
        )
        panel.add_patch(patch)
    panel.axvline(evidence.makespan, color="black", linewidth=0.8, linestyle=":")
    panel.set_yticks(range(len(rows)), [shown for _, shown in rows])
    panel.set_ylim(len(rows) - 0.4, -0.6)
    panel.grid(axis="x")
    panel.grid(visible=False, axis="y")


def _boxes(pieces: list[tuple[float, float]], bottom: float, height: float) -> Path:
    """One path for all boxes: a thousand elements of their own would make the file large."""
    return Path.make_compound_path(
        *(
            Path(
                [(x, bottom), (x + w, bottom), (x + w, bottom + height), (x, bottom + height), (x, bottom)],
                closed=True,
            )
            for x, w in pieces
        )
    )


def _rows(evidence: Evidence) -> list[tuple[str, str]]:
    """Workers with the names of their rows: updates first, devices last."""
    first: dict[str, Bar] = {}
    for bar in evidence.bars:
        first.setdefault(bar.worker, bar)
    kinds = {worker: kind_of(bar.resource) for worker, bar in first.items()}
    ordered = sorted(first, key=lambda worker: (_rank(kinds[worker]), first[worker].resource, worker))
    count: dict[str, int] = defaultdict(int)
    rows = []
    for worker in ordered:
        resource = first[worker].resource
        count[resource] += 1
        several = sum(bar.resource == resource for bar in first.values()) > 1
        rows.append((worker, f"{resource} {count[resource]}" if several else resource))
    return rows


def _rank(kind: str) -> int:
    return ORDER.index(kind) if kind in ORDER else len(ORDER)
