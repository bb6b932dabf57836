"""What can happen to a database of records while jobs run, and what must be in it in the end."""

from __future__ import annotations

import contextlib
import resource
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import psutil

from tunemesh import record_exchange
from tunemesh.client import Client
from tunemesh.results import histories
from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.errors import TunemeshError
from tunemesh.shared.messages import JobEvent
from tunemesh.stage_workers.records import queries
from tunemesh.stage_workers.records.database import Database
from tunemesh.stage_workers.records.questions import Filter

MOST = 1_000_000

Tried = dict[tuple[str, str], list[float]]
"""Latencies by task and schedule."""


class SQLite:
    """A database in a file that can be taken away from those who use it.

    Args:
        folder: of the file and all that goes with it.
        workers: process ids of those who write.
    """

    def __init__(self, folder: Path, workers: Callable[[], Collection[int]]) -> None:
        self._real = folder / "real"
        self._real.mkdir()
        self._nothing = folder / "nothing"
        self._nothing.touch()
        # A link is turned in one step, so that nobody makes a new file meanwhile.
        self._link = folder / "records"
        self._link.symlink_to(self._real)
        self._workers = workers
        self.address = str(self._link / "records.sqlite")

    @property
    def troubles(self) -> dict[str, Callable[[float], contextlib.AbstractContextManager[None]]]:
        """By name: what can be wrong for so many seconds."""
        return {"away": self._away, "locked": self._locked, "full": self._full, "slow": self._slow}

    @contextlib.contextmanager
    def _away(self, seconds: float) -> Iterator[None]:
        self._turn(self._nothing)
        yield
        time.sleep(seconds)
        self._turn(self._real)

    def _turn(self, to: Path) -> None:
        new = self._link.with_name("new")
        new.symlink_to(to)
        new.replace(self._link)

    @contextlib.contextmanager
    def _locked(self, seconds: float) -> Iterator[None]:
        with contextlib.closing(self._connected()) as other:
            other.execute("BEGIN IMMEDIATE")
            yield
            time.sleep(seconds)

    @contextlib.contextmanager
    def _slow(self, seconds: float) -> Iterator[None]:
        """Each batch waits for somebody else's transaction, but not as long as it is given."""
        yield
        end = time.monotonic() + seconds
        with contextlib.closing(self._connected()) as other:
            while time.monotonic() < end:
                other.execute("BEGIN IMMEDIATE")
                time.sleep(1.0)
                other.execute("ROLLBACK")
                time.sleep(0.05)

    @contextlib.contextmanager
    def _full(self, seconds: float) -> Iterator[None]:
        """No file of a worker grows beyond what the journal has now: to it the file system is full."""
        journal = self._real / "records.sqlite-wal"
        size = journal.stat().st_size if journal.exists() else 0
        limited = list(self._workers())
        for pid in limited:
            _limit_files(pid, max(size, 64 * 1024))
        yield
        time.sleep(seconds)
        for pid in limited:
            _limit_files(pid, resource.RLIM_INFINITY)

    def _connected(self) -> sqlite3.Connection:
        return sqlite3.connect(self._real / "records.sqlite", isolation_level=None, timeout=30.0)


def _limit_files(pid: int, size: int) -> None:
    with contextlib.suppress(psutil.Error, ProcessLookupError):
        psutil.Process(pid).rlimit(psutil.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def compared(
    client: Client, store: ArtifactStore, address: str, ended: dict[str, JobEvent]
) -> tuple[dict[str, int], dict[str, str]]:
    """How many trials the records had, and what is wrong with them after all jobs were synced.

    Args:
        ended: the last event of each job.
    """
    problems: dict[str, str] = {}
    with Database(address) as database:
        before = _recorded(database)
        synced = {each.job: each for each in record_exchange.sync(client, store, database)}
        after = _recorded(database)
        again = sum(each.new for each in record_exchange.sync(client, store, database))
    if again:
        problems["records"] = f"{again} rows were new when the same jobs were synced again"
    for job, event in ended.items():
        found = after.get(job, {})
        told = event.progress.trials if event.progress is not None else -1
        if (each := synced.get(job)) is None or each.error:
            problems[job] = f"not synced: {each.error if each is not None else 'not known any more'}"
        elif len(found) != told:
            problems[job] = f"{told} trials were counted, {len(found)} are recorded"
        elif wrong := [name for name, row in before.get(job, {}).items() if found[name] != row]:
            problems[job] = f"{len(wrong)} records were changed"
        elif event.assembled is not None and (why := _differ(store, event, after)):
            problems[job] = why
    figures = {
        "recorded by workers": sum(map(len, before.values())),
        "recorded after sync": sum(map(len, after.values())),
    }
    return figures, problems


def _recorded(database: Database) -> dict[str, Tried]:
    """All trials of the mock engine, by job: there may be those that come with Tunemesh.

    Raises:
        TunemeshError: one is there twice.
    """
    with database.reading() as connection:
        rows = queries.newest(connection, Filter(engine="mock"), MOST)
    found: dict[str, Tried] = {}
    for each in rows:
        of_job = found.setdefault(each.job.job, {})
        name = each.trial.task, each.trial.hash
        if name in of_job:
            raise TunemeshError(f"a trial of job {each.job.job} is recorded twice: {name}")
        of_job[name] = each.trial.latencies
    return found


def _differ(store: ArtifactStore, event: JobEvent, recorded: dict[str, Tried]) -> str:
    """What the histories of a job hold that the records do not, whichever job tried it."""
    assert event.assembled is not None
    for history in histories(store, event.assembled):
        of_job = recorded.get(history.origin.job if history.origin is not None else "", {})
        by_hash = {name: latencies for (_, name), latencies in of_job.items()}
        for trial in history.trials:
            if by_hash.get(trial.candidate.hash) != trial.latencies:
                return (
                    f"what was tried in {history.task}, {trial.candidate.hash[:8]}, is not what is recorded"
                )
    return ""
