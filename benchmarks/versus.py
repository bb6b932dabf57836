"""The mesh against MetaSchedule: how fast it tries, how good what it finds is, when it was as good."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks import evidence, markdown, matrix, table
from benchmarks.evidence import Evidence, TaskCurve
from benchmarks.markdown import times
from benchmarks.overhead import PARTS
from benchmarks.plots.progress import best_latency, progress
from benchmarks.running import REMEASURED, Bench
from benchmarks.summary import column, geometric_mean, paired_ratio, pairs
from benchmarks.table import Row, number

MESH = "tunemesh"
STAGES = {"update": "propose", "build": "build", "profile": "profile"}


def lines(bench: Bench, sections: Sequence[str], rows: Sequence[Row]) -> list[str]:
    """A table of ratios for every other tuner, with a line per section and their geometric mean, and one of
    where the time of a trial goes."""
    done = [row for row in rows if row["status"] == "done"]
    groups = {section: [row for row in done if row["section"] == section] for section in sections}
    turns = table.read(bench.out / REMEASURED)
    out = ["## Against MetaSchedule", ""]
    for other in bench.experiment.axis("tuner"):
        if other != MESH:
            out += [f"### {other}", "", *_ratios(bench, groups, turns, other), ""]
    out += ["### Where the time of a trial goes", "", *_stages(bench, groups), ""]
    return [*out, "### Best latency over time", "", *_figures(bench, groups)]


def _ratios(bench: Bench, groups: dict[str, list[Row]], turns: Sequence[Row], other: str) -> list[str]:
    headers = [
        "",
        f"{other}: trials/s",
        f"{MESH}: trials/s",
        "times as fast",
        "with import, assembly",
        f"final latency / {other}",
        f"time to its final latency / {other}",
    ]
    body, means = [], [list[float](), list[float](), list[float](), list[float]()]
    for section, rows in groups.items():
        mesh = [row for row in rows if row["tuner"] == MESH]
        theirs = [row for row in rows if row["tuner"] == other]
        whole = _inverse(paired_ratio(mesh, theirs, "makespan_s"))
        found = [
            _rate_ratio(mesh, theirs),
            whole,
            _latency_ratio(turns, mesh, theirs),
            _time_ratio(bench, mesh, theirs),
        ]
        for values, value in zip(means, found, strict=True):
            values += [value] if value is not None else []
        rates = [markdown.middle(list(map(_rate, side))) for side in (theirs, mesh)]
        body.append([section or "all", *rates, *map(times, found)])
    body.append(["geometric mean", "", "", *(times(geometric_mean(values)) for values in means)])
    return markdown.table(headers, body)


def _stages(bench: Bench, groups: dict[str, list[Row]]) -> list[str]:
    """Seconds per trial, medians over the runs."""
    body = []
    for section, rows in groups.items():
        for tuner in bench.experiment.axis("tuner"):
            own = [row for row in rows if row["tuner"] == tuner and row["stages_s"]]
            if not own:
                continue
            trials = [number(row, "trials_done") or 1.0 for row in own]
            spent = [table.numbers(row, "stages_s") for row in own]
            cells = [
                f"{statistics.median(s.get(stage, 0.0) / n for s, n in zip(spent, trials, strict=True)):.3f}"
                for stage in STAGES
            ]
            wall = [t / n for t, n in zip(column(own, "tuning_s"), trials, strict=True)]
            cells += [f"{statistics.median(wall):.3f}", _moving(own)]
            body.append([f"{section}, {tuner}" if section else tuner, *cells])
    headers = [
        "seconds per trial",
        *STAGES.values(),
        "wall",
        "broker + coordinator + workers, of the makespan",
    ]
    return markdown.table(headers, body)


def _moving(rows: Sequence[Row]) -> str:
    """CPU time of what moves the steps about, as medians of its shares of the makespan; empty without any."""
    spent = [(table.numbers(row, "mesh_cpu_s"), number(row, "makespan_s")) for row in rows]
    known = [[100 * parts_s[part] / whole for part in PARTS] for parts_s, whole in spent if parts_s and whole]
    if not known:
        return ""
    return " + ".join(f"{statistics.median(shares):.1f}" for shares in zip(*known, strict=True)) + " %"


def _figures(bench: Bench, groups: dict[str, list[Row]]) -> list[str]:
    lines = []
    for section, rows in groups.items():
        mesh = [row for row in rows if row["tuner"] == MESH]
        kept = {
            tuner: [
                _with_untuned(found, evidence.load(bench.folder(against["run"])))
                for row, against in pairs([row for row in rows if row["tuner"] == tuner], mesh)
                if (found := evidence.load(bench.folder(row["run"]))) is not None
            ]
            for tuner in bench.experiment.axis("tuner")
        }
        if all(kept.values()):
            path = Path("figures", f"progress-{matrix.slug(section)}.svg")
            progress(bench.out / path, kept)
            lines += [f"![{section}]({path})", ""]
    return lines


def _rate(row: Row) -> float:
    """Trials per second."""
    return (number(row, "trials_done") or 0.0) / (number(row, "tuning_s") or 1.0)


def _rate_ratio(mesh: Sequence[Row], theirs: Sequence[Row]) -> float | None:
    """Median over the pairs of a block. Not of times: MetaSchedule ends with whole batches, which may be more
    trials than it was asked for."""
    ratios = [_rate(row) / rate for row, against in pairs(mesh, theirs) if (rate := _rate(against))]
    return statistics.median(ratios) if ratios else None


def _inverse(ratio: float | None) -> float | None:
    return 1.0 / ratio if ratio else None


def _latency_ratio(turns: Sequence[Row], mesh: Sequence[Row], theirs: Sequence[Row]) -> float | None:
    """Of the tuned models, measured again, taking turns: geometric mean over the pairs of a block."""
    ratios = [
        statistics.median(own) / statistics.median(others)
        for row, against in pairs(mesh, theirs)
        if (own := column([t for t in turns if t["run"] == row["run"]], "latency_s"))
        and (others := column([t for t in turns if t["run"] == against["run"]], "latency_s"))
    ]
    return geometric_mean(ratios)


def _time_ratio(bench: Bench, mesh: Sequence[Row], theirs: Sequence[Row]) -> float | None:
    """When the mesh first knew a latency as low as the other's last one (both as each measured itself), over
    the other's whole time. Runs in which it never did count with their whole time, and at least as 1."""
    ratios = []
    for row, against in pairs(mesh, theirs):
        own, other = evidence.load(bench.folder(row["run"])), evidence.load(bench.folder(against["run"]))
        took, whole = number(against, "tuning_s"), number(row, "tuning_s")
        if own is None or other is None or not own.curves or not took or not whole:
            continue
        other = _with_untuned(other, own)
        if not other.curves or not all(curve.untuned or curve.measured for curve in other.curves):
            continue
        began = min(bar.started for bar in own.bars if bar.stage in evidence.TASK_STAGES)
        reached = _when(own.curves, best_latency(other.curves)[-1][1])
        ratios.append((reached - began) / took if reached is not None else max(whole / took, 1.0))
    return geometric_mean(ratios)


def _with_untuned(found: Evidence, mesh: Evidence | None) -> Evidence:
    """MetaSchedule measures no untuned workload and leaves tasks out where trials are few: these count as the
    mesh measured them untuned. Both have the same tasks in the same order."""
    if mesh is None or len(found.curves) != len(mesh.curves):
        return found
    curves = [
        curve if curve.measured else msgspec.structs.replace(curve, untuned=same.untuned)
        for curve, same in zip(found.curves, mesh.curves, strict=True)
    ]
    return msgspec.structs.replace(found, curves=curves)


def _when(curves: Sequence[TaskCurve], latency: float) -> float | None:
    """When the sum over the tasks of weight times best latency was first so low; ``None``: never."""
    best = [curve.untuned if curve.untuned is not None else math.inf for curve in curves]
    known = sorted((m.at, number, m.latency) for number, c in enumerate(curves) for m in c.measured)
    for at, place, found in known:
        best[place] = min(best[place], found)
        if sum(c.weight * each for c, each in zip(curves, best, strict=True)) <= latency:
            return at
    return None
