"""Use records of Tunemesh in a program that has nothing but TVM.

    tunemesh records export --format metaschedule FOLDER
    TVM_NUM_THREADS=1 python examples/replay_records.py FOLDER

The folder is a database of MetaSchedule. The fastest schedule of each task is compiled, and runs here, on as
many threads as it was tuned for.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm.s_tir import Schedule
from tvm.s_tir.meta_schedule.database import JSONDatabase


def fastest(database: JSONDatabase) -> list[Any]:
    """The record with the lowest latency of each workload."""
    best: dict[int, Any] = {}
    places = {workload: number for number, workload in enumerate(_workloads(database))}
    for record in database.get_all_tuning_records():
        number = places[record.workload]
        if number not in best or _latency(record) < _latency(best[number]):
            best[number] = record
    return list(best.values())


def _workloads(database: JSONDatabase) -> list[Any]:
    return list(dict.fromkeys(record.workload for record in database.get_all_tuning_records()))


def _latency(record: Any) -> float:
    return statistics.median(float(each) for each in record.run_secs)


def compiled(record: Any) -> Any:
    """The kernel, which exports ``main``."""
    schedule = Schedule(record.workload.mod)
    record.trace.apply_to_schedule(schedule, remove_postproc=False)
    return tvm.compile(schedule.mod["main"], target=record.target)


def latency_of(kernel: Any, record: Any) -> float:
    """How long a run of it takes here, in seconds."""
    arrays = [
        tvm.runtime.tensor(np.ones([int(size) for size in each.shape], str(each.dtype)))
        for each in record.args_info
    ]
    evaluator = kernel.mod.time_evaluator("main", tvm.cpu(), number=1, repeat=3, min_repeat_ms=20)
    return float(evaluator(*arrays).median)


def main() -> None:
    """Print a line for each task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    database = JSONDatabase(work_dir=str(given.folder))
    print(f"{len(database)} records of {len(_workloads(database))} tasks")
    for record in fastest(database):
        here = latency_of(compiled(record), record)
        print(f"recorded {_latency(record) * 1e6:8.1f} us, here {here * 1e6:8.1f} us")


if __name__ == "__main__":
    main()
