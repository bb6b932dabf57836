"""The programs of the best kernels, for people to read and to use elsewhere."""

from __future__ import annotations

import math

from tunemesh.shared.messages import Trial
from tunemesh.stage_workers.engines.protocol import ExportCall
from tunemesh.stage_workers.engines.template import schedules, tuning
from tunemesh.stage_workers.graph import targets


def files(call: ExportCall) -> dict[str, bytes]:
    """One for each task of which a kernel was measured, numbered in the order of the model."""
    made, end = {}, "cu" if targets.is_gpu(call.target) else "c"
    for number, task in enumerate(call.tasks):
        best = min(task.trials, key=_latency, default=None)
        if best is None or math.isinf(best.latency):
            continue
        schedule = best.candidate.schedule
        text = tuning.source(task.workload, call.target, schedule)
        name = f"{number:02d}-{schedules.unpacked(schedule).template}.{end}"
        made[name] = f"/* {best.candidate.hash}, {best.latency:.3e} s */\n{text}".encode()
    return made


def _latency(trial: Trial) -> float:
    return trial.latency
