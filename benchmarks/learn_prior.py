"""Fit what the cost model knows of kernels in general to candidates that were measured.

Reads result folders of ``tunemesh tune`` (their databases, in MetaSchedule's format), of kernels that are
typical and various, and writes the file of :mod:`stage_workers.engines.metaschedule.prior`. With ``--check``
it says, for kernels in other folders, how the ranks of predicted and measured speed correlate (Spearman).

    python -m benchmarks.learn_prior RESULT ... [--check RESULT ...] [--out FILE]
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.markdown import table
from tunemesh.stage_workers.engines.metaschedule import (
    candidates,
    cost_model,
    prior,
    schedules,
)
from tunemesh.stage_workers.engines.metaschedule.database import RECORD_FILE, WORKLOAD_FILE
from tunemesh.stage_workers.graph import targets, workloads

LEAST = 16
"""Measured candidates that a kernel must have."""
LEAST_SCORE = 0.01
"""Of candidates that are slower than that times the best, whose score is 1."""


class Kernel(NamedTuple):
    """One task of a result."""

    name: str
    summaries: npt.NDArray[np.float32]
    latencies: npt.NDArray[np.float64]


def main() -> None:
    """Fit, check, write."""
    parser = argparse.ArgumentParser(description="Fit the prior of the cost model.")
    parser.add_argument("results", nargs="+", type=Path, help="folders with a tuning database")
    parser.add_argument("--check", nargs="+", type=Path, default=[], help="folders of other kernels")
    parser.add_argument("--out", type=Path, default=Path(prior.__file__).with_name(prior.FILE))
    arguments = parser.parse_args()
    trees = fit([kernel for folder in arguments.results for kernel in kernels(folder)])
    arguments.out.write_bytes(trees.save_raw("ubj"))
    rows = [
        [kernel.name, str(len(kernel.latencies)), f"{rank_correlation(trees, kernel):.2f}"]
        for folder in arguments.check
        for kernel in kernels(folder)
    ]
    if rows:
        print("\n".join(table(["kernel", "candidates", "rank correlation"], rows)))
    print(f"{arguments.out}, {arguments.out.stat().st_size / 1000:.0f} kB")


def kernels(folder: Path) -> Iterator[Kernel]:
    """The tasks of a result of which enough was measured."""
    from tvm.s_tir import meta_schedule

    target = targets.resolve("native")
    database = meta_schedule.database.JSONDatabase(str(folder / WORKLOAD_FILE), str(folder / RECORD_FILE))
    tasks: dict[str, list[Any]] = {}
    for record in database.get_all_tuning_records():
        tasks.setdefault(workloads.structural_hash(record.workload.mod), []).append(record)
    for number, records in enumerate(tasks.values()):
        if len(records) < LEAST:
            continue
        workload = workloads.pack(records[0].workload.mod)
        recalled = candidates.recall(workload, target, [schedules.pack(record.trace) for record in records])
        known = [(each, record) for each, record in zip(recalled, records, strict=True) if each is not None]
        yield Kernel(
            name=folder.name if len(tasks) == 1 else f"{folder.name} {number}",
            summaries=cost_model.summaries([each.features for each, _ in known]),
            latencies=np.array([statistics.median(map(float, record.run_secs)) for _, record in known]),
        )


def fit(known: Sequence[Kernel]) -> Any:
    """Trees that predict the logarithms of scores; every kernel counts the same."""
    scores = np.concatenate([cost_model.log_scores(kernel.latencies, LEAST_SCORE) for kernel in known])
    weights = np.concatenate([np.full(len(kernel.latencies), 1 / len(kernel.latencies)) for kernel in known])
    rows = np.concatenate([kernel.summaries for kernel in known])
    return cost_model.train(rows, scores, weight=weights / weights.mean())


def rank_correlation(trees: Any, kernel: Kernel) -> float:
    """Spearman's, of predicted and measured speed; from -1 to 1."""
    predicted = trees.inplace_predict(kernel.summaries)
    return float(np.corrcoef(_ranks(predicted), _ranks(-kernel.latencies))[0, 1])


def _ranks(values: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    return np.argsort(np.argsort(values))


if __name__ == "__main__":
    main()
