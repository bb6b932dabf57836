"""Records in Kernel Tuner's format of results, T4 (schema 1.0.0): times in milliseconds.

A configuration of ours names task, engine, format and hash, and has the schedule in base64. One of another
tool becomes a schedule itself, as JSON with sorted names, of an engine that is called as the tool.
"""

from __future__ import annotations

import base64
import hashlib
import statistics
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
from msgspec import Struct

from tunemesh.shared.errors import BadInput
from tunemesh.stage_workers.records import gathering, rows
from tunemesh.stage_workers.records.questions import Found

SCHEMA = "1.0.0"
MS = 1e3
Invalidity = Literal["timeout", "compile", "runtime", "correctness", "constraints", "correct"]
INVALIDITY: dict[str, Invalidity] = {
    "measured": "correct",
    "build-failed": "compile",
    "build-timed-out": "timeout",
    "run-failed": "runtime",
    "run-timed-out": "timeout",
    "wrong-result": "correctness",
}
OUTCOMES: dict[Invalidity, str] = {
    "correct": "measured",
    "compile": "build-failed",
    "constraints": "build-failed",
    "timeout": "run-timed-out",
    "runtime": "run-failed",
    "correctness": "wrong-result",
}


class Measurement(Struct, frozen=True, kw_only=True):
    name: str
    value: Any
    unit: str = ""


class Times(Struct, frozen=True, kw_only=True):
    runtimes: list[float] = []


class Entry(Struct, frozen=True, kw_only=True):
    """One configuration that was tried."""

    configuration: dict[str, Any]
    times: Times
    invalidity: Invalidity
    correctness: float
    timestamp: str = ""
    measurements: list[Measurement] = []
    objectives: list[str] = []


class Results(Struct, frozen=True, kw_only=True):
    """The whole file."""

    results: list[Entry]
    schema_version: str


def encode(found: Iterable[Found]) -> bytes:
    """A file with these trials."""
    results = Results(results=[_entry(each) for each in found], schema_version=SCHEMA)
    return msgspec.json.format(msgspec.json.encode(results), indent=2) + b"\n"


def decode(data: bytes, name: str, target: str, tool: str) -> list[rows.Row]:
    """The rows of a file.

    Args:
        name: of the kernel that it is about.
        target: what that was tuned for.
        tool: who did, in place of an engine.

    Raises:
        BadInput: it is no such file.
    """
    try:
        read = msgspec.json.decode(data, type=Results)
    except msgspec.DecodeError as error:
        raise BadInput(f"no results in the format T4: {' '.join(str(error).split())[:200]}") from None
    if read.schema_version.partition(".")[0] != "1":
        raise BadInput(f"results in the format T4 {read.schema_version}; known is {SCHEMA}")
    key = hashlib.sha256(f"{tool}\n{name}\n{target}".encode()).hexdigest()
    task = rows.Task(key=key, name=name, operator=gathering.operator_of(name), target=target)
    job = rows.Job(id=rows.job_id(tool, 0.0), job=tool, accepted=0.0, tenant="", model="", source=tool)
    return [task, job, *(_trial(each, task, job, tool) for each in read.results)]


def _entry(found: Found) -> Entry:
    trial = found.trial
    measured = trial.latency is not None
    latencies = found.confirmed.latencies if found.confirmed is not None else trial.latencies
    measurements = (
        [Measurement(name="time", value=statistics.median(latencies) * MS, unit="ms")] if measured else []
    )
    if found.conditions is not None:
        measurements += [
            Measurement(name="device", value=found.conditions.device),
            Measurement(name="versions", value=found.conditions.versions),
        ]
    return Entry(
        timestamp=datetime.fromtimestamp(trial.at, UTC).isoformat(),
        configuration={
            "task": trial.task,
            "operator": found.task.operator,
            "target": found.task.target,
            "engine": trial.engine,
            "format": trial.format,
            "hash": trial.hash,
            "schedule": base64.b64encode(trial.schedule).decode(),
        },
        times=Times(runtimes=[each * MS for each in latencies]),
        invalidity=INVALIDITY[trial.outcome],
        correctness=0.0 if trial.outcome == "wrong-result" else 1.0,
        measurements=measurements,
        objectives=["time"],
    )


def _trial(entry: Entry, task: rows.Task, job: rows.Job, tool: str) -> rows.Trial:
    schedule = msgspec.json.encode(entry.configuration, order="sorted")
    name = hashlib.sha256(schedule).hexdigest()[:16]
    latencies = [each / MS for each in entry.times.runtimes if each > 0]
    times = [each.value / MS for each in entry.measurements if each.name == "time" and _is_number(each.value)]
    latency = statistics.median(latencies) if latencies else next(iter(times), None)
    outcome = (
        OUTCOMES[entry.invalidity] if latency is not None or entry.invalidity != "correct" else "run-failed"
    )
    if outcome != "measured":
        latency, latencies = None, []
    return rows.Trial(
        id=rows.trial_id(task.key, tool, 1, name, job.id),
        task=task.key,
        job=job.id,
        engine=tool,
        format=1,
        hash=name,
        workload="",
        schedule=schedule,
        outcome=outcome,
        latency=latency,
        latencies=latencies or ([latency] if latency is not None else []),
        drift=0.0,
        attempts=1,
        cut_short=False,
        error="",
        conditions="",
        at=_time(entry.timestamp),
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and value > 0


def _time(text: str) -> float:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return 0.0
    return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()
