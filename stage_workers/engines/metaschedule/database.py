"""What was measured, in the format of MetaSchedule's ``JSONDatabase``."""

from __future__ import annotations

import json
import math
from typing import Any

from tunemesh.stage_workers.engines.metaschedule import schedules, winograd_search
from tunemesh.stage_workers.engines.protocol import TaskTrials
from tunemesh.stage_workers.graph import fast_math, workloads
from tunemesh.stage_workers.graph.workloads import Argument

WORKLOAD_FILE = "database_workload.json"
RECORD_FILE = "database_tuning_record.json"


def files(target: str, tasks: list[TaskTrials]) -> dict[str, bytes]:
    """Both files of the database, with every measured trial of every task. Failed ones are left out:
    MetaSchedule would write them as if they had taken 1e10 s. So are those by Winograd's algorithm, which it
    has no schedules for: they are in the records of the job."""
    workload_lines: list[str] = []
    record_lines: list[str] = []
    for index, task in enumerate(tasks):
        workload_lines.append(_dump(_workload(task.workload)))
        info = [_info(a) for a in workloads.arguments(workloads.load(task.workload)["main"])]
        for trial in task.trials:
            ours = winograd_search.is_ours(trial.candidate.schedule)
            if math.isfinite(trial.latency) and not ours:
                # Written here, because TVM would replay every trace for it: 10 ms each.
                trace = schedules.unpack(trial.candidate.schedule)
                record = [trace, list(trial.latencies), json.loads(target), info]
                record_lines.append(_dump([index, record]))
    return {WORKLOAD_FILE: _join(workload_lines), RECORD_FILE: _join(record_lines)}


def _workload(workload: bytes) -> Any:
    from tvm.s_tir import meta_schedule

    plain = fast_math.without_marks(workloads.load(workload))
    return schedules.plain(meta_schedule.database.Workload(plain).as_json())


def _info(argument: Argument) -> list[Any]:
    return ["TENSOR", argument.dtype, list(argument.shape)]


def _dump(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _join(lines: list[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()
