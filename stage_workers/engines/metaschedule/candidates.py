"""What an update needs to know of candidates that were proposed before: their traces, to evolve from, and
their features, to learn from.

The process that proposed a candidate has computed both, and keeps them, because the candidate's trial is
likely to come back to it. Any other process replays the schedule, with the same result. Entries are found by
all that they depend on, so those of another task, target or round can never be taken for the right ones.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from cachetools import LRUCache

from tunemesh.stage_workers.engines.metaschedule import contexts, cost_model, schedules
from tunemesh.stage_workers.engines.metaschedule.cost_model import Features
from tunemesh.stage_workers.graph import workloads
from tunemesh.stage_workers.graph.errors import reraise_memory_error

KEPT = 1024
"""Candidates whose traces and features a process keeps: some 10 KB each."""


class Candidate(NamedTuple):
    """A TVM trace and the features of the code that it gives."""

    trace: Any
    features: Features


_kept: LRUCache[tuple[bytes, str, bytes], Candidate] = LRUCache(KEPT)


def keep(workload: bytes, target: str, schedule: bytes, candidate: Candidate) -> None:
    """Remember a candidate that was computed; the one that was not used for longest is forgotten."""
    _kept[workload, target, schedule] = candidate


def forget() -> None:
    """Keep none of them any longer, as in a fresh process."""
    _kept.clear()


def recall(workload: bytes, target: str, wanted: Sequence[bytes]) -> list[Candidate | None]:
    """The candidates of packed schedules, from memory or replayed; ``None`` for what cannot be replayed."""
    found = {schedule: _kept.get((workload, target, schedule)) for schedule in wanted}
    replayed: dict[bytes, Any] = {}
    for schedule in (schedule for schedule, candidate in found.items() if candidate is None):
        try:
            replayed[schedule] = schedules.replay(workload, target, schedule)
        except (RuntimeError, ValueError, TypeError, zlib.error) as error:
            reraise_memory_error(error)
            continue  # it fails to build for the same reason
    features = _extract(workload, target, list(replayed.values()))
    for (schedule, scheduled), rows in zip(replayed.items(), features, strict=True):
        candidate = found[schedule] = Candidate(scheduled.trace, rows)
        keep(workload, target, schedule, candidate)
    return [found[schedule] for schedule in wanted]


def _extract(workload: bytes, target: str, scheduled: Sequence[Any]) -> list[Features]:
    """The features of TVM schedules of a workload."""
    if not scheduled:
        return []
    from tvm.s_tir import meta_schedule

    module = workloads.load(workload)
    info = meta_schedule.arg_info.ArgInfo.from_prim_func(module["main"])
    context = contexts.make(module, target)
    return cost_model.extract(context, [meta_schedule.MeasureCandidate(each, info) for each in scheduled])
