"""What is asked about jobs that have ended, and what workers answer.

The coordinator forgets jobs; workers with a database write down how each ended, and answer.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from tunemesh.shared.messages.basics import Count, Instant, JobId, Message, Name, Seconds
from tunemesh.shared.messages.progress import JobEvent, JobProgress, Phase
from tunemesh.shared.messages.results import ValidateDone

AnswerKey = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
"""Drawn by whoever asks: nobody else can listen to the answer."""

MOST_PAST = 500
"""Jobs in one answer: some 500 bytes each."""

SHOWN = 200
"""Characters of a job's error, or target, in short."""


class PastJob(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a job ended, in short. Latencies in seconds."""

    job: JobId
    accepted: Instant
    finished: Instant
    phase: Phase
    name: Name = ""
    tenant: str = ""
    target: str = ""
    trials: Count = 0
    before: Seconds | None = None
    """Of one run of the whole model, untuned; ``None`` where it was not compared."""
    after: Seconds | None = None
    error: str = ""
    asked_by: Name = ""
    """The user of the broker that asked for it, as the broker verified it; empty where it did not."""
    cancelled_by: Name = ""
    cancelled_at: Instant | None = None
    """When somebody asked to stop it; ``None``: nobody did."""
    results: bool = False
    """Whether its results can still be asked for; how long they are kept is set where workers are started."""


class AskHistory(Message, frozen=True, kw_only=True, tag="ask-history"):
    """Ask workers about jobs that have ended. Answered with a :class:`PastJobs`."""

    answer: AnswerKey
    """Routing key for the answer, behind ``answer.``."""
    job: Annotated[str, Meta(max_length=200)] = ""
    """One job, with all that is known of it; of several with that id the latest. Empty: all."""
    phases: Annotated[list[Phase], Meta(max_length=10)] = []
    """None: any."""
    tenant: str | None = None
    since: Instant = 0.0
    """Those that ended then or later."""
    limit: Annotated[int, Meta(ge=1, le=MOST_PAST)] = 100


class PastJobs(Message, frozen=True, kw_only=True, tag="past-jobs"):
    """The answer to :class:`AskHistory`: the latest first."""

    jobs: Annotated[list[PastJob], Meta(max_length=MOST_PAST)] = []
    more: bool = False
    """There are others that ended earlier."""
    ended: JobEvent | None = None
    """Where one job was asked for: the last that was told of it, with the addresses of its results."""
    error: str = ""
    """Why there is no answer."""


def past_job(progress: JobProgress, validated: ValidateDone | None = None) -> PastJob:
    """A job in short. Of one that has not ended ``finished`` is 0."""
    stop = progress.cancelled
    return PastJob(
        job=progress.job,
        accepted=progress.accepted,
        finished=progress.finished or 0.0,
        phase=progress.phase,
        name=progress.name,
        tenant=progress.tenant,
        target=progress.target[:SHOWN],
        trials=progress.trials,
        before=validated.latency_before if validated is not None else None,
        after=validated.latency_after if validated is not None else None,
        error=progress.error[:SHOWN],
        asked_by=progress.asked_by,
        cancelled_by=stop.by if stop is not None else "",
        cancelled_at=stop.at if stop is not None else None,
        results=progress.phase == "done",
    )
