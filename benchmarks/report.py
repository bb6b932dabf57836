"""The report of an experiment, from its tables alone: Markdown, with figures beside it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from benchmarks import evidence, matrix, table
from benchmarks.evidence import Evidence
from benchmarks.plots import bars, fidelity, gantt, progress
from benchmarks.running import CANDIDATES, COMMAND, REMEASURED, RUNS, Bench
from benchmarks.summary import by_label, column, geometric_mean, geometric_spread, paired_ratio, spread
from benchmarks.table import Row

USE = tuple(bars.RESOURCES)
LOADED = 0.15
"""Share of the cores that may be busy before a run without a word about it."""


def render(bench: Bench) -> Path:
    """Write ``report.md`` and the figures; returns the report."""
    rows = table.read(bench.out / RUNS)
    lines = [f"# {bench.experiment.name}", ""]
    if bench.experiment.description:
        lines += [" ".join(bench.experiment.description.split()), ""]
    lines += _conditions(bench, rows)
    sections = list(dict.fromkeys(matrix.section(run) for run in matrix.runs(bench.experiment)))
    for section in sections:
        lines += _Section(bench, section, rows).lines()
    lines += _all_runs(rows)
    path = bench.out / "report.md"
    path.write_text("\n".join(lines) + "\n")
    return path


class _Section:
    """Runs that can be compared with each other: same models, trials, scenario."""

    def __init__(self, bench: Bench, section: str, rows: list[Row]) -> None:
        self._bench = bench
        self._name = section
        self._suffix = f"-{re.sub(r'[^A-Za-z0-9]+', '-', section).strip('-')}" if section else ""
        self._labels = list(dict.fromkeys(matrix.label(run) for run in matrix.runs(bench.experiment)))
        self._rows = [row for row in rows if row["section"] == section]
        self._done = by_label([row for row in self._rows if row["status"] == "done"], self._labels)

    def lines(self) -> list[str]:
        lines = [f"## {self._name}", ""] if self._name else []
        if not self._done:
            return [*lines, "No run was done.", ""]
        kept = {
            label: [e for row in group if (e := evidence.load(self._bench.folder(row["run"]))) is not None]
            for label, group in self._done.items()
        }
        lines += self._time()
        lines += self._gantt(kept)
        if self._bench.experiment.kind == "mesh":
            lines += self._latency(kept)
            lines += self._fidelity()
        return lines

    def _time(self) -> list[str]:
        base_label, base = next(iter(self._done.items()))
        simulated = self._bench.experiment.kind == "simulation"
        bound = spread(column(self._rows, "lower_bound_s")) if simulated else None
        headers = ["", "runs", "makespan (s): median, range", f"/ {base_label}"]
        headers += ["/ lower bound"] if simulated else ["without start-up (s)", f"/ {base_label}", "measured"]
        headers += [f"{name} busy" for name in bars.RESOURCES.values()]
        body = []
        for label, group in self._done.items():
            total = sum(row["label"] == label for row in self._rows)
            cells = [label, f"{len(group)} of {total}", _ranged(column(group, "makespan_s"))]
            cells.append(_times(paired_ratio(group, base, "makespan_s")))
            if simulated:
                cells.append(_times(geometric_mean(column(group, "ratio"))))
            else:
                cells += [_ranged(column(group, "steps_s")), _times(paired_ratio(group, base, "steps_s"))]
                cells.append(_middle(column(group, "measured")))
            cells += [_middle([share * 100 for share in column(group, name)], " %") for name in USE]
            body.append(cells)
        utilisation = {
            label: {name: column(group, name) for name in USE} for label, group in self._done.items()
        }
        makespan = {
            label: column(group, "makespan_s" if simulated else "steps_s")
            for label, group in self._done.items()
        }
        least = bound.median if bound is not None and bound.least == bound.most else None
        return [
            "### Time and utilisation",
            "",
            *_markdown(headers, body),
            "",
            *self._figure("makespan", "Makespan by run", lambda p: bars.makespan(p, makespan, least)),
            *self._figure(
                "utilisation", "Busy share of resources", lambda p: bars.utilisation(p, utilisation)
            ),
        ]

    def _gantt(self, kept: dict[str, list[Evidence]]) -> list[str]:
        chosen = {label: group[0] for label, group in kept.items() if group and group[0].bars}
        if not chosen:
            return []
        return self._figure(
            "gantt", "Who worked when, first run of each", lambda path: gantt.gantt(path, chosen)
        )

    def _latency(self, kept: dict[str, list[Evidence]]) -> list[str]:
        turns = [row for row in table.read(self._bench.out / REMEASURED) if row["section"] == self._name]
        lines = ["### Tuned models", "", *self._models(turns), ""]
        if any(e.curves for group in kept.values() for e in group):
            lines += self._figure(
                "progress", "Best latency over time", lambda path: progress.progress(path, kept)
            )
        return lines

    def _models(self, turns: list[Row]) -> list[str]:
        """Latencies by model: what the mesh reported, and where measured again, that on the idle machine."""
        reported = {
            label: [msgspec.json.decode(row["models_ms"], type=dict[str, float]) for row in group]
            for label, group in self._done.items()
        }
        names = sorted({name for group in reported.values() for models in group for name in models})
        again = by_label(turns, self._labels)
        base = next(iter(self._done))
        headers = ["model", *(f"{label} (ms)" for label in self._done)]
        headers += [f"{label} / {base}" for label in self._done if label != base]
        body, ratios = [], dict[str, list[float]]()
        for name in names:
            values = {
                label: _idle_ms(again[label], name)
                if label in again
                else [m[name] for m in group if name in m]
                for label, group in reported.items()
            }
            cells = [name, *(_ranged(group) for group in values.values())]
            for label, group in values.items():
                if label != base:
                    ratio = _over(group, values[base])
                    ratios.setdefault(label, []).extend([ratio] if ratio is not None else [])
                    cells.append(_times(ratio))
            body.append(cells)
        means = [_times(geometric_mean(ratios.get(label, []))) for label in self._done if label != base]
        body.append(["geometric mean", *("" for _ in self._done), *means])
        source = (
            "Measured again on the idle machine, all runs' models taking turns; median over runs, and range."
            if again
            else "As reported by each run; median over runs, and range."
        )
        return [source, "", *_markdown(headers, body)]

    def _fidelity(self) -> list[str]:
        everything = [row for row in table.read(self._bench.out / CANDIDATES) if row["section"] == self._name]
        groups = by_label(everything, self._labels)
        if not groups:
            return []
        body = []
        for label, group in groups.items():
            ratios, noise = column(group, "ratio"), column(group, "noise")
            winners = column([row for row in group if row["winner"] == "yes"], "ratio")
            cells = [
                label,
                str(len(ratios)),
                _times(geometric_mean(ratios)),
                _times(geometric_spread(ratios)),
            ]
            cells += [_times(max(ratios, default=None)), _times(geometric_mean(winners))]
            cells += [
                _times(geometric_mean(noise)),
                _times(geometric_spread(noise)),
                _times(max(noise, default=None)),
            ]
            body.append(cells)
        headers = [
            "",
            "candidates",
            "mesh / alone",
            "spread",
            "worst",
            "winners only",
            "noise",
            "spread",
            "worst",
        ]
        pairs = {label: (column(group, "ratio"), column(group, "noise")) for label, group in groups.items()}
        drawn = {label: pair for label, pair in pairs.items() if pair[0]}
        figure = self._figure(
            "fidelity", "In the mesh over alone", lambda path: fidelity.fidelity(path, drawn)
        )
        return [
            "### Fidelity of the measurements",
            "",
            "Latency in the mesh over latency alone on the idle machine: geometric mean, geometric standard"
            " deviation, worst. Noise is the same of a second measurement alone over the first.",
            "",
            *_markdown(headers, body),
            "",
            *(figure if drawn else []),
        ]

    def _figure(self, name: str, title: str, draw: Callable[[Path], None]) -> list[str]:
        path = Path("figures", f"{name}{self._suffix}.svg")
        draw(self._bench.out / path)
        return [f"![{title}]({path})", ""]


def _conditions(bench: Bench, rows: list[Row]) -> list[str]:
    command = bench.out / COMMAND
    made = command.read_text().strip() if command.exists() else ""
    again = shlex.join(["tunemesh", "bench", str(bench.source), "--out", str(bench.out), "--render-only"])
    lines = [
        "Made by",
        "",
        "```sh",
        made or "tunemesh bench",
        f"{again}  # this report, from the tables",
        "```",
        "",
    ]
    if not rows:
        return [*lines, "No run has ended yet.", ""]
    planned = len(matrix.runs(bench.experiment))
    done = sum(row["status"] == "done" for row in rows)
    machines = "; ".join(dict.fromkeys(f"{row['cpu_model']}, {row['cores']} cores" for row in rows))
    versions = "; ".join(
        dict.fromkeys(
            f"commit {r['git_commit'] or r['version']}, Python {r['python']}, TVM {r['tvm']}" for r in rows
        )
    )
    hours = sum(column(rows, "duration_s")) / 3600
    lines.append(
        f"Experiment {bench.experiment.hash}: {done} of {planned} runs done, {hours:.2f} h, first started"
        f" {min(row['started'] for row in rows)}, on {machines}; {versions}."
    )
    loaded = [row["run"] for row in rows if (table.number(row, "busy_before") or 0.0) > LOADED]
    if loaded and bench.experiment.kind == "mesh":
        lines.append(
            f"**The machine was not idle before {len(loaded)} of {len(rows)} runs** (over {LOADED:.0%} of"
            f" its cores' time was used): {', '.join(loaded)}."
        )
    return [*lines, ""]


def _all_runs(rows: list[Row]) -> list[str]:
    names = (
        "run",
        "status",
        "makespan_s",
        "duration_s",
        "busy_before",
        "latency_after_ms",
        "fidelity_mean",
        "error",
    )
    shown = [name for name in names if any(row.get(name) for row in rows)]
    body = [[row.get(name, "") for name in shown] for row in rows]
    return ["## All runs", "", *_markdown(shown, body), "", f"Every column is in [{RUNS}]({RUNS})."]


def _idle_ms(turns: Sequence[Row], model: str) -> list[float]:
    """Median latency of each run's model in milliseconds."""
    own = [row for row in turns if row["model"] == model]
    runs = dict.fromkeys(row["run"] for row in own)
    found = [spread(column([row for row in own if row["run"] == run], "latency_s")) for run in runs]
    return [each.median * 1e3 for each in found if each is not None]


def _over(values: Sequence[float], base: Sequence[float]) -> float | None:
    """Geometric mean over geometric mean."""
    above, below = geometric_mean(values), geometric_mean(base)
    return above / below if above is not None and below else None


def _markdown(headers: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---", *("---:" for _ in headers[1:])]
    return [f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |" for cells in (headers, rule, *body)]


def _ranged(values: Sequence[float]) -> str:
    found = spread(values)
    if found is None:
        return ""
    return f"{found.median:.3g}" + (f" ({found.least:.3g} to {found.most:.3g})" if found.count > 1 else "")


def _middle(values: Sequence[float], unit: str = "") -> str:
    found = spread(values)
    return "" if found is None else f"{found.median:.3g}{unit}"


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.3f}"
