"""What MetaSchedule itself has measured, from the files of its ``JSONDatabase``."""

from __future__ import annotations

import base64
import binascii
import json
import math
import zlib
from collections.abc import Mapping
from typing import Any

from tunemesh.shared.errors import BadInput, TunemeshError
from tunemesh.shared.messages import Candidate, Trial
from tunemesh.stage_workers.engines.metaschedule import schedules
from tunemesh.stage_workers.engines.metaschedule.database import RECORD_FILE, WORKLOAD_FILE
from tunemesh.stage_workers.engines.protocol import ReadRecords, ReadTask
from tunemesh.stage_workers.graph import canonical, targets, workloads
from tunemesh.stage_workers.graph.errors import first_line, reraise_memory_error

FAILED = 1e9
"""Seconds from which a latency is MetaSchedule's way to say that it has none: it writes 1e10."""

LENGTH = 8
"""Bytes in which TVM writes the length of a text."""


def read(files: Mapping[str, bytes]) -> ReadRecords:
    """The tasks and trials of a database. What this TVM cannot read of it is skipped, and said.

    Raises:
        BadInput: its two files are not among ``files``, or are none.
    """
    if missing := [name for name in (WORKLOAD_FILE, RECORD_FILE) if name not in files]:
        raise BadInput(f"a database of MetaSchedule has a file {missing[0]}, which is not there")
    skipped: list[str] = []
    modules: dict[int, Any] = {}
    for number, line in enumerate(_lines(files[WORKLOAD_FILE], WORKLOAD_FILE)):
        try:
            modules[number] = _module(line)
        except Exception as error:  # whatever TVM raises of what another release wrote
            reraise_memory_error(error)
            skipped.append(f"workload {number} cannot be read: {first_line(error)}")
    found: dict[tuple[int, str], ReadTask] = {}
    for number, line in enumerate(_lines(files[RECORD_FILE], RECORD_FILE)):
        try:
            _add(found, modules, line)
        except TunemeshError as error:
            skipped.append(f"record {number}: {error}")
        except Exception as error:  # a trace that this TVM does not know
            reraise_memory_error(error)
            skipped.append(f"record {number} cannot be replayed: {first_line(error)}")
    return ReadRecords(tasks=[task for task in found.values() if task.trials], skipped=skipped)


def _add(found: dict[tuple[int, str], ReadTask], modules: Mapping[int, Any], line: Any) -> None:
    """Add one record to its task.

    Raises:
        BadInput: it is none, or its workload could not be read.
    """
    if not (isinstance(line, list) and len(line) == 2 and isinstance(line[1], list) and len(line[1]) >= 3):
        raise BadInput("it is no pair of a workload's number and a record")
    number, (trace, latencies, target, *_) = line
    if number not in modules:
        raise BadInput(f"its workload {number} could not be read")
    if not isinstance(target, dict):
        raise BadInput("it has no target")
    canonical_target = targets.resolve(json.dumps(target), 1)
    task = found.get((number, canonical_target))
    if task is None:
        module = modules[number]
        task = found[number, canonical_target] = ReadTask(
            name=_name(module),
            key=canonical.key(module, canonical_target),
            target=canonical_target,
            workload=workloads.pack(module),
            trials=[],
        )
    if not isinstance(latencies, list) or not latencies or not all(_sound(each) for each in latencies):
        return  # it failed, and nothing says why
    schedule = zlib.compress(json.dumps(trace, separators=(",", ":")).encode(), 9)
    scheduled = schedules.replay(task.workload, canonical_target, schedule)
    name = workloads.structural_hash(scheduled.mod)
    if all(each.candidate.hash != name for each in task.trials):
        candidate = Candidate(len(task.trials), name, schedule)
        task.trials.append(Trial(candidate=candidate, outcome="measured", latencies=latencies))


def _module(line: Any) -> Any:
    """The module of a line, which has its hash, and in base64 the length of its JSON in 8 bytes and its JSON.
    TVM's own reader refuses a hash of another release."""
    import tvm

    try:
        _, encoded = line
        text = base64.b64decode(encoded)[LENGTH:].decode()
    except (ValueError, TypeError, binascii.Error):
        raise BadInput("it is no pair of a hash and a module") from None
    return tvm.ir.load_json(text)


def _name(module: Any) -> str:
    """A name for people: what its blocks are called."""
    import tvm_ffi
    from tvm.s_tir import SBlock

    names: list[str] = []
    tvm_ffi.structural_walk(module["main"].body, (SBlock, lambda block: names.append(str(block.name_hint))))
    return "_".join(name for name in names if name not in ("root", "pad_temp"))[:200] or "main"


def _sound(latency: Any) -> bool:
    return isinstance(latency, int | float) and math.isfinite(latency) and 0 < latency < FAILED


def _lines(data: bytes, name: str) -> list[Any]:
    try:
        return [json.loads(line) for line in data.decode().splitlines() if line.strip()]
    except ValueError as error:
        raise BadInput(f"{name} does not consist of lines of JSON: {error}") from None
