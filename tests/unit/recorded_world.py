"""A world whose workers are real stages with the mock engine, and write down what they measure in a real
database that is away, locked or full now and then."""

from __future__ import annotations

import contextlib
import random
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tests.unit.record_rows import HERE
from tests.unit.stage_calls import FakeSandbox
from tests.unit.world import FakeWorker, World
from tunemesh.coordinator.events import Answer, Arrived, WorkerSeen
from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.messages import (
    Device,
    Query,
    Snapshot,
    Step,
    StepResult,
    Timing,
)
from tunemesh.stage_workers.records import queries
from tunemesh.stage_workers.records.database import Database
from tunemesh.stage_workers.records.queries import Answering
from tunemesh.stage_workers.records.questions import ALL
from tunemesh.stage_workers.records.recorder import Batch, Recorder
from tunemesh.stage_workers.records.rows import Row
from tunemesh.stage_workers.stages import Context, run_stage

Trials = dict[tuple[str, str], list[float]]
"""Latencies by task and schedule."""
FULL = """CREATE TRIGGER full BEFORE INSERT ON trials WHEN (SELECT count(*) FROM trials) % 3 = 2
BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"""
"""In the middle of a batch."""


class AtOnce(Recorder):
    """Writes in the thread of whoever asks, so that a run can be repeated."""

    def __init__(self, address: str) -> None:
        super().__init__(lambda: Answering(address, wait=0.0), pause=0.0)

    def write(self, rows: Sequence[Row]) -> Batch:
        batch = Batch(rows)
        self._batches.append(batch)
        for _ in range(len(self._batches)):
            self._attempt(self._batches.popleft())
            if self._error:  # what is left is tried again with the next
                break
        return batch


class RecordedWorld(World):
    """See above.

    Args:
        folder: of the database.
    """

    def __init__(self, folder: Path, strategy: str, rng: random.Random) -> None:
        self.address = str(folder / "records.sqlite")
        self.store = ArtifactStore(f"memory://{folder}")
        self.contexts: dict[str, Context] = {}
        self.kills = 0
        self._lock: sqlite3.Connection | None = None
        self._trouble = ""
        Database(self.address).id()
        super().__init__(strategy=strategy, rng=rng)

    # -- Workers ---------------------------------------------------------------------------------------------

    def work(self, worker: FakeWorker) -> bool:
        """What a worker that takes a step has written may be there before its result is, or without it."""
        before = worker.doing
        found = super().work(worker)
        if found and before is None and worker.doing is not None and self.rng.random() < 0.3:
            self.result(worker, worker.doing[1])
        return found

    def kill(self, worker: FakeWorker) -> None:
        """What it could not write is gone with it."""
        super().kill(worker)
        self.contexts.pop(worker.name, None)
        self.kills += 1

    def start_coordinator(self) -> None:
        super().start_coordinator()
        self.kills += 1

    def report(self) -> None:
        """Devices say what they are."""
        for worker in self.workers:
            if worker.alive:
                status = worker.status()
                if status.serves.targets:
                    serves = msgspec.structs.replace(status.serves, device=Device(conditions=HERE))
                    status = msgspec.structs.replace(status, serves=serves)
                self.give(WorkerSeen(status))

    def result(self, worker: FakeWorker, step: Step) -> StepResult:
        if worker.name not in self.contexts:
            device = "cpu" if worker.queue.startswith("profile-") else None
            self.contexts[worker.name] = Context(
                FakeSandbox(), self.store, device, conditions=HERE, records=AtOnce(self.address)
            )
        done = run_stage(step, self.contexts[worker.name])
        timing = Timing(
            step=step.id,
            stage=type(step.work).__struct_config__.tag,  # type: ignore[arg-type]
            resource=worker.queue,
            worker=worker.name,
            started=self.now - 0.1,
            finished=self.now,
        )
        return StepResult.of(step, timing, done)

    # -- Clients ---------------------------------------------------------------------------------------------

    def snapshot(self, job: str | None = None) -> Snapshot:
        """What a client is told."""
        asked = Arrived(next(self.ids) + 10**9, Query(job=job), "client.x", "c")
        (answer,) = [each for each in self.give(asked) if isinstance(each, Answer)]
        return answer.snapshot

    # -- The database ----------------------------------------------------------------------------------------

    def trouble(self, which: str) -> None:
        """The database is ``away``, ``locked``, ``full``, or all right again where that is empty."""
        file, gone = Path(self.address), Path(self.address + ".away")
        match self._trouble:
            case "away":
                file.rmdir()
                gone.rename(file)
            case "locked" if self._lock is not None:
                self._lock.close()
            case "full":
                with contextlib.closing(sqlite3.connect(self.address)) as connection:
                    connection.execute("DROP TRIGGER full")
        self._trouble = which
        match which:
            case "away":
                file.rename(gone)
                file.mkdir()
            case "locked":
                self._lock = sqlite3.connect(self.address, isolation_level=None)
                self._lock.execute("BEGIN IMMEDIATE")
            case "full":
                with contextlib.closing(sqlite3.connect(self.address)) as connection:
                    connection.execute(FULL)

    def recorded(self) -> dict[str, Trials]:
        """All trials that are in the database, by job; none of them twice."""
        found: dict[str, Trials] = {}
        with Database(self.address) as database, database.reading() as connection:
            rows = queries.newest(connection, ALL, 100_000)
        for each in rows:
            trials = found.setdefault(each.job.job, {})
            assert (each.trial.task, each.trial.hash) not in trials
            trials[each.trial.task, each.trial.hash] = each.trial.latencies
        return found
