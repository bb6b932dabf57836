"""How near every task of a result comes to what its core can do."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct

from tunemesh.comparing.limits import Limits
from tunemesh.report import TaskReport, read_report
from tunemesh.stage_workers.graph import workloads

WORKLOADS = "database_workload.json"
UNTUNED = "untuned: "
"""How the error of a task begins that no engine took: it is not in the database."""


class Share(Struct, frozen=True, kw_only=True):
    """A task beside the limits.

    Attributes:
        weight: how often the model runs it.
        seconds: of one run.
        flops: operations on floats of one run, as TVM counts them in the task's definition: ``exp`` is one. A
            convolution by Winograd's algorithm does with a quarter of them, so its share may be above one.
        size: bytes of what it reads and writes, each once.
    """

    name: str
    weight: int
    seconds: float
    flops: float
    size: float

    def of_peak(self, limits: Limits) -> float:
        """Share of the operations that the core could have done."""
        return self.flops / self.seconds / limits.flops

    def of_bandwidth(self, limits: Limits) -> float:
        """Share of the bytes that memory could have moved; above one they came from a cache."""
        return self.size / self.seconds / limits.bandwidth


def of_result(folder: Path) -> list[Share]:
    """Of every task that was tuned, those first that take the most of the model's time; nothing where the
    database is not one line per task."""
    tasks = [task for task in read_report(folder).tasks if not task.last_error.startswith(UNTUNED)]
    path = folder / WORKLOADS
    lines = path.read_text().splitlines() if path.exists() else []
    if len(lines) != len(tasks):
        return []
    found = [_share(task, _module(line)) for task, line in zip(tasks, lines, strict=True)]
    return sorted(
        (each for each in found if math.isfinite(each.seconds)), key=lambda each: -each.weight * each.seconds
    )


def _module(line: str) -> Any:
    from tvm.s_tir import meta_schedule

    return meta_schedule.database.Workload.from_json(json.loads(line)).mod


def _share(task: TaskReport, module: Any) -> Share:
    from tvm.s_tir.analysis import estimate_tir_flops

    arguments = workloads.arguments(module["main"])
    known = [each for each in (task.best_s, task.untuned_s) if each is not None]
    return Share(
        name=task.name,
        weight=task.weight,
        seconds=min(known, default=math.inf),
        flops=float(estimate_tir_flops(module)),
        size=float(sum(math.prod(each.shape) * np.dtype(each.dtype).itemsize for each in arguments)),
    )
