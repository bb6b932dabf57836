"""What a database of records holds: one struct per table, one field per column.

The same structs are the lines of an exported file. Every row has an id that follows from what it says, so
that the same thing written twice, here or by somebody else, is one row. No row is ever changed.
"""

from __future__ import annotations

import hashlib
from typing import ClassVar

import msgspec
from msgspec import Struct

from tunemesh.shared.messages import Visibility


class Row(Struct, frozen=True, kw_only=True, tag_field="row"):
    """A row of some table."""

    table: ClassVar[str]


class Task(Row, frozen=True, kw_only=True, tag="task"):
    """A tensor workload for one target, the same in all jobs and releases of TVM."""

    table: ClassVar[str] = "tasks"
    key: str
    """See :mod:`stage_workers.graph.canonical`."""
    name: str
    """For people, as the first model that had it calls it."""
    operator: str
    """The name without what only numbers it: ``fused_conv2d_add_relu``."""
    target: str


class Workload(Row, frozen=True, kw_only=True, tag="workload"):
    """A workload as its platform writes it. A task may have several, which differ in names: a schedule
    belongs to the one that it was made for."""

    table: ClassVar[str] = "workloads"
    id: str
    """The first half of the SHA-256 of the data, in hex."""
    task: str
    data: bytes


class Conditions(Row, frozen=True, kw_only=True, tag="conditions"):
    """See :class:`shared.messages.Conditions`."""

    table: ClassVar[str] = "conditions"
    id: str
    device: str
    versions: str
    cache_flush: bool
    reference: float


class Job(Row, frozen=True, kw_only=True, tag="job"):
    """What something was measured for."""

    table: ClassVar[str] = "jobs"
    id: str
    job: str
    """The name that the mesh had for it: others may have had the same."""
    accepted: float
    tenant: str
    """Whose records they are; empty: everybody's."""
    model: str
    source: str
    """Id of the database that its records were first written to; empty: whichever this is written to."""
    visibility: Visibility = "tenant"
    """``all``: its records are for everybody, although it had a tenant."""


class Trial(Row, frozen=True, kw_only=True, tag="trial"):
    """A schedule that was tried for a job, whatever came of it. Latencies in seconds."""

    table: ClassVar[str] = "trials"
    id: str
    task: str
    job: str
    engine: str
    format: int
    """Of the engine's schedules."""
    hash: str
    workload: str
    schedule: bytes
    outcome: str
    latency: float | None
    """Median of the repeats, the drift of the device in it: how much of that was there while this very
    schedule ran, nobody knows. None where it was not measured."""
    latencies: list[float]
    drift: float
    attempts: int
    cut_short: bool
    error: str
    conditions: str
    """Empty where it was not measured, or that is not known."""
    at: float


class Confirmation(Row, frozen=True, kw_only=True, tag="confirmation"):
    """One of the best schedules of a task, measured again at its end, taking turns with the others."""

    table: ClassVar[str] = "confirmations"
    id: str
    trial: str
    task: str
    latency: float
    latencies: list[float]
    conditions: str
    at: float


class Baseline(Row, frozen=True, kw_only=True, tag="baseline"):
    """How long a task takes without tuning."""

    table: ClassVar[str] = "baselines"
    id: str
    task: str
    job: str
    latency: float
    at: float


class Result(Row, frozen=True, kw_only=True, tag="result"):
    """A whole model, before and after."""

    table: ClassVar[str] = "results"
    id: str
    job: str
    target: str
    latency_before: float
    latency_after: float
    equal: bool
    """Whether both computed the same."""
    wrong: str
    drift: float
    conditions: str
    at: float


AnyRow = Task | Workload | Conditions | Job | Trial | Confirmation | Baseline | Result
KINDS: tuple[type[Row], ...] = (Task, Workload, Conditions, Job, Trial, Confirmation, Baseline, Result)
"""In an order in which each comes after those that it names."""


def made_id(*parts: object) -> str:
    """An id for what these parts tell apart from all else: 32 hex digits."""
    return hashlib.sha256(msgspec.msgpack.encode(parts)).hexdigest()[:32]


def job_id(job: str, accepted: float) -> str:
    return made_id("job", job, accepted)


def trial_id(task: str, engine: str, format_: int, hash_: str, job: str) -> str:
    """A schedule is tried once for a task of a job; ``job`` is the id of its row."""
    return made_id("trial", task, engine, format_, hash_, job)
