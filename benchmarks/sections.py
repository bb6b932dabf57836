"""One section of a report: runs that can be compared with each other, in tables and figures."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import markdown, matrix, table, work
from benchmarks.evidence import Evidence
from benchmarks.markdown import middle, ranged, times
from benchmarks.plots import bars, fidelity, gantt, progress
from benchmarks.running import CANDIDATES, REMEASURED, REMEASURING, Bench
from benchmarks.summary import by_label, column, geometric_mean, geometric_spread, paired_ratio, spread
from benchmarks.table import Row

USE = tuple(bars.RESOURCES)


class Section:
    """Runs that can be compared with each other: same models, trials, scenario."""

    def __init__(self, bench: Bench, section: str, rows: list[Row]) -> None:
        self._bench = bench
        self._name = section
        self._suffix = f"-{matrix.slug(section)}" if section else ""
        self._labels = list(dict.fromkeys(matrix.label(run) for run in matrix.runs(bench.experiment)))
        self._rows = [row for row in rows if row["section"] == section]
        self._done = by_label([row for row in self._rows if row["status"] == "done"], self._labels)

    def lines(self) -> list[str]:
        """The section in Markdown; its figures are drawn on the way."""
        lines = [f"## {self._name}", ""] if self._name else []
        if not self._done:
            return [*lines, "No run was done.", ""]
        kept = {label: self._bench.evidence(group) for label, group in self._done.items()}
        lines += self._time()
        lines += self._gantt(kept)
        if self._bench.experiment.kind == "simulation":
            lines += self._jobs()
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
            cells = [label, f"{len(group)} of {total}", ranged(column(group, "makespan_s"))]
            cells.append(times(paired_ratio(group, base, "makespan_s")))
            if simulated:
                cells.append(times(geometric_mean(column(group, "ratio"))))
            else:
                cells += [ranged(column(group, "steps_s")), times(paired_ratio(group, base, "steps_s"))]
                cells.append(middle(column(group, "measured")))
            cells += [middle([share * 100 for share in column(group, name)], " %") for name in USE]
            body.append(cells)
        utilisation = {
            label: {name: column(group, name) for name in USE} for label, group in self._done.items()
        }
        makespan = {
            label: column(group, "makespan_s" if simulated else "steps_s")
            for label, group in self._done.items()
        }
        title = "makespan (s)" if simulated else "makespan without start-up (s)"
        least = bound.median if bound is not None and bound.least == bound.most else None
        return [
            "### Time and utilisation",
            "",
            *markdown.table(headers, body),
            "",
            *self._figure("makespan", "Makespan by run", lambda p: bars.makespan(p, makespan, title, least)),
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

    def _jobs(self) -> list[str]:
        """When jobs end in virtual time, and how much of the devices each tenant had."""
        used = {
            label: [table.numbers(row, "device_s") for row in group] for label, group in self._done.items()
        }
        tenants = sorted({name for group in used.values() for each in group for name in each})
        body = []
        for label, group in self._done.items():
            ends = [
                statistics.fmean(table.numbers(row, "completions_s").values())
                for row in group
                if row["completions_s"] != "{}"
            ]
            devices = [[each.get(tenant, 0.0) for each in used[label]] for tenant in tenants]
            body.append([label, ranged(ends), *map(ranged, devices), middle(column(group, "decision_us"))])
        headers = [
            "",
            "mean time to a job's end (s)",
            *(f"device of {tenant or 'all'} (s)" for tenant in tenants),
        ]
        return ["### Jobs and tenants", "", *markdown.table([*headers, "decision (us)"], body), ""]

    def _models(self, turns: list[Row]) -> list[str]:
        """Latencies by model: what the mesh reported, and where measured again, that on the idle machine."""
        reported = {
            label: [table.numbers(row, "models_ms") for row in group] for label, group in self._done.items()
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
            cells = [name, *(ranged(group) for group in values.values())]
            for label, group in values.items():
                if label != base:
                    ratio = _over(group, values[base])
                    ratios.setdefault(label, []).extend([ratio] if ratio is not None else [])
                    cells.append(times(ratio))
            body.append(cells)
        means = [times(geometric_mean(ratios.get(label, []))) for label in self._done if label != base]
        body.append(["geometric mean", *("" for _ in self._done), *means])
        failed = work.read_result(self._bench.out / REMEASURING)
        lost = f" Measuring them again failed: {failed.error}." if failed is not None and failed.error else ""
        source = (
            "Measured again on the idle machine, all runs' models taking turns; median over runs, and range."
            if again
            else f"As reported by each run; median over runs, and range.{lost}"
        )
        return [source, "", *markdown.table(headers, body)]

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
                times(geometric_mean(ratios)),
                times(geometric_spread(ratios)),
            ]
            cells += [times(max(ratios, default=None)), times(geometric_mean(winners))]
            cells += [
                times(geometric_mean(noise)),
                times(geometric_spread(noise)),
                times(max(noise, default=None)),
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
        figure = (
            self._figure("fidelity", "In the mesh over alone", lambda path: fidelity.fidelity(path, drawn))
            if drawn
            else []
        )
        return [
            "### Fidelity of the measurements",
            "",
            "Latency in the mesh over latency alone on the idle machine: geometric mean, geometric standard"
            " deviation, worst. Noise is the same of a second measurement alone over the first.",
            "",
            *markdown.table(headers, body),
            "",
            *figure,
        ]

    def _figure(self, name: str, title: str, draw: Callable[[Path], None]) -> list[str]:
        path = Path("figures", f"{name}{self._suffix}.svg")
        draw(self._bench.out / path)
        return [f"![{title}]({path})", ""]


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
