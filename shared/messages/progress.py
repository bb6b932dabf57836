"""What clients are told."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from tunemesh.shared.messages.basics import (
    Count,
    Drift,
    EngineName,
    Headers,
    Instant,
    JobId,
    Message,
    Name,
    Options,
    Positive,
    Seconds,
    Sha256,
    Visibility,
)
from tunemesh.shared.messages.levels import Cost, Level, Quote, Standing
from tunemesh.shared.messages.requests import Settings
from tunemesh.shared.messages.results import AssembleDone, ValidateDone
from tunemesh.shared.messages.tasks import Operations, Taken, TaskRecords, Timing

Phase = Literal["importing", "tuning", "assembling", "validating", "done", "failed", "cancelled"]


class Usage(Struct, frozen=True, kw_only=True):
    """What a job has used of one resource."""

    steps: Count = 0
    busy: Seconds = 0.0


class Cancelled(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """That somebody asked for a job to be stopped."""

    by: Name = ""
    """The user of the broker, as the broker verified it; empty where it did not."""
    at: Instant
    """When the coordinator took it."""
    keep: bool = False
    """What was found was to be kept."""


class Terms(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a job was asked to do with its model: all that it takes to ask for the same again."""

    engines: list[EngineName]
    options: dict[str, Options] = {}
    seed: Count = 0
    level: Level = Level()
    """As the request has it, but for the trials that were left to the model: then those that it was given."""
    settings: Settings = Settings()


class SearchProgress(Struct, frozen=True, kw_only=True):
    """What one engine has found of a task."""

    engine: EngineName
    regions: Positive = 1
    """Of the task's space that it searches side by side: more than one where the task is split."""
    trials: Count
    best: Seconds | None
    """Its lowest latency in seconds; of those that were confirmed, if some were."""
    confirmed: Count = 0
    """Candidates that were measured again at the end."""
    behind: Annotated[float, Meta(gt=0)] | None = None
    """How many times as long its fastest kernel takes as that of the engine that is ahead, where both took
    turns: the median over the turns. ``None`` where they did not, and for the one that is ahead."""
    ended: str = ""
    """Why it got no more trials; empty while it may get more."""


class TaskProgress(Struct, frozen=True, kw_only=True):
    """One task as a client sees it; latencies in seconds."""

    id: str
    """That of its first search."""
    name: str
    weight: Positive
    trials: Count
    """Of all its searches, as other numbers here are."""
    outcomes: dict[str, Count]
    untuned: Seconds | None
    best: Seconds | None
    """By whichever engine."""
    operations: Operations = 0.0
    """On floats, of one run; 0 where that is not known."""
    engine: EngineName | None = None
    """Which is ahead, and has won once the job has ended; ``None``: nothing was measured."""
    searches: list[SearchProgress] = []
    """One for each engine that takes the task, in the order of the job's engines."""
    last_error: str
    spread: Seconds | None = None
    """(largest - smallest) / median of the repeats in which the best candidate was confirmed."""
    confirmed: Count = 0
    """Candidates that were measured again at the end, taking turns."""
    remeasured: Count = 0
    drift: Drift = 0.0
    rounds_ahead: Count = 0
    ended: str = ""
    """Why the engine that is ahead got no more trials; empty while some of them may get more."""
    taken: Taken | None = None
    """What another job has found of it, where that serves this one. Its trials are not among ``trials``."""


class JobProgress(Struct, frozen=True, kw_only=True):
    """One job as a client sees it."""

    job: JobId
    name: str
    phase: Phase
    target: str
    trials: Count
    """Tried so far, with those of rounds under way."""
    budget: Count
    """0 as long as it is left to the model, which is not imported yet."""
    accepted: Instant
    finished: Instant | None
    tasks: list[TaskProgress]
    usage: dict[str, Usage]
    tenant: str = ""
    visibility: Visibility = "tenant"
    priority: Count = 10
    stopped: bool = False
    """Nothing new is tried: somebody has asked to stop early and to keep what was found, or the service level
    asks for no more."""
    quote: Quote | None = None
    """What it was expected to take; once its model is imported."""
    cost: Cost | None = None
    """What it has cost so far; ``None`` where the mesh has no prices."""
    standing: Standing | None = None
    """Once it has ended, where its service level asks for something."""
    terms: Terms | None = None
    """Once the job has ended: how it was asked for."""
    timings: list[Timing] = []
    """Once the job has ended: its steps that are in no history."""
    waiting: str = ""
    """Why nothing moves, when nothing can: for example that no device serves the target."""
    error: str = ""
    note: str = ""
    """What was asked for and is not done, and why: one line for people."""
    asked_by: Name = ""
    """The user of the broker that asked for it, as the broker verified it; empty where it did not."""
    cancelled: Cancelled | None = None
    """Who asked first to stop it; ``None``: nobody did."""


