"""What the core knows between two events, and the instructions that it is about to give."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from tunemesh.coordinator.events import Acknowledge, Arrived, Instruction, Level, Log, PutAside, Tell
from tunemesh.coordinator.jobs import progress
from tunemesh.coordinator.jobs.job import Held, Job
from tunemesh.coordinator.jobs.ledger import Handle
from tunemesh.coordinator.jobs.limits import Limits
from tunemesh.coordinator.jobs.sharing import Sharing
from tunemesh.coordinator.scheduling.dispatcher import Dispatcher
from tunemesh.coordinator.scheduling.durations import Durations
from tunemesh.coordinator.scheduling.resources import Resources
from tunemesh.shared.messages import OTHERS, EventKind, JobEvent, ResourceProgress, TaskRecords
from tunemesh.shared.text import clip

RESOURCES_TOLD = 64
"""Resources that an event lists at most, so that it stays small; a snapshot lists all."""

RESOURCES_FRESH = 0.5
"""Seconds for which what was said of the resources can be said again."""

REJECTED_KEPT = 1000
"""Rejected requests that can be asked about."""

ERROR_LIMIT = 1000
"""Characters of the error of a job: its ledger and all that is told of it repeat it."""


ENDINGS_KEPT = 30
"""Jobs whose ends say how well those of others are foreseen."""


@dataclass(slots=True)
class Trouble:
    """What went wrong with one step, whoever did it."""

    lost: set[str] = field(default_factory=set)
    """Workers that were lost while they did it."""
    liars: set[str] = field(default_factory=set)
    """Workers that gave a result that made no sense."""
    senseless: int = 0
    """Such results."""


@dataclass(slots=True)
class State:
    """The picture that the core has."""

    resources: Resources
    durations: Durations
    dispatcher: Dispatcher
    prices: Mapping[str, float] = field(default_factory=dict)
    """See :mod:`coordinator.jobs.prices`."""
    limits: Mapping[str, Limits] = field(default_factory=dict)
    """See :mod:`coordinator.jobs.limits`."""
    now: float = 0.0
    """Seconds of a clock that never jumps; only differences count."""
    epoch: float = 0.0
    """Unix time when that clock showed 0, as it was when the coordinator connected."""
    seed: str = ""
    """The secrets of jobs follow from it."""
    jobs: dict[str, Job] = field(default_factory=dict)
    out: list[Instruction] = field(default_factory=list)
    active: int = 0
    """Jobs that have not ended."""
    held: int = 0
    """Deliveries that have to be held at most for all jobs that are let in, about."""
    outside: dict[str, int] = field(default_factory=dict)
    """Jobs that are not let in yet, and what has to be held for them. The first one goes first."""
    queued: dict[str, None] = field(default_factory=dict)
    """Jobs that wait until others of their tenant have ended. The first one goes first."""
    sharing: Sharing = field(default_factory=Sharing)
    """Which jobs have which tasks."""
    awake: dict[str, None] = field(default_factory=dict)
    """Jobs that may have waited for what has just come about: they look again at once."""
    look_again: bool = False
    """A step in flight was lost: see which are due."""
    missing: dict[str, str] = field(default_factory=dict)
    """Stage queues that are not there, and why they cannot be made."""
    trouble: dict[str, Trouble] = field(default_factory=dict)
    """By step in flight."""
    rejected: dict[tuple[str, str], str] = field(default_factory=dict)
    """By job and tenant: why its request was not accepted; the newest last."""
    endings: deque[float] = field(default_factory=lambda: deque(maxlen=ENDINGS_KEPT))
    """How long the ends of the latest jobs took, by what they were thought to take."""
    counted_at: float | None = None
    """When it was last told which artifacts are needed."""
    _told: tuple[float, list[ResourceProgress]] = (-1e9, [])

    @property
    def instant(self) -> float:
        """This moment for people: Unix time."""
        return max(self.epoch + self.now, 0.0)

    def release(self, held: Iterable[Held]) -> None:
        """Acknowledge results that are of no use any more."""
        self.out.extend(Acknowledge(each.handle) for each in held)

    def put_aside(self, handle: Handle, reason: str) -> None:
        """Dead-letter a message."""
        self.out.append(PutAside(handle, clip(reason, ERROR_LIMIT)))

    def log(self, level: Level, text: str, *, job: str = "", step: str = "", worker: str = "") -> None:
        """Have it written to the log."""
        self.out.append(Log(level, text, job=job, step=step, worker=worker))

    def is_over(self, job: str) -> None:
        """The job needs no answers any more."""
        self.outside.pop(job, None)
        self.queued.pop(job, None)
        for step in [step for step in self.trouble if step.startswith(f"{job}/")]:
            del self.trouble[step]

    def refuse(self, event: Arrived, job: str, text: str, again_in: float = 0.0) -> None:
        """Tell only the one who asked: other listeners may follow another job of this id."""
        if event.reply_to:
            rejected = JobEvent(job=job, kind="rejected", at=self.instant, text=text, again_in=again_in)
            correlation_id = event.correlation_id if job == "unknown" else job
            self.out.append(Tell(rejected, event.reply_to, correlation_id))

    def remember_rejected(self, job: str, tenant: str, text: str) -> None:
        """Note why a request was not accepted, for whoever asks later."""
        self.rejected.pop((job, tenant), None)
        self.rejected[job, tenant] = text
        if len(self.rejected) > REJECTED_KEPT:
            del self.rejected[next(iter(self.rejected))]

    def tell(self, job: Job, kind: EventKind, text: str, records: Sequence[TaskRecords] = ()) -> None:
        """Tell whoever listens to ``job``; of one that goes on, with where ``records`` of it lie."""
        job.told, job.changed = self.now, False
        event = JobEvent(
            job=job.id,
            kind=kind,
            at=self.instant,
            text=text,
            progress=progress.progress(job),
            resources=self.shown(self._resources(), job.ledger.request.tenant),
            assembled=progress.result(job),
            validated=job.ledger.validated,
            measured=progress.kept(job) if job.ended else list(records),
        )
        self.out.append(Tell(event))

    def shown(self, resources: Sequence[ResourceProgress], tenant: str) -> list[ResourceProgress]:
        """The same for users of a tenant, who are not told what others have running."""
        return [
            each
            if all(self.is_of(step, tenant) for step in each.running)
            else msgspec.structs.replace(
                each, running=[step if self.is_of(step, tenant) else OTHERS for step in each.running]
            )
            for each in resources
        ]

    def is_of(self, step: str, tenant: str) -> bool:
        """Whether a step belongs to a job of a tenant."""
        job = self.jobs.get(step.partition("/")[0])
        return job is not None and job.ledger.request.tenant == tenant

    def _resources(self) -> list[ResourceProgress]:
        at, told = self._told
        if not 0 <= self.now - at < RESOURCES_FRESH:
            told = self.resources.progress(self.now)[:RESOURCES_TOLD]
            self._told = self.now, told
        return told
