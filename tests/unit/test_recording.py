"""What workers write into the records, and that they go on without."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest

from tests.unit.record_rows import HERE, ORIGIN, trial
from tests.unit.stage_calls import TIMING, FakeSandbox, compiled, expect, imported, proposed, step, trials_of
from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.errors import TunemeshError
from tunemesh.shared.messages import (
    AssembleDone,
    AssembleWork,
    Confirmed,
    History,
    ProfileDone,
    ProfileWork,
    Result,
    Step,
    TaskRecords,
    TaskSpec,
    TaskState,
    Trial,
    UpdateDone,
    UpdateWork,
    ValidateDone,
    ValidateWork,
    Work,
)
from tunemesh.stage_workers.engines.protocol import ObjectPart
from tunemesh.stage_workers.records import schema
from tunemesh.stage_workers.records.database import Database
from tunemesh.stage_workers.records.recorder import Recorder
from tunemesh.stage_workers.records.rows import Row
from tunemesh.stage_workers.stages import Context, run_stage

RATED = 0.02
"""Seconds between two attempts, and that a step waits."""


class Shelf:
    """A database that does what it is told."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.trouble: Callable[[], None] | None = None
        self.attempts = 0

    def add(self, rows: Sequence[Row]) -> int:
        self.attempts += 1
        if self.trouble is not None:
            self.trouble()
        self.rows += rows
        return len(rows)

    def away(self) -> None:
        raise TunemeshError("the records are away")


def until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10.0
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


# -- The recorder -----------------------------------------------------------------------------------------


def test_a_step_knows_when_its_rows_are_written() -> None:
    shelf = Shelf()
    recorder = Recorder(lambda: shelf)
    assert recorder.why_not(recorder.write([trial()])) == ""
    assert shelf.rows == [trial()]


def test_what_a_database_that_is_away_misses_is_written_when_it_is_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    shelf = Shelf()
    shelf.trouble = shelf.away
    recorder = Recorder(lambda: shelf, pause=RATED)
    for number in range(3):
        assert recorder.why_not(recorder.write([trial(number)])) == "the records are away"
    shelf.trouble = None
    assert until(lambda: len(shelf.rows) == 3)
    assert shelf.rows == [trial(0), trial(1), trial(2)]
    assert until(lambda: recorder.why_not(recorder.write([trial(3)])) == "")
    # Said once, and what to do.
    said = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert said == [
        "the records are away; jobs go on. What is not written then: tunemesh records sync writes it later"
    ]


def test_a_database_that_does_not_answer_is_waited_for_once() -> None:
    shelf, hangs = Shelf(), threading.Event()
    shelf.trouble = lambda: hangs.wait(20.0) and None
    recorder = Recorder(lambda: shelf, patience=0.3, pause=RATED)
    began = time.monotonic()
    batches = [recorder.write([trial(number)]) for number in range(20)]
    assert all("no answer for 0.3 s" in recorder.why_not(batch) for batch in batches)
    assert time.monotonic() - began < 2.0
    hangs.set()
    assert until(lambda: len(shelf.rows) == 20)


def test_a_database_that_stays_away_costs_no_more_memory_than_so_much() -> None:
    shelf = Shelf()
    shelf.trouble = shelf.away
    recorder = Recorder(lambda: shelf, pause=30.0)
    for number in range(1000):
        recorder.write([trial(number)])
    assert until(lambda: shelf.attempts == 1)
    assert len(recorder._batches) <= 200


def test_whatever_a_driver_raises_the_worker_goes_on() -> None:
    def broken() -> Shelf:
        raise RuntimeError("no such driver")

    recorder = Recorder(broken)
    for number in range(2):
        assert recorder.why_not(recorder.write([trial(number)])) == "RuntimeError: no such driver"


# -- The stages -------------------------------------------------------------------------------------------


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(str(tmp_path / "records.sqlite"))


@pytest.fixture
def recording(sandbox: FakeSandbox, store: ArtifactStore, database: Database) -> Context:
    return Context(sandbox, store, "cpu", conditions=HERE, records=Recorder(lambda: database))


def count(database: Database, table: str) -> int:
    with database.reading() as connection:
        return len(connection.execute(schema.METADATA.tables[table].select()).all())


def done(work: Work, number: int, context: Context) -> Result:
    made = step(work, number)
    return run_stage(msgspec.structs.replace(made, origin=ORIGIN, task=made.task), context)


def tuned(context: Context) -> tuple[TaskSpec, list[Trial], UpdateDone]:
    """A task, a round of trials, and the update that has learned from it."""
    task = imported(context).tasks[0]
    trials = [
        msgspec.structs.replace(each, conditions=HERE.id)
        for each in trials_of(proposed(context, task).candidates)
    ]
    work = UpdateWork(task=task, want=4, trials=trials, timings=[TIMING], conditions=[HERE])
    return task, trials, expect(UpdateDone, done(work, 1, context))