OTHERS = "-"
"""In place of the id of a step that is another tenant's."""


class ResourceProgress(Struct, frozen=True, kw_only=True):
    """One resource as a client sees it."""

    queue: str
    slots: Count
    """Of its live workers."""
    workers: list[str]
    targets: list[str]
    engines: list[str] = []
    """Those that it serves; none on a device."""
    running: list[str]
    """Ids of the steps in flight; :data:`OTHERS` for those of other tenants."""
    busy: Seconds
    """Seconds of work reported since the coordinator started."""
    utilisation: Annotated[float, Meta(ge=0)]
    """Share of the last five minutes in which its workers were busy, steps in flight included."""
    drift: Drift = 0.0
    """How much slower than usual the device's reference kernel ran last."""
    hosts: list[str] = []
    """Of its live workers."""
    cages: list[str] = []
    """What holds engines, models and kernels on them, in words."""
    faults: list[str] = []
    """Why devices do not work, whose workers take no steps for that."""


MOST_WAITING = 20
"""Jobs that are named as waiting for one kind of resource."""

MOST_NAMED = 10_000
"""Artifacts in one census, so that it fits into a message."""


class Census(Message, frozen=True, kw_only=True, tag="census"):
    """What the coordinator says of the jobs that it knows, for whoever is to remove old artifacts."""

    at: Instant
    oldest: Instant | None = None
    """When the first of them was accepted; ``None``: it knows none."""
    named: Annotated[list[Sha256], Meta(max_length=MOST_NAMED)] = []
    """Artifacts that came with requests of jobs that have not ended: they may have been stored long before
    the job was accepted."""
    complete: bool = True
    """Not where there are too many to name."""

    def message_id(self) -> str:
        return f"census/{self.at:.6f}"

    def headers(self) -> Headers:
        return super().headers() | {"artifacts": len(self.named)}


class CellProgress(Struct, frozen=True, kw_only=True):
    """One cell of a mesh that has several."""

    cell: str
    jobs: Count
    """That have not ended, by the last word of its coordinator."""
    silent: Seconds | None = None
    """Since when it has had no coordinator; ``None``: it has one."""


class Snapshot(Message, frozen=True, kw_only=True, tag="snapshot"):
    """The answer to a :class:`Query`."""

    strategy: str
    jobs: list[JobProgress]
    resources: list[ResourceProgress]
    assembled: AssembleDone | None = None
    """Addresses of the results, when one finished job was asked for."""
    validated: ValidateDone | None = None
    measured: list[TaskRecords] = []
    """Where everything lies that was measured so far, when one job was asked for that has no results."""
    waiting: dict[str, dict[JobId, Count]] = {}
    """By kind of resource (``build-cpu``, ``model-update``, ``profile:<target>``) and by job: steps that are
    due and wait for one. Of the jobs that wait with most."""
    left_out: int = 0
    """Jobs behind those in the list, which are not in it for its size; they can be asked for one by one, or
    with ``skip``."""
    rejected: str = ""
    """Why the request for the one job that was asked for was rejected lately, if it was."""
    census: Census | None = None
    """Where that was asked for."""
    cells: list[CellProgress] = []
    """Of a mesh that has several. ``resources``, as many as fit, and ``waiting`` then have their names in
    front: ``b/build-cpu``."""


EventKind = Literal["accepted", "rejected", "progress", "done", "failed", "cancelled"]


class JobEvent(Message, frozen=True, kw_only=True, tag="job-event"):
    """Something happened to a job. Published to ``tunemesh.events`` with key ``job.<id>.<kind>``."""

    job: JobId
    kind: EventKind
    at: Instant
    text: str = ""
    """One line for people."""
    again_in: Seconds = 0.0
    """Of a request or query that came too early: seconds after which the same message is taken. 0: never."""
    progress: JobProgress | None = None
    resources: list[ResourceProgress] = []
    assembled: AssembleDone | None = None
    validated: ValidateDone | None = None
    measured: list[TaskRecords] = []
    """Of a job that ended without results: where everything lies that was measured. Of one that goes on: the
    same, of tasks of which more was measured than was told before."""

    def message_id(self) -> str:
        return f"{self.job}/{self.kind}/{self.at:.6f}"

    def headers(self) -> Headers:
        return super().headers() | {"job": self.job, "kind": self.kind}


FINAL_KINDS: tuple[EventKind, ...] = ("rejected", "done", "failed", "cancelled")
