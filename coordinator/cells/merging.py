"""What all cells answer, as one answer: a client asks as on a mesh without cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from tunemesh.shared.messages import MOST_NAMED, Census, JobProgress, ResourceProgress, Snapshot
from tunemesh.shared.messages.progress import CellProgress

ROOM = 900_000
"""Bytes of a merged snapshot, at most: a message may have 1 MiB."""


def skips(totals: Mapping[str, int], skip: int) -> dict[str, int]:
    """Of the list of all jobs, which is that of the first cell, then of the second, and so on: which part
    each cell has to leave out.

    Args:
        totals: jobs of each cell, in the order of the list.
        skip: jobs that are left out of the list of all.
    """
    left: dict[str, int] = {}
    for cell, total in totals.items():
        left[cell] = min(skip, total)
        skip -= left[cell]
    return left


def total(snapshot: Snapshot, skipped: int) -> int:
    """Jobs that a cell has, by an answer that leaves out the first ``skipped``."""
    return skipped + len(snapshot.jobs) + snapshot.left_out


def merged(answers: Mapping[str, Snapshot], cells: Sequence[CellProgress]) -> Snapshot:
    """One snapshot of all jobs and resources.

    Args:
        answers: by cell, in the order of the list of all jobs; each leaves out what :func:`skips` says.
        cells: how all cells are, those too that have not answered.
    """
    resources = [
        msgspec.structs.replace(each, queue=f"{cell}/{each.queue}")
        for cell, answer in answers.items()
        for each in answer.resources
    ]
    resources, size = _fitting(resources)
    listed, left_out = _listed(answers, ROOM - size)
    return Snapshot(
        strategy=", ".join(dict.fromkeys(answer.strategy for answer in answers.values())),
        jobs=listed,
        resources=resources,
        waiting={
            f"{cell}/{kind}": jobs
            for cell, answer in answers.items()
            for kind, jobs in answer.waiting.items()
        },
        left_out=left_out,
        cells=list(cells),
    )


def merged_census(censuses: Sequence[Census], *, all_have_answered: bool) -> Census:
    """What all cells need together. Where one has not answered nobody knows that."""
    named = dict.fromkeys(name for each in censuses for name in each.named)
    return Census(
        at=min(each.at for each in censuses),
        oldest=min((each.oldest for each in censuses if each.oldest is not None), default=None),
        named=list(named)[:MOST_NAMED],
        complete=all_have_answered and all(each.complete for each in censuses) and len(named) <= MOST_NAMED,
    )


def _fitting(resources: Sequence[ResourceProgress]) -> tuple[list[ResourceProgress], int]:
    """As many as fit into half of a message, and their size."""
    kept, size = [], 0
    for each in resources:
        size += len(msgspec.msgpack.encode(each))
        if size > ROOM / 2:
            break
        kept.append(each)
    return kept, size


def _listed(answers: Mapping[str, Snapshot], room: int) -> tuple[list[JobProgress], int]:
    """The jobs of the first cells, as many as fit, and how many are behind them. Of a cell all that it has
    named or none: what is cut off would be missing in the middle of the list."""
    listed: list[JobProgress] = []
    left_out = 0
    for answer in answers.values():
        size = sum(len(msgspec.msgpack.encode(job)) for job in answer.jobs)
        if left_out or (listed and size > room):
            left_out += total(answer, 0)
        else:
            room -= size
            listed += answer.jobs
            left_out += answer.left_out
    return listed, left_out
