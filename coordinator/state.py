"""What the parts of the core have in common between two events."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tunemesh.coordinator.events import Acknowledge, Instruction, Tell
from tunemesh.coordinator.jobs import progress
from tunemesh.coordinator.jobs.job import Held, Job
from tunemesh.coordinator.scheduling.dispatcher import Dispatcher
from tunemesh.coordinator.scheduling.durations import Durations
from tunemesh.coordinator.scheduling.resources import Resources
from tunemesh.shared.messages import EventKind, JobEvent, ResourceProgress

RESOURCES_TOLD = 64
"""Resources that an event lists at most, so that it stays small; a snapshot lists all."""

RESOURCES_FRESH = 0.5
"""Seconds for which what was said of the resources can be said again."""


@dataclass(slots=True)
class Desk:
    """The picture that the core has, and the instructions that it is about to give."""

    resources: Resources
    durations: Durations
    dispatcher: Dispatcher
    now: float = 0.0
    jobs: dict[str, Job] = field(default_factory=dict)
    out: list[Instruction] = field(default_factory=list)
    active: int = 0
    """Jobs that have not ended."""
    look_again: bool = False
    """A step in flight was lost: see which are due."""
    _told: tuple[float, list[ResourceProgress]] = (-1e9, [])

    def release(self, held: Iterable[Held]) -> None:
        """Acknowledge results that are of no use any more."""
        self.out.extend(Acknowledge(each.handle) for each in held)

    def tell(self, job: Job, kind: EventKind, text: str) -> None:
        """Tell whoever listens to ``job``."""
        job.told, job.changed = self.now, False
        event = JobEvent(
            job=job.id,
            kind=kind,
            at=self.now,
            text=text,
            progress=progress.progress(job),
            resources=self._resources(),
            assembled=progress.result(job),
            validated=job.ledger.validated,
        )
        self.out.append(Tell(event))

    def _resources(self) -> list[ResourceProgress]:
        at, told = self._told
        if not 0 <= self.now - at < RESOURCES_FRESH:
            told = self.resources.progress(self.now)[:RESOURCES_TOLD]
            self._told = self.now, told
        return told
