"""Which artifacts jobs still need, for whoever removes old ones: the coordinator sees no store itself.

What a job makes is stored while it runs, and so is younger than the job. What it takes from others was stored
for jobs that ended at most a day before it began. Only what came with its request may be older than that, and
is named.
"""

from __future__ import annotations

from tunemesh.coordinator.state import State
from tunemesh.shared.messages import MOST_NAMED, Blob, Census, Request


def census(state: State) -> Census:
    """What holds at this moment."""
    named: dict[str, None] = {}
    for job in state.jobs.values():
        if not job.ended:
            named.update(dict.fromkeys(blob.sha256 for blob in _came_with(job.ledger.request)))
    return Census(
        at=state.instant,
        oldest=min((job.ledger.accepted for job in state.jobs.values()), default=None),
        named=list(named)[:MOST_NAMED],
        complete=len(named) <= MOST_NAMED,
    )


def _came_with(request: Request) -> list[Blob]:
    found = [request.model, *request.files.values()]
    return found if request.samples is None else [*found, request.samples]
