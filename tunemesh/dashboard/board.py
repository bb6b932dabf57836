"""What is known of a mesh at this moment: written by the feed, read by pages, from any thread."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import msgspec
from cachetools import LRUCache

from tunemesh.shared.messages import (
    FINAL_KINDS,
    OTHERS,
    AssembleDone,
    JobEvent,
    JobProgress,
    ResourceProgress,
    Snapshot,
    TaskRecords,
    ValidateDone,
)

MOST_JOBS = 5_000
"""That are kept; of more the first go that have ended."""
MOST_LOOKED_AT = 50
"""Jobs of which it is kept where lies what was measured for them."""
SAMPLES, SAMPLE_EVERY = 90, 10.0
"""Of how busy a resource was: a quarter of an hour, in seconds."""
MOST_SAMPLED = 500
"""Resources."""


@dataclass(frozen=True, slots=True)
class Link:
    """How the dashboard stands with the mesh."""

    away: str = "connecting"
    """Why nothing is heard at this moment; empty where all is well."""
    may_ask: bool = True
    """The coordinator can be asked, and told to stop a job."""
    since: float = 0.0
    """When it became so: Unix time."""


@dataclass(frozen=True, slots=True)
class Detail:
    """All that is known of one job that somebody looks at."""

    progress: JobProgress
    assembled: AssembleDone | None = None
    validated: ValidateDone | None = None
    measured: Mapping[str, TaskRecords] = field(default_factory=dict)
    """By search: where it lies what was measured."""
    asked: float = 0.0
    """When the coordinator has said all of it: Unix time. 0: only what was heard by chance is here."""


@dataclass(frozen=True, slots=True)
class View:
    """The board as it was at one moment."""

    link: Link
    strategy: str
    jobs: Sequence[JobProgress]
    """The newest first."""
    resources: Sequence[ResourceProgress]
    waiting: Mapping[str, Mapping[str, int]]
    """As a snapshot has it."""
    samples: Mapping[str, Sequence[float]]
    """How busy each resource was, the latest last."""
    left_out: int
    """Jobs of the mesh that are not among these."""


class Board:
    """What is known of a mesh. Methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._link = Link()
        self._strategy = ""
        self._jobs: dict[str, JobProgress] = {}
        self._heard: dict[str, float] = {}
        self._resources: Sequence[ResourceProgress] = ()
        self._waiting: Mapping[str, Mapping[str, int]] = {}
        self._samples: dict[str, deque[float]] = {}
        self._sampled = 0.0
        self._left_out = 0
        self._details: LRUCache[str, Detail] = LRUCache(MOST_LOOKED_AT)
        self._rejected: LRUCache[str, str] = LRUCache(MOST_LOOKED_AT)
        self._listeners: set[Callable[[], None]] = set()

    # -- For pages -------------------------------------------------------------------------------------------

    def listen(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Have ``callback`` called, from another thread, whenever something has changed. Returns what ends
        that."""
        with self._lock:
            self._listeners.add(callback)
        return lambda: self._listeners.discard(callback)

    def view(self) -> View:
        """All but the details of jobs."""
        with self._lock:
            return View(
                link=self._link,
                strategy=self._strategy,
                jobs=sorted(self._jobs.values(), key=lambda job: -job.accepted),
                resources=self._resources,
                waiting=self._waiting,
                samples={queue: tuple(values) for queue, values in self._samples.items()},
                left_out=self._left_out,
            )

    def detail(self, job: str) -> Detail | None:
        """What is known of one job; ``None`` where that is nothing."""
        with self._lock:
            known = self._jobs.get(job)
            return self._details.get(job) or (Detail(known) if known is not None else None)

    def rejected(self, job: str) -> str:
        """Why its request was rejected, as far as that was asked for; else nothing."""
        with self._lock:
            return str(self._rejected.get(job, ""))

    # -- For the feed ----------------------------------------------------------------------------------------

    def linked(self, away: str, may_ask: bool, at: float) -> None:
        """How the dashboard stands with the mesh."""
        with self._lock:
            if (away, may_ask) == (self._link.away, self._link.may_ask):
                return
            self._link = Link(away, may_ask, at)
        self._changed()

    def event(self, event: JobEvent, at: float) -> None:
        """Something has happened to a job."""
        if event.progress is None:
            return
        with self._lock:
            self._put(event.progress, at)
            known = self._details.get(event.job)
            if known is not None and known.progress.accepted == event.progress.accepted:
                ended = event.kind in FINAL_KINDS
                measured = {} if ended else dict(known.measured)
                measured |= {each.task.id: each for each in event.measured}
                self._details[event.job] = replace(
                    known,
                    progress=event.progress,
                    assembled=event.assembled or known.assembled,
                    validated=event.validated or known.validated,
                    measured=measured,
                )
            self._busy(event.resources, at)
        self._changed()

    def listed(self, snapshot: Snapshot, at: float) -> None:
        """The mesh has listed jobs, or some of them."""
        with self._lock:
            self._strategy = snapshot.strategy
            self._waiting = snapshot.waiting
            self._left_out = snapshot.left_out
            for progress in snapshot.jobs:
                self._put(progress, at)
            self._busy(snapshot.resources, at, complete=True)
        self._changed()

    def told(self, job: str, snapshot: Snapshot, at: float) -> None:
        """The mesh has said all of one job, or that it does not know it."""
        with self._lock:
            if snapshot.jobs:
                self._put(snapshot.jobs[0], at)
                self._details[job] = Detail(
                    snapshot.jobs[0],
                    snapshot.assembled,
                    snapshot.validated,
                    {each.task.id: each for each in snapshot.measured},
                    asked=at,
                )
            elif snapshot.rejected:
                self._rejected[job] = snapshot.rejected
        self._changed()

    def not_listed_since(self, began: float) -> None:
        """All jobs were listed, from ``began`` on: of others that had not ended nobody knows any more."""
        with self._lock:
            lost = [
                job
                for job, progress in self._jobs.items()
                if progress.finished is None and self._heard[job] < began
            ]
            for job in lost:
                self._forget(job)
        self._changed()

    # -- Within ----------------------------------------------------------------------------------------------

    def _put(self, progress: JobProgress, at: float) -> None:
        self._jobs[progress.job] = progress
        self._heard[progress.job] = at
        if len(self._jobs) > MOST_JOBS:
            first = min(self._jobs.values(), key=lambda job: (job.finished is None, job.accepted))
            self._forget(first.job)

    def _forget(self, job: str) -> None:
        del self._jobs[job], self._heard[job]
        self._details.pop(job, None)

    def _busy(self, resources: Sequence[ResourceProgress], at: float, complete: bool = False) -> None:
        """An event tells of some resources only, where there are many, and what its own tenant may know: what
        whoever looks here was told before stays."""
        if complete:
            self._resources = resources
        elif resources:
            told = {each.queue: each for each in resources}
            known = [_merged(each, told.pop(each.queue, each)) for each in self._resources]
            self._resources = [*known, *told.values()]
        if not self._resources or at - self._sampled < SAMPLE_EVERY:
            return
        self._sampled = at
        for each in self._resources[:MOST_SAMPLED]:
            self._samples.setdefault(each.queue, deque(maxlen=SAMPLES)).append(each.utilisation)
        for gone in set(self._samples) - {each.queue for each in self._resources}:
            del self._samples[gone]

    def _changed(self) -> None:
        for each in tuple(self._listeners):
            each()


def _merged(known: ResourceProgress, told: ResourceProgress) -> ResourceProgress:
    """A resource as it was told of, with the steps that are known where they were left out."""
    if OTHERS not in told.running:
        return told
    return msgspec.structs.replace(told, running=known.running)
