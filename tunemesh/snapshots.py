"""What a snapshot says of one job, as the event that a client may have missed."""

from __future__ import annotations

import time

from tunemesh.shared.messages import EventKind, JobEvent, JobProgress, Snapshot


def of_job(snapshot: Snapshot, job: str) -> JobEvent | None:
    """What the newest event of the job that was asked for would have said; ``None`` if it is not known."""
    if not snapshot.jobs and snapshot.rejected:
        return JobEvent(job=job, kind="rejected", at=time.time(), text=snapshot.rejected)
    return as_event(snapshot) if snapshot.jobs else None


def as_event(snapshot: Snapshot) -> JobEvent:
    """What the newest event of the one job in a snapshot would have said."""
    progress = snapshot.jobs[0]
    return JobEvent(
        job=progress.job,
        kind=_final(progress) or "progress",
        at=progress.finished or time.time(),
        text=progress.error or progress.waiting,
        progress=progress,
        resources=snapshot.resources,
        assembled=snapshot.assembled,
        validated=snapshot.validated,
        measured=snapshot.measured,
    )


def unknown(job: str) -> JobEvent:
    """Of a job that the coordinator does not know, however often it is asked."""
    text = f"the coordinator does not know job {job}: its request was refused, or it ended long ago"
    return JobEvent(job=job, kind="rejected", at=time.time(), text=text)


def _final(progress: JobProgress) -> EventKind | None:
    phase = progress.phase
    return phase if phase in ("done", "failed", "cancelled") else None
