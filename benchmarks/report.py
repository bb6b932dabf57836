"""The report of an experiment, from its tables alone: Markdown, with figures beside it."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from benchmarks import markdown, matrix, table, versus
from benchmarks.running import COMMAND, RUNS, Bench
from benchmarks.sections import Section
from benchmarks.summary import column
from benchmarks.table import Row

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
    if len(bench.experiment.axis("tuner")) > 1:
        lines += versus.lines(bench, sections, rows)
        sections = []
    for section in sections:
        lines += Section(bench, section, rows).lines()
    lines += _all_runs(rows)
    path = bench.out / "report.md"
    path.write_text("\n".join(lines) + "\n")
    return path


def _conditions(bench: Bench, rows: list[Row]) -> list[str]:
    command = bench.out / COMMAND
    made = command.read_text().strip() if command.exists() else ""
    places = [os.path.relpath(bench.source), "--out", os.path.relpath(bench.out)]
    again = shlex.join(["tunemesh", "bench", *places, "--render-only"])
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
    return ["## All runs", "", *markdown.table(shown, body), "", f"Every column is in [{RUNS}]({RUNS})."]
