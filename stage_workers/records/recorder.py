"""A worker's way to the records: it never waits for long, and never fails.

What cannot be written now is tried again as long as the worker lives, up to a limit. What is lost with it is
in the histories of the job, which ``tunemesh records sync`` writes from.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import msgspec

from tunemesh.shared.errors import TunemeshError
from tunemesh.stage_workers.records.questions import Best, Filter, Found, Memory, Prior, Similar
from tunemesh.stage_workers.records.rows import Row

log = logging.getLogger(__name__)

T = TypeVar("T")

PATIENCE = 2.0
"""Seconds that a step waits for the database, once; after that it is not waited for until it answers."""
WAIT = 1.5
"""Seconds that a lock, or a server, may take."""
ASKING = 5.0
"""Seconds that answers may take on top of that: what is imported for them is slow."""
PAUSE = 10.0
"""Seconds between two attempts at a database that is away."""
FRESH = 60.0
"""Seconds until it is asked again whether there is a newer prior."""
KEPT = 200
"""Batches that are kept for a database that is away; the newest of them."""


_with_shipped: set[str] = set()
"""Addresses of databases that are known to have what comes with Tunemesh."""


class Writable(Protocol):
    """What of a database is used."""

    def add(self, rows: Sequence[Row]) -> int:
        """See :meth:`.database.Database.add`."""

    def id(self) -> str:
        """See :meth:`.database.Database.id`."""

    def known(self, tasks: Sequence[str], which: Filter) -> dict[str, Best]:
        """See :meth:`.queries.Answering.known`."""

    def leaders(self, task: str, which: Filter, limit: int) -> list[Found]:
        """See :meth:`.queries.Answering.leaders`."""

    def memory(self, task: str, conditions: str, which: Filter) -> Memory:
        """See :meth:`.memory.Remembering.memory`."""

    def prior(self, engine: str, family: str) -> Prior | None:
        """See :meth:`.memory.Remembering.prior`."""

    def similar(self, task: str, operator: str, target: str, which: Filter, limit: int) -> list[Similar]:
        """See :meth:`.queries.Answering.similar`."""


def check_address(address: str) -> None:
    """Raises:
    BadInput: there is no such kind of database, or what it needs is not installed.
    """
    from tunemesh.stage_workers.records.database import address_of

    address_of(address)


def opened(address: str, with_shipped: bool) -> Writable:
    """The database at an address.

    Args:
        with_shipped: whether it is to have the records that come with Tunemesh.

    Raises:
        BadInput: there is no such kind of database.
    """
    # Slow to import, and most workers do without.
    from tunemesh.stage_workers.records import shipped
    from tunemesh.stage_workers.records.memory import Remembering

    database = Remembering(address, wait=WAIT)
    if with_shipped and address not in _with_shipped:
        shipped.add(database)
        _with_shipped.add(address)
    return database


@dataclass(slots=True)
class Batch:
    """Rows on their way."""

    rows: Sequence[Row]
    answered: threading.Event = field(default_factory=threading.Event)
    error: str = ""


class Recorder:
    """Writes in a thread of its own, which starts with the first batch.

    Args:
        opened: makes the database; called in that thread, because what it imports is slow.
        patience: seconds that a step waits, once.
        pause: seconds between two attempts at a database that is away.
    """

    def __init__(
        self, opened: Callable[[], Writable], patience: float = PATIENCE, pause: float = PAUSE
    ) -> None:
        self._opened = opened
        self._patience = patience
        self._pause = pause
        self._database: Writable | None = None
        self._wanted = threading.Condition()
        self._batches: deque[Batch] = deque(maxlen=KEPT)
        self._thread: threading.Thread | None = None
        self._error = ""
        """What was wrong the last time; empty while all is well."""
        self._again_at = 0.0
        self._ask_again_at = 0.0
        self._priors: dict[tuple[str, str], tuple[float, Prior | None]] = {}
        """By engine and family: when it was asked for, and what came."""

    def write(self, rows: Sequence[Row]) -> Batch:
        """Begin to write rows: as a whole or not at all."""
        batch = Batch(rows)
        with self._wanted:
            if len(self._batches) == KEPT:
                self._batches[0].error = "there are too many records to be written"
                self._batches[0].answered.set()
            self._batches.append(batch)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="records", daemon=True)
                self._thread.start()
            self._wanted.notify()
        return batch

    def why_not(self, batch: Batch) -> str:
        """Wait until a batch is written, but not where it is known that this takes long. Why it is not; empty
        where it is. It may still be written later."""
        if not self._error:
            batch.answered.wait(self._patience)
        if batch.answered.is_set():
            return batch.error
        if not self._error:
            self._failed(f"no answer for {self._patience:g} s")
        return self._error

    def best(
        self, tasks: Sequence[str], engines: Sequence[str], conditions: str, since: float, tenant: str
    ) -> dict[str, Best]:
        """By key: what is known of tasks; nothing where the database does not answer soon.

        Args:
            engines: who may have made it: the fastest of all, and as searched as all of them have.
            conditions: id of those that it was measured under.
            since: Unix time before which it is too old.
            tenant: for whom.
        """
        return self._answer(lambda: self._asked(tasks, engines, conditions, since, tenant), {})

    def leaders(self, task: str, engine: str, tenant: str, limit: int) -> list[Found]:
        """The fastest schedules of a task, wherever and whenever they were measured; nothing where the
        database does not answer soon. Arguments as of :meth:`best`."""
        which = Filter(engine=engine, visible_to=tenant)
        return self._answer(lambda: self._opened().leaders(task, which, limit), [])

    def memory(self, task: str, engine: str, conditions: str, tenant: str) -> Memory:
        """What was tried of a task; nothing where the database does not answer soon.

        Args:
            conditions: id of those that it is measured under now; empty where that is not known.
        """

        def asked() -> Memory:
            database = self._opened()
            which = Filter(engine=engine, source=database.id(), visible_to=tenant)
            return database.memory(task, conditions, which)

        return self._answer(asked, Memory())

    def prior(self, engine: str, family: str) -> bytes | None:
        """The newest prior for devices of a family, at most :data:`FRESH` seconds late; ``None`` where there
        is none, or the database does not answer soon."""
        at, known = self._priors.get((engine, family), (-math.inf, None))
        if time.monotonic() - at > FRESH:
            known = self._answer(lambda: self._opened().prior(engine, family), known)
            self._priors[engine, family] = time.monotonic(), known
        return known.data if known is not None else None

    def similar(
        self, task: str, operator: str, target: str, engine: str, tenant: str, limit: int
    ) -> list[Similar]:
        """The fastest schedules of other tasks with the same main operator; nothing where the database does
        not answer soon.

        Args:
            task: key of the one that they are to be similar to.
            operator: its.
            target: its, in canonical form.
            engine: who made them.
            tenant: for whom.
            limit: tasks.
        """
        which = Filter(engine=engine, visible_to=tenant)
        return self._answer(lambda: self._opened().similar(task, operator, target, which, limit), [])

    def _answer(self, ask: Callable[[], T], nothing: T) -> T:
        """What a question gives; ``nothing`` where it fails or takes long, and for a while after that."""
        if self._error or time.monotonic() < self._ask_again_at:
            return nothing
        answers: queue.SimpleQueue[T] = queue.SimpleQueue()

        def run() -> None:
            try:
                answers.put(ask())
            except Exception as error:  # whatever a driver raises: nothing is known then
                self._ask_again_at = time.monotonic() + self._pause
                log.warning("what is known is not used: %s", error)
                answers.put(nothing)

        threading.Thread(target=run, name="question", daemon=True).start()
        try:
            return answers.get(timeout=self._patience + ASKING)
        except queue.Empty:
            self._ask_again_at = time.monotonic() + self._pause
            log.warning("what is known is not used: the records give no answer")
            return nothing

    def _asked(
        self, tasks: Sequence[str], engines: Sequence[str], conditions: str, since: float, tenant: str
    ) -> dict[str, Best]:
        database = self._opened()
        found: dict[str, Best] = {}
        for engine in engines:
            which = Filter(
                engine=engine,
                conditions=conditions,
                since=since,
                source=database.id(),
                visible_to=tenant,
            )
            for key, best in database.known(tasks, which).items():
                before = found.get(key, best)
                faster = (best.found.latency or 0.0) < (before.found.latency or 0.0)
                searched = best.searched + (before.searched if before is not best else 0.0)
                found[key] = msgspec.structs.replace(best if faster else before, searched=searched)
        return found

    def _run(self) -> None:
        while True:
            with self._wanted:
                while not self._batches or time.monotonic() < self._again_at:
                    self._wanted.wait(max(self._again_at - time.monotonic(), 0.0) if self._batches else None)
                batch = self._batches.popleft()
            self._attempt(batch)

    def _attempt(self, batch: Batch) -> None:
        try:
            if self._database is None:
                self._database = self._opened()
            self._database.add(batch.rows)
        except TunemeshError as error:
            self._failed(str(error))
        except Exception as error:  # whatever a driver raises must not end the thread
            if not self._error:
                log.exception("records cannot be written")
            self._failed(f"{type(error).__name__}: {error}")
        else:
            batch.error = ""
            batch.answered.set()
            if self._error:
                log.info("records are written again")
            self._error, self._again_at = "", 0.0
            return
        batch.error = self._error
        batch.answered.set()
        self._again_at = time.monotonic() + self._pause
        with self._wanted:
            if len(self._batches) < KEPT:
                self._batches.appendleft(batch)

    def _failed(self, error: str) -> None:
        if not self._error:
            log.warning(
                "%s; jobs go on. What is not written then: tunemesh records sync writes it later", error
            )
        self._error = error