def test_an_update_writes_what_it_learns_from_before_it_answers(
    recording: Context, database: Database
) -> None:
    task, trials, _ = tuned(recording)
    with database.reading() as connection:
        found = connection.execute(schema.TRIALS.select()).mappings().all()
        (named,) = connection.execute(schema.TASKS.select()).mappings()
        (workload,) = connection.execute(schema.WORKLOADS.select()).mappings()
        (where,) = connection.execute(schema.CONDITIONS.select()).mappings()
    assert {each["hash"] for each in found} == {each.candidate.hash for each in trials}
    for each in found:
        assert (each["task"], each["engine"], each["format"], each["outcome"]) == (
            task.key,
            "mock",
            1,
            "measured",
        )
        assert (each["latency"], each["at"], each["conditions"]) == (0.2, TIMING.finished, HERE.id)
        assert each["workload"] == workload["id"]
    assert (named["name"], named["target"]) == (task.name, "mock")
    assert workload["data"] == recording.store.get(task.workload)
    assert where["device"] == HERE.device


def test_the_same_update_by_another_worker_writes_nothing_twice(
    recording: Context, database: Database
) -> None:
    tuned(recording)
    before = count(database, "trials")
    tuned(recording)
    assert count(database, "trials") == before


def test_a_history_says_all_that_a_record_does(recording: Context) -> None:
    """So that what could not be written can be written later, by somebody who knows nothing else."""
    _, trials, update = tuned(recording)
    (blob,) = update.state.history
    history = msgspec.msgpack.decode(recording.store.get(blob), type=History)
    assert (history.origin, history.conditions, history.format) == (ORIGIN, [HERE], 1)
    assert history.trials == trials


def test_what_no_worker_could_write_is_written_at_the_end(
    sandbox: FakeSandbox, store: ArtifactStore, recording: Context, database: Database
) -> None:
    without = Context(sandbox, store, "cpu")
    task, trials, update = tuned(without)
    confirmed = [Confirmed(hash=trials[0].candidate.hash, latencies=[0.1] * 3, conditions=HERE.id)]
    records = TaskRecords(task=task, history=update.state.history, confirmed=confirmed, untuned=0.9)
    model = store.put(b"tasks: [{name: a}]")
    assembled = done(AssembleWork(model=imported(without).model, tasks=[records]), 0, recording)
    assert model is not None
    assert expect(AssembleDone, assembled).notes == []
    assert count(database, "trials") == len(trials)
    assert count(database, "confirmations") == 1
    assert count(database, "baselines") == 1


def test_it_is_told_how_the_best_kernel_of_a_task_computes_it(
    sandbox: FakeSandbox, store: ArtifactStore
) -> None:
    context = Context(sandbox, store, "cpu")
    task, _, update = tuned(context)
    records = TaskRecords(task=task, history=update.state.history, untuned=math.inf)
    sandbox.answers["part"] = [
        ObjectPart(code=b"", way="by a way of " + "its own" * 20),
        ObjectPart(code=b""),
    ]
    work = AssembleWork(model=imported(context).model, tasks=[records])
    told = expect(AssembleDone, done(work, 0, context)).ways
    assert list(told) == [task.id]
    assert told[task.id].startswith("by a way of its own")
    # Where there is only one there is nothing to tell.
    assert expect(AssembleDone, done(work, 0, context)).ways == {}


def test_a_job_whose_records_cannot_be_written_is_done_and_says_so_once(
    sandbox: FakeSandbox, store: ArtifactStore
) -> None:
    shelf = Shelf()
    shelf.trouble = shelf.away
    context = Context(sandbox, store, "cpu", conditions=HERE, records=Recorder(lambda: shelf))
    task, _, update = tuned(context)
    records = TaskRecords(task=task, history=update.state.history, untuned=0.9)
    assembled = done(AssembleWork(model=imported(context).model, tasks=[records]), 0, context)
    assert expect(AssembleDone, assembled).notes == [
        "the records are away: what was measured is not in the records yet,"
        " and `tunemesh records sync` writes it later"
    ]


def test_a_whole_model_is_written_by_who_has_measured_it(recording: Context, database: Database) -> None:
    model = imported(recording).model
    made = expect(AssembleDone, done(AssembleWork(model=model, tasks=[]), 0, recording))
    work = ValidateWork(tuned=made.tuned, untuned=made.untuned, signature=made.signature)
    validated = expect(ValidateDone, done(work, 0, recording))
    with database.reading() as connection:
        (result,) = connection.execute(schema.RESULTS.select()).mappings()
        (job,) = connection.execute(schema.JOBS.select()).mappings()
    assert (result["latency_before"], result["latency_after"]) == (
        validated.latency_before,
        validated.latency_after,
    )
    assert (result["job"], result["conditions"], result["equal"]) == (job["id"], HERE.id, True)
    assert (job["job"], job["model"], job["source"]) == ("net", "net.onnx", database.id())


def test_whoever_measures_says_under_which_conditions(recording: Context) -> None:
    task = imported(recording).tasks[0]
    work = ProfileWork(task=task, artifacts=compiled(recording, task, 1))
    profiled = expect(ProfileDone, done(work, 0, recording))
    assert profiled.conditions is not None
    assert profiled.conditions.id == HERE.id
    assert profiled.conditions.reference == 1e-3


def test_a_step_of_no_job_records_nothing(recording: Context, database: Database) -> None:
    task = imported(recording).tasks[0]
    trials = trials_of(proposed(recording, task).candidates)
    bare: Step = step(UpdateWork(task=task, want=4, trials=trials, state=None), 1)
    update = expect(UpdateDone, run_stage(bare, recording))
    assert isinstance(update.state, TaskState)
    assert count(database, "trials") == 0
