"""Schedules: MetaSchedule traces as JSON, compressed. A trace holds every decision and every step of the
postprocessors, so that replaying it needs no search and no random numbers."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

from tunemesh.stage_workers.engines.metaschedule import spaces
from tunemesh.stage_workers.graph import workloads


def pack(trace: Any) -> bytes:
    """The bytes of a TVM trace."""
    return zlib.compress(json.dumps(plain(trace.as_json()), separators=(",", ":")).encode(), 9)


def unpack(schedule: bytes) -> Any:
    """The trace as TVM's JSON object."""
    return json.loads(zlib.decompress(schedule))


def replay(workload: bytes, target: str, schedule: bytes) -> Any:
    """The TVM schedule, and by its ``mod`` the scheduled workload."""
    from tvm.s_tir import Schedule
    from tvm.s_tir.schedule import Trace

    module = workloads.load(workload)
    spaces.require(module, target)
    scheduled = Schedule(module)
    Trace.apply_json_to_schedule(unpack(schedule), scheduled)
    return scheduled


def plain(value: Any) -> Any:
    """A TVM object as Python's own, for JSON."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if hasattr(value, "value"):
        return value.value
    return [plain(item) for item in value]
