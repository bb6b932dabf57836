"""How jobs ended: written down by workers, asked for by people.

In short for ever; with the addresses of what came of it for as long as that is kept.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from typing import Any

import msgspec
from sqlalchemy import Connection, Select, delete, select

from tunemesh.shared.messages import AskHistory, JobEvent, PastJob, PastJobs, past_job
from tunemesh.stage_workers.records.database import Database
from tunemesh.stage_workers.records.rows import job_id
from tunemesh.stage_workers.records.schema import ABOUT, ENDINGS, HISTORY

SWEPT = "swept "
"""Before what a store is called: name of the moment, in Unix time, at which it was swept last."""

COLUMNS = tuple(name for name in PastJob.__struct_fields__ if name != "results")
AT_ONCE = 100
LARGEST = 8 * 1024 * 1024
"""Bytes of an ending: it came in a message of 1 MiB."""

_events = msgspec.msgpack.Decoder(JobEvent)


def keep(database: Database, event: JobEvent, results: bool = True) -> bool:
    """Write down how a job ended. Returns whether that is new; what is there already stays as it is.

    Args:
        results: whether what it has left will be there for a while.

    Raises:
        ValueError: the job has not ended.
        RecordsUnavailable, BadInput: as :meth:`.Database.writing`.
    """
    if event.progress is None or not event.progress.finished:
        raise ValueError(f"job {event.job} has not ended")
    past = past_job(event.progress, event.validated)
    values: dict[str, Any] = {name: getattr(past, name) for name in COLUMNS}
    values |= {name: text.replace("\0", "") for name, text in values.items() if isinstance(text, str)}
    name = job_id(past.job, past.accepted)
    # How the mesh was doing at that moment interests nobody later.
    told = msgspec.msgpack.encode(msgspec.structs.replace(event, resources=[]))
    with database.writing() as connection:
        if not _insert(database, connection, HISTORY, {"id": name, **values}):
            return False
        if results:
            _insert(database, connection, ENDINGS, {"id": name, "event": zlib.compress(told)})
    return True


def answered(connection: Connection, asked: AskHistory) -> PastJobs:
    """What is known of the jobs that somebody asks for, the latest first."""
    found = list(connection.execute(_listed(asked).limit(asked.limit + 1)).mappings())
    jobs = [_past(each) for each in found[: asked.limit]]
    if not asked.job or not jobs:
        return PastJobs(jobs=jobs, more=len(found) > asked.limit)
    event = connection.execute(select(ENDINGS.c.event).where(ENDINGS.c.id == found[0]["id"])).scalar()
    return PastJobs(jobs=jobs[:1], ended=_decoded(event) if event is not None else None)


def endings(connection: Connection, since: float) -> Iterator[JobEvent]:
    """What was told of the jobs that ended since a moment in Unix time, as far as it is kept."""
    asked = select(ENDINGS.c.event).join(HISTORY, HISTORY.c.id == ENDINGS.c.id)
    # Of the statement alone: an option of the connection would be one of all that it does later.
    recent = asked.where(HISTORY.c.finished >= since).execution_options(yield_per=AT_ONCE)
    for (event,) in connection.execute(recent):
        yield _decoded(event)


def forget_endings(connection: Connection, before: float) -> int:
    """Forget where the results of jobs lie that ended before a moment in Unix time: nobody keeps them. How
    they ended stays. Returns how many."""
    old = select(HISTORY.c.id).where(HISTORY.c.finished < before)
    return int(connection.execute(delete(ENDINGS).where(ENDINGS.c.id.in_(old))).rowcount)


def endings_before(connection: Connection, before: float) -> int:
    """How many :func:`forget_endings` would forget."""
    old = select(ENDINGS.c.id).join(HISTORY, HISTORY.c.id == ENDINGS.c.id)
    return len(connection.execute(old.where(HISTORY.c.finished < before)).all())


def last_sweep(connection: Connection, store: str) -> float:
    """When the artifacts at a URL were swept last, in Unix time; 0 if never."""
    found = connection.execute(select(ABOUT.c.value).where(ABOUT.c.name == _swept(store))).scalar()
    return float(found) if found is not None else 0.0


def note_sweep(connection: Connection, store: str, at: float) -> None:
    """Note that the artifacts at a URL are swept now, so that others do not do it as well."""
    connection.execute(delete(ABOUT).where(ABOUT.c.name == _swept(store)))
    connection.execute(ABOUT.insert(), {"name": _swept(store), "value": str(at)})


def _swept(store: str) -> str:
    """Not the URL itself, which may have a password."""
    return SWEPT + hashlib.sha256(store.encode()).hexdigest()[:16]


def _listed(asked: AskHistory) -> Select[Any]:
    kept = ENDINGS.c.id.is_not(None).label("kept")
    found = select(HISTORY, kept).outerjoin(ENDINGS, ENDINGS.c.id == HISTORY.c.id)
    found = found.order_by(HISTORY.c.finished.desc(), HISTORY.c.id)
    if asked.job:
        found = found.where(HISTORY.c.job == asked.job)
    if asked.phases:
        found = found.where(HISTORY.c.phase.in_(asked.phases))
    if asked.tenant is not None:
        found = found.where(HISTORY.c.tenant == asked.tenant)
    if asked.since:
        found = found.where(HISTORY.c.finished >= asked.since)
    return found


def _past(columns: Any) -> PastJob:
    known = {name: columns[name] for name in COLUMNS}
    return msgspec.convert({**known, "results": bool(columns["kept"])}, PastJob)


def _decoded(event: bytes) -> JobEvent:
    return _events.decode(zlib.decompressobj().decompress(event, LARGEST))


def _insert(database: Database, connection: Connection, table: Any, values: dict[str, Any]) -> bool:
    return bool(connection.execute(database.insert(table), values).rowcount)
