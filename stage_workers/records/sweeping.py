"""Removing artifacts that nobody needs any more.

What is kept: whatever was stored lately, or since the first job was accepted that the coordinator still
knows; what came with a request whose job has not ended; what a job has left whose results are kept. Records
name no artifacts: schedules and workloads are in the database. A blob that somebody stores again while this
goes on is young then, and stays: see :meth:`shared.artifacts.ArtifactStore.remove`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import msgspec
from msgspec import Struct

from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.errors import ArtifactError, Unavailable
from tunemesh.shared.messages import AssembleDone, Blob, Census, JobEvent, TaskRecords
from tunemesh.stage_workers.records import history
from tunemesh.stage_workers.records.database import Database

DAY = 86_400.0

RETENTION = 90.0
"""Days for which the results of a job are kept."""

MARGIN = 3600.0
"""Seconds by which clocks may differ, of the machines that store and of the store itself."""

BEFORE_JOBS = 7 * DAY
"""Seconds before its acceptance from which what a job takes from others was stored: it takes from jobs that
ended up to a day before it, and these took a while themselves."""


class Swept(Struct, frozen=True, kw_only=True):
    """What came of a sweep."""

    dry_run: bool
    """Nothing was removed; the figures say what would have been."""
    before: float
    """What was stored later was not looked at, in Unix time."""
    removed: int
    freed: int
    """Bytes."""
    kept: int
    """Old ones that somebody needs."""
    jobs: int
    """Whose results are no longer kept."""


def sweep(
    store: ArtifactStore,
    database: Database,
    census: Census,
    retention: float = RETENTION,
    dry_run: bool = False,
) -> Swept:
    """Remove what nobody needs.

    Args:
        database: of the mesh that ``store`` belongs to.
        census: what the coordinator said lately.
        retention: days for which the results of jobs are kept.

    Raises:
        Unavailable: the database is away, or there are too many jobs to know what they need.
        ArtifactError: the store cannot be read, or nothing can be removed from it.
    """
    if not census.complete:
        raise Unavailable("there are too many jobs to know what they need: nothing is removed now")
    # The earlier of two clocks: one that has jumped ahead must not make results old.
    now = min(time.time(), census.at)
    before = now - retention * DAY - MARGIN
    if census.oldest is not None:
        before = min(before, census.oldest - BEFORE_JOBS)
    with database.reading() as connection:
        needed = set(census.named)
        for event in history.endings(connection, before):
            needed.update(blob.sha256 for blob in named_by(event, store))
        forgotten = history.endings_before(connection, before)
    removed = freed = kept = 0
    for own in (store, *map(store.of, store.tenants())):
        for name, size in own.older(before):
            if name in needed:
                kept += 1
            elif dry_run or own.remove(name, before):
                removed += 1
                freed += size
    if not dry_run and forgotten:
        with database.writing() as connection:
            forgotten = history.forget_endings(connection, before)
    return Swept(dry_run=dry_run, before=before, removed=removed, freed=freed, kept=kept, jobs=forgotten)


def named_by(event: JobEvent, store: ArtifactStore) -> Iterator[Blob]:
    """The artifacts of a job that has ended."""
    if event.assembled is not None:
        yield from _results(event.assembled)
        own = store.of(event.progress.tenant if event.progress is not None else "")
        try:
            records = msgspec.msgpack.decode(own.get(event.assembled.records), type=list[TaskRecords])
        except (ArtifactError, msgspec.DecodeError):
            records = []  # gone already; what is left of it is of no use
        for each in records:
            yield from _measured(each)
    for each in event.measured:
        yield from _measured(each)


def _results(made: AssembleDone) -> list[Blob]:
    return [made.tuned, made.untuned, made.signature, made.records, *made.files.values()]


def _measured(records: TaskRecords) -> list[Blob]:
    objects = [each.objects for each in records.confirmed if each.objects is not None]
    return [records.task.workload, records.task.untuned, *records.history, *objects]
