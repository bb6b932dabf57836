"""The decisions taken for a job, as messages of the coordinator to itself."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from tunemesh.shared.messages.basics import (
    Blob,
    Count,
    Drift,
    Headers,
    Instant,
    Message,
    Name,
    Seconds,
    Stage,
    TenantName,
)
from tunemesh.shared.messages.levels import Quote, Standing
from tunemesh.shared.messages.progress import Cancelled, Phase, Usage
from tunemesh.shared.messages.requests import Request
from tunemesh.shared.messages.results import AssembleDone, ValidateDone
from tunemesh.shared.messages.tasks import Confirmed, Known, Origin, Taken, TaskSpec, Timing, Trial

Handle = int
"""Names a held delivery. Given by the shell, never reused."""


class TaskLedger(Struct, frozen=True, kw_only=True):
    """Where one search stands: an engine at work on a task. A task that several engines take has several,
    side by side in the ledger."""

    spec: TaskSpec
    round: int = -1
    """The last round whose ``model-update`` was decided; -1 before the first."""
    want: Count = 0
    """Trials granted to that round; 0 closes the task."""
    ending: Count = 0
    """The revision that decided so: what searches of a task have found that end in the same one is measured
    together. 0 while more is tried."""
    ahead: bool = False
    """That round was decided before the one before was back."""
    rounds_ahead: Count = 0
    """How many rounds were."""
    folded: int = -1
    """The last round that the figures below contain."""
    trials: Count = 0
    """Trials tried."""
    outcomes: dict[str, Count] = {}
    best: Seconds | None = None
    """Best measured latency in seconds, of this search."""
    gain: Seconds = 0.0
    """Seconds of latency that the last round took off, per trial."""
    untuned: Seconds | None = None
    """Of the task; the first of its searches measures it."""
    last_error: str = ""
    exhausted: bool = False
    """Nothing new can be proposed."""
    remeasured: Count = 0
    """Trials that were measured more than once, because something disturbed the device."""
    drift: Drift = 0.0
    """The largest that is left in a measurement."""
    pace: dict[Stage, Seconds] = {}
    """Learned durations: seconds of one ``model-update``, and per candidate in ``build`` and ``profile``."""
    confirmed: list[Confirmed] = []
    limits: dict[int, Count] = {}
    """Of a job that was stopped early, by round: how many of its chunks are done, the others are left out."""
    history: list[Blob] = []
    """Filled when the task is closed, or the job has ended; and with what was taken from another job."""
    rest: list[Trial] = []
    """Of a job that has ended before the task was closed: trials that are in no history. They are taken from
    another job with its history, until an update has learned from them."""
    rest_of: Origin | None = None
    """The job that ``rest`` was tried for, where that is another one."""
    taken: Taken | None = None
    """From which job, where another one has tuned it: figures above are then of both, but for ``trials`` and
    what is counted with them."""
    closed: bool = False
    ended: str = ""
    """Why it gets no more trials, for people."""


def first_ledger(spec: TaskSpec, known: Known | None, served: bool = False) -> TaskLedger:
    """A search as it begins, which may be its end.

    Args:
        known: what it begins and ends with.
        served: what is known of another search of the task serves the job.
    """
    if known is None and served:
        return TaskLedger(spec=spec, closed=True, ended="an earlier job has tuned it")
    if known is None and spec.engine is not None:
        return TaskLedger(spec=spec)
    if known is None:
        why = spec.objection or "no engine of the job takes it"
        return TaskLedger(spec=spec, closed=True, last_error=f"untuned: {why}", ended="nobody tunes it")
    return TaskLedger(
        spec=spec,
        closed=True,
        ended="an earlier job has tuned it",
        best=known.best,
        untuned=known.untuned,
        confirmed=known.confirmed,
        history=known.history,
    )


class Foreseen(Struct, frozen=True, kw_only=True):
    """What a job was thought to take when it began to end: when nothing more was to be tried."""

    at: Instant
    seconds: Seconds


class Ledger(Message, frozen=True, kw_only=True, tag="ledger"):
    """The decisions taken for one job. The coordinator publishes each revision to its own queue *before*
    it acts on it and keeps the newest unacknowledged, so that a successor decides nothing twice."""

    request: Request
    revision: Count
    phase: Phase
    accepted: Instant
    secret: Annotated[str, Meta(max_length=64)] = ""
    """The nonces of its steps follow from it."""
    finished: Instant | None = None
    model: Blob | None = None
    sample: Blob | None = None
    """What the tuned model is compared with."""
    objects: Blob | None = None
    """Machine code of the untuned model's functions."""
    asked_by: Name = ""
    """The user of the broker that asked for it, as the broker verified it."""
    cancelled: Cancelled | None = None
    """Who asked first to stop it."""
    known: list[Blob] = []
    """``records`` of the jobs that the request names: what they measured serves this one."""
    tasks: list[TaskLedger] = []
    stopped: bool = False
    """Nothing new is tried any more, whatever the request says."""
    enough: str = ""
    """Why, where the service level asks for no more."""
    note: str = ""
    """What was asked for and is not done, and why: one line for people."""
    foreseen: Foreseen | None = None
    """Its end; ``None`` while more is tried."""
    quote: Quote | None = None
    standing: Standing | None = None
    usage: dict[str, Usage] = {}
    timings: list[Timing] = []
    """Steps that are in no history: of the job as a whole, and those that close its tasks."""
    assembled: AssembleDone | None = None
    validated: ValidateDone | None = None
    error: str = ""

    @property
    def origin(self) -> Origin:
        """Of what is measured for the job."""
        request = self.request
        return Origin(
            job=request.job,
            accepted=self.accepted,
            tenant=request.tenant,
            model=request.name,
            visibility=request.visibility,
        )

    def message_id(self) -> str:
        return f"{self.request.job}/ledger/{self.revision}"

    def headers(self) -> Headers:
        return super().headers() | {"job": self.request.job, "phase": self.phase, "revision": self.revision}


MOST_TENANTS = 5_000
"""That have a queue of their own, so that their names fit into a message."""


class Tenants(Message, frozen=True, kw_only=True, tag="tenants"):
    """Whose queues the coordinator reads. It keeps the newest unacknowledged, so that a successor reads them
    too: a broker shows nobody which queues there are."""

    names: Annotated[list[TenantName], Meta(max_length=MOST_TENANTS)]

    def message_id(self) -> str:
        return f"tenants/{len(self.names)}"


class Marker(Message, frozen=True, kw_only=True, tag="marker"):
    """Published by the coordinator to its own queue when it connects. Once it comes back, everything that was
    requeued has been delivered again."""

    start: str
    """Different for every connection of every coordinator: that of another one says nothing."""

    def message_id(self) -> str:
        return f"{self.start}/marker"
