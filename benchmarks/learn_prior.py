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
from stage_workers.engines.metaschedule import MetaScheduleEngine, contexts, cost_model, prior, workloads
from stage_workers.engines.metaschedule.records import RECORD_FILE, WORKLOAD_FILE

LEAST = 16
"""Measured candidates of a kernel from which it is learned from."""
LEAST_SCORE = 0.01
ROUNDS = 100


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
    import tvm
    from tvm.s_tir import meta_schedule

    target = MetaScheduleEngine().resolve_target("native")
    database = meta_schedule.database.JSONDatabase(str(folder / WORKLOAD_FILE), str(folder / RECORD_FILE))
    tasks: dict[str, list[Any]] = {}
    for record in database.get_all_tuning_records():
        tasks.setdefault(workloads.structural_hash(record.workload.mod), []).append(record)
    for number, records in enumerate(tasks.values()):
        if len(records) < LEAST:
            continue
        module = records[0].workload.mod
        info = meta_schedule.arg_info.ArgInfo.from_prim_func(module["main"])
        candidates = []
        for record in records:
            scheduled = tvm.s_tir.Schedule(module)
            record.trace.apply_to_schedule(scheduled, remove_postproc=False)
            candidates.append(meta_schedule.MeasureCandidate(scheduled, info))
        features = cost_model.extract(contexts.make(module, target), candidates)
        yield Kernel(
            name=folder.name if len(tasks) == 1 else f"{folder.name} {number}",
            summaries=cost_model.summaries(features),
            latencies=np.array([statistics.median(map(float, record.run_secs)) for record in records]),
        )


def fit(known: Sequence[Kernel]) -> Any:
    """Trees that predict the logarithms of scores; every kernel counts the same."""
    import xgboost

    scores = np.concatenate([_scores(kernel) for kernel in known])
    weights = np.concatenate([np.full(len(kernel.latencies), 1 / len(kernel.latencies)) for kernel in known])
    rows = np.concatenate([kernel.summaries for kernel in known])
    data = xgboost.DMatrix(rows, label=scores, weight=weights / weights.mean())
    parameters = {**cost_model.PARAMETERS, "base_score": float(scores.mean())}
    return xgboost.train(parameters, data, num_boost_round=ROUNDS)


def rank_correlation(trees: Any, kernel: Kernel) -> float:
    """Spearman's, of predicted and measured speed; from -1 to 1."""
    predicted = trees.inplace_predict(kernel.summaries)
    return float(np.corrcoef(_ranks(predicted), _ranks(-kernel.latencies))[0, 1])


def _scores(kernel: Kernel) -> npt.NDArray[np.float64]:
    scores: npt.NDArray[np.float64] = np.maximum(kernel.latencies.min() / kernel.latencies, LEAST_SCORE)
    return np.log(scores)


def _ranks(values: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    return np.argsort(np.argsort(values))


if __name__ == "__main__":
    main()
