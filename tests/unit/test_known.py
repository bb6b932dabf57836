"""Known results first: what was tuned here before is used, and only that."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from tests.unit.record_rows import ELSEWHERE, HERE
from tests.unit.stage_calls import MODEL, TIMING, FakeSandbox, expect, step
from tests.unit.test_memory import prior
from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.errors import TunemeshError
from tunemesh.shared.messages import (
    AssembleDone,
    AssembleWork,
    BuildDone,
    BuildWork,
    Candidate,
    Confirmed,
    Device,
    History,
    ImportDone,
    ImportWork,
    Known,
    Origin,
    Region,
    Result,
    Settings,
    TaskRecords,
    TaskSpec,
    Trial,
    UpdateDone,
    UpdateWork,
    Work,
)
from tunemesh.stage_workers.engines.mock import MockEngine
from tunemesh.stage_workers.engines.protocol import BuildOutcome, PlacedCall, UpdateCall
from tunemesh.stage_workers.records import memory
from tunemesh.stage_workers.records.memory import Remembering
from tunemesh.stage_workers.records.questions import Best
from tunemesh.stage_workers.records.recorder import Recorder
from tunemesh.stage_workers.stages import Context, run_stage
from tunemesh.stage_workers.stages.kept_imports import KeptImports
from tunemesh.stage_workers.stages.known import to_begin_with

DAY = 86_400.0
SETTINGS = Settings(batch=4)
DEVICE = Device(conditions=HERE)
FIRST = Origin(job="first", accepted=time.time(), model="net")


@pytest.fixture
def database(tmp_path: Path) -> Remembering:
    return Remembering(str(tmp_path / "records.sqlite"))


@pytest.fixture
def recording(sandbox: FakeSandbox, store: ArtifactStore, database: Remembering) -> Context:
    return Context(sandbox, store, "cpu", records=Recorder(lambda: database))


def done(work: Work, context: Context, origin: Origin, number: int = 0, **changes: Any) -> Result:
    made = replace(step(work, number, settings=SETTINGS), origin=origin)
    return run_stage(replace(made, **changes), context)


def imported(
    context: Context, origin: Origin | None = None, devices: tuple[Device, ...] = (DEVICE,), **changes: Any
) -> ImportDone:
    """What a second job is told of the model."""
    work = ImportWork(model=context.store.put(MODEL), devices=list(devices))
    after = origin or replace(FIRST, job="second", accepted=FIRST.accepted + 1)
    return expect(ImportDone, done(work, context, after, **changes))


def tune(
    context: Context,
    origin: Origin = FIRST,
    *,
    trials: int = 4,
    at: float | None = None,
    drift: float = 0.0,
    assembled: bool = True,
    confirmed: bool = False,
    cut_short: bool = False,
    fastest: float = 0.1,
    disturbed: int = 0,
) -> dict[str, Trial]:
    """A job, with all that its workers do; the best of each task by the id of the task.

    Args:
        disturbed: so many of the slowest were measured while the reference kernel took twice as long.
    """
    best = {}
    ended = []
    for task in imported(context, origin, settings=replace(SETTINGS, known="never")).tasks:
        update = expect(UpdateDone, done(UpdateWork(task=task, want=trials), context, origin))
        tried = [
            Trial(
                candidate=each,
                outcome="measured",
                latencies=[fastest + 0.01 * each.index] * 3,
                drift=1.0 if each.index >= trials - disturbed else drift,
                cut_short=cut_short,
                conditions=HERE.id,
            )
            for each in update.candidates
        ]
        finished = FIRST.accepted if at is None else at
        timing = replace(TIMING, started=finished, finished=finished)
        work = UpdateWork(task=task, want=1, trials=tried, timings=[timing], conditions=[HERE])
        after = expect(UpdateDone, done(work, context, origin, 1))
        again = [Confirmed(hash=tried[1].candidate.hash, latencies=[0.05] * 3)] if confirmed else []
        ended.append(TaskRecords(task=task, history=after.state.history, confirmed=again, untuned=0.9))
        best[task.id] = tried[1] if confirmed else tried[0]
    if assembled:
        model = imported(context, origin, settings=replace(SETTINGS, known="never")).model
        expect(AssembleDone, done(AssembleWork(model=model, tasks=ended), context, origin))
    return best


def test_the_same_model_again_needs_no_trials(recording: Context) -> None:
    best = tune(recording)
    again = imported(recording)
    assert set(again.known) == {"t00", "t01"}
    assert [task.engine for task in again.tasks] == ["mock", "mock"]
    for name, known in again.known.items():
        assert (known.best, known.untuned) == (pytest.approx(0.1), 0.9)
        history = msgspec.msgpack.decode(recording.store.get(known.history[0]), type=History)
        assert [each.candidate.schedule for each in history.trials] == [best[name].candidate.schedule]
        # It stays the record of the job that measured it.
        assert history.origin == FIRST
    assert not again.problem(["mock"])


def test_a_task_that_is_new_gets_the_best_of_others_with_the_same_operator(
    recording: Context, sandbox: FakeSandbox, database: Remembering
) -> None:
    tune(recording)
    spec = imported(recording).tasks[0]
    with database.writing() as connection:
        # As if the records knew both tasks by the same operator.
        connection.exec_driver_sql("UPDATE tasks SET operator = 'conv2d_relu'")
    new = replace(spec, key="9" * 64, name="fused_conv2d_add1")
    for want, known, count in ((1, "first", 2), (8, "first", 2), (8, "never", 0)):
        settings = replace(SETTINGS, known=known)
        done(UpdateWork(task=new, want=want), recording, FIRST, settings=settings)
        (call,) = [each for each in sandbox.records[-1:] if isinstance(each, UpdateCall)]
        assert len(call.similar) == count
        assert all(each.trials[0].latency == min(t.latency for t in each.trials) for each in call.similar)
    # Later rounds have measurements of their own.
    state = expect(UpdateDone, done(UpdateWork(task=new, want=1), recording, FIRST)).state
    done(UpdateWork(task=new, want=1, state=state), recording, FIRST, 1)
    call = sandbox.records[-1]
    assert isinstance(call, UpdateCall)
    assert call.similar == []


def test_it_is_assembled_and_recorded_once(recording: Context, database: Remembering) -> None:
    tune(recording)
    before = rows(database)
    again = imported(recording)
    tasks = [
        TaskRecords(task=task, history=known.history, confirmed=known.confirmed, untuned=known.untuned)
        for task in again.tasks
        for known in [again.known[task.id]]
    ]
    second = replace(FIRST, job="second", accepted=FIRST.accepted + 1)
    expect(AssembleDone, done(AssembleWork(model=again.model, tasks=tasks), recording, second))
    assert rows(database) == before


def rows(database: Remembering) -> int:
    from tunemesh.stage_workers.records.queries import counts

    with database.reading() as connection:
        return counts(connection).rows["trials"]


def test_what_was_confirmed_counts(recording: Context) -> None:
    best = tune(recording, confirmed=True)
    known = imported(recording).known["t00"]
    assert known.best == pytest.approx(0.05)
    assert [each.hash for each in known.confirmed] == [best["t00"].candidate.hash]


@pytest.mark.parametrize(
    "how",
    [
        {"at": FIRST.accepted - 91 * DAY},
        {"drift": 0.2},
        {"assembled": False},
        {"origin": replace(FIRST, tenant="gold")},
    ],
    ids=["old", "disturbed", "not done", "of another tenant"],
)
def test_what_cannot_be_trusted_is_tuned(recording: Context, how: dict[str, Any]) -> None:
    tune(recording, **how)
    assert imported(recording).known == {}


def test_what_was_cut_short_is_known_where_it_is_slower_than_untuned(recording: Context) -> None:
    tune(recording, cut_short=True)
    assert imported(recording).known == {}
    # Nothing faster than the untuned kernel, which takes 0.9 s, was found.
    tune(recording, replace(FIRST, job="slower", model="other"), cut_short=True, fastest=1.5)
    assert imported(recording).known == {}  # another job has found what may be faster


def test_what_only_seemed_fast_for_a_disturbance_is_not_taken_for_the_best(recording: Context) -> None:
    """Without the drift of the device the last two of four would have taken half of what they did."""
    best = tune(recording, disturbed=2)
    known = imported(recording).known
    assert {name: each.best for name, each in known.items()} == pytest.approx({"t00": 0.1, "t01": 0.1})
    (history,) = (
        msgspec.msgpack.decode(recording.store.get(each), type=History) for each in known["t00"].history
    )
    assert [each.candidate.hash for each in history.trials] == [best["t00"].candidate.hash]


def test_that_nothing_faster_than_untuned_was_found_is_known(recording: Context) -> None:
    tune(recording, cut_short=True, fastest=1.5)
    known = imported(recording).known["t00"]
    assert (known.best, known.untuned) == (pytest.approx(1.5), 0.9)


def test_it_says_how_much_was_tried_to_find_it(recording: Context) -> None:
    tune(recording, trials=3)
    # A job that was not done says nothing of how well a task was searched.
    tune(recording, replace(FIRST, job="cancelled"), trials=5, assembled=False)
    assert {known.searched for known in imported(recording).known.values()} == {3.0}
    # The best may be that of the job which tried less.
    tune(recording, replace(FIRST, job="longer"), trials=6)
    assert {known.searched for known in imported(recording).known.values()} == {6.0}
    assert imported(recording).known["t00"].best == pytest.approx(0.1)


def test_the_fastest_of_all_engines_is_known_and_their_trials_count_together(
    recording: Context, database: Remembering
) -> None:
    from sqlalchemy import text

    tune(recording, trials=6)
    task = imported(recording).tasks[0].key
    with database.writing() as connection:
        # The fastest and another one are those of a second engine.
        some = "(SELECT id FROM trials WHERE task = :task ORDER BY latency LIMIT 2)"
        connection.execute(text(f"UPDATE trials SET engine = 'other' WHERE id IN {some}"), {"task": task})
    assert recording.records is not None

    def asked(*engines: str) -> Best:
        assert recording.records is not None
        return recording.records.best([task], engines, HERE.id, 0.0, "")[task]

    assert asked("other").found.trial.engine == "other"
    assert asked("mock").found.trial.engine == "mock"
    assert asked("mock", "other").found == asked("other", "mock").found == asked("other").found
    assert asked("mock", "other").searched == asked("mock").searched + asked("other").searched >= 6


def test_a_task_that_had_no_more_to_try_counts_as_searched_as_the_others_of_its_job(
    recording: Context, database: Remembering
) -> None:
    from sqlalchemy import text

    tune(recording, trials=8)
    task = imported(recording).tasks[1]
    with database.writing() as connection:
        some = "(SELECT id FROM trials WHERE task = :task AND latency > 0.11)"
        connection.execute(text(f"DELETE FROM trials WHERE id IN {some}"), {"task": task.key})
    known = imported(recording).known
    assert (known["t00"].searched, known["t01"].searched) == (8.0, 5.0)


def test_what_a_tenant_has_measured_serves_that_tenant(recording: Context) -> None:
    tune(recording, replace(FIRST, tenant="gold"))
    gold = replace(FIRST, job="second", tenant="gold")
    assert set(imported(recording, gold).known) == {"t00", "t01"}


@pytest.mark.parametrize(
    "devices",
    [
        (),
        (Device(conditions=ELSEWHERE),),
        (DEVICE, Device(conditions=ELSEWHERE)),
        (Device(conditions=replace(HERE, versions="apache-tvm 0.28")),),
    ],
    ids=["none", "another", "two kinds", "other versions"],
)
def test_only_the_same_device_and_versions_are_the_same(
    recording: Context, devices: tuple[Device, ...]
) -> None:
    tune(recording)
    assert imported(recording, devices=devices).known == {}


def test_what_is_measured_with_other_caches_is_not_the_same(recording: Context) -> None:
    tune(recording)
    assert imported(recording, settings=replace(SETTINGS, cache_flush=True)).known == {}
    assert imported(recording, settings=replace(SETTINGS, cache_flush=False)).known


def test_what_others_have_measured_is_measured_again(
    recording: Context, database: Remembering, sandbox: FakeSandbox, store: ArtifactStore, tmp_path: Path
) -> None:
    from tunemesh.stage_workers.records import exchange
    from tunemesh.stage_workers.records.questions import ALL

    tune(recording)
    exchange.write(database, ALL, tmp_path / "file")
    other = Remembering(str(tmp_path / "other.sqlite"))
    exchange.read(tmp_path / "file", other)
    there = Context(sandbox, store, "cpu", records=Recorder(lambda: other))
    assert imported(there).known == {}


def test_known_never_and_known_only(recording: Context) -> None:
    assert [task.engine for task in imported(recording, settings=replace(SETTINGS, known="only")).tasks] == [
        None
    ] * 2
    (objection,) = {
        task.objection for task in imported(recording, settings=replace(SETTINGS, known="only")).tasks
    }
    assert "nothing is known of it" in objection
    tune(recording)
    assert imported(recording, settings=replace(SETTINGS, known="never")).known == {}
    only = imported(recording, settings=replace(SETTINGS, known="only"))
    assert [task.engine for task in only.tasks] == ["mock", "mock"]
    assert set(only.known) == {"t00", "t01"}


def test_what_cannot_be_built_any_more_is_tuned(recording: Context, sandbox: FakeSandbox) -> None:
    tune(recording)
    sandbox.answers["build"] = [BuildOutcome(outcome="build-failed", error="no such block")]
    known: dict[str, Known] = imported(recording).known
    assert set(known) == {"t01"}


def test_what_was_built_here_before_is_not_built_again(
    recording: Context, sandbox: FakeSandbox, tmp_path: Path
) -> None:
    def builds() -> int:
        return sum(name == "build" for name, _ in sandbox.calls)

    tune(recording)
    mesh = dataclasses.replace(recording, kept=KeptImports(tmp_path / "imports"))
    known = imported(mesh).known
    before = builds()
    # Another mesh on this machine, with a store of its own.
    again = dataclasses.replace(mesh, store=ArtifactStore(str(tmp_path / "second")))
    assert imported(again).known == known
    assert builds() == before
    for each in known.values():
        assert each.confirmed[0].objects is None or again.store.get(each.confirmed[0].objects)


def test_what_is_confirmed_is_kept_for_the_next_mesh(
    recording: Context, sandbox: FakeSandbox, tmp_path: Path
) -> None:
    mesh = dataclasses.replace(recording, kept=KeptImports(tmp_path / "imports"))
    best = tune(mesh)
    task = imported(mesh, devices=()).tasks[0]
    work = BuildWork(task=task, candidates=[best["t00"].candidate], keep=True)
    expect(BuildDone, done(work, mesh, FIRST))
    sandbox.calls.clear()
    assert set(imported(mesh).known) == {"t00", "t01"}
    assert sum(name == "build" for name, _ in sandbox.calls) == 1  # of the other task


def test_records_that_are_away_know_nothing(sandbox: FakeSandbox, store: ArtifactStore) -> None:
    def away() -> Remembering:
        raise TunemeshError("the records are away")

    context = Context(sandbox, store, "cpu", records=Recorder(away))
    assert imported(context).known == {}


def test_candidates_of_a_known_task_can_be_built(recording: Context) -> None:
    """As the engine wrote it, so that whoever assembles the model has what the engine needs."""
    tune(recording)
    again = imported(recording)
    task: TaskSpec = again.tasks[0]
    history = msgspec.msgpack.decode(recording.store.get(again.known["t00"].history[0]), type=History)
    work = BuildWork(task=task, candidates=[each.candidate for each in history.trials])
    built = expect(BuildDone, done(work, recording, FIRST)).built
    assert built[0].artifact is not None


# -- From elsewhere ---------------------------------------------------------------------------------------


def first_round(context: Context, want: int = 8, **changes: Any) -> UpdateDone:
    """What a second job tries first of the first task."""
    second = replace(FIRST, job="second", accepted=FIRST.accepted + 1)
    task = imported(context, second, devices=()).tasks[0]
    return expect(UpdateDone, done(UpdateWork(task=task, want=want), context, second, **changes))


def test_the_best_from_elsewhere_are_measured_here_first(recording: Context) -> None:
    best = tune(recording, trials=8)
    again = first_round(recording)
    hashes = [each.hash for each in again.candidates]
    assert hashes[0] == best["t00"].candidate.hash
    assert [each.index for each in again.candidates] == list(range(8))
    assert len(set(hashes)) == 8
    assert not again.exhausted
    assert not again.problem(8, 0, 0, 8)
    # With the same seed the engine would propose the same eight: half of the round is new.
    assert len(set(hashes) & tried(recording)) >= 4


@pytest.mark.parametrize("count", [2, 3])
def test_of_several_regions_each_begins_with_what_was_found_in_it(recording: Context, count: int) -> None:
    tune(recording, trials=8)
    begun: list[list[Candidate]] = []
    for number in range(count):
        second = replace(FIRST, job="second", accepted=FIRST.accepted + 1)
        task = imported(recording, second, devices=()).tasks[0]
        work = UpdateWork(task=replace(task, region=Region(number, count)), want=8)
        begun.append(expect(UpdateDone, done(work, recording, second)).candidates)
    assert [len(candidates) for candidates in begun] == [8] * count
    everything = [each.hash for candidates in begun for each in candidates]
    assert len(set(everything)) == len(everything)
    task = imported(recording, devices=()).tasks[0]
    for number, candidates in enumerate(begun):
        asked = PlacedCall(
            workload=recording.store.get(task.workload),
            target="mock",
            schedules=[each.schedule for each in candidates],
            regions=count,
        )
        assert set(MockEngine().placed(asked).numbers) == {number}
    # What is known is tried again, wherever it is.
    assert len(set(everything) & tried(recording)) >= 4


def tried(context: Context) -> set[str]:
    assert context.records is not None
    return {
        each.trial.hash for each in context.records.leaders(imported(context).tasks[0].key, "mock", "", 100)
    }


def test_what_was_taken_over_from_another_job_is_not_tried_again(recording: Context) -> None:
    first = first_round(recording)
    task = imported(recording, devices=()).tasks[0]
    tried = [
        Trial(candidate=each, outcome="measured", latencies=[0.1], conditions=HERE.id)
        for each in first.candidates
    ]
    timing = replace(TIMING, finished=FIRST.accepted)
    work = UpdateWork(task=task, want=0, state=first.state, trials=tried, timings=[timing])
    after = expect(UpdateDone, done(work, recording, FIRST, 1))
    third = replace(FIRST, job="third")
    work = UpdateWork(task=task, want=8, recall=after.state.history)
    again = expect(UpdateDone, done(work, recording, third))
    # They are in the records, too, as the best that is known.
    assert len(to_begin_with(work, replace(step(work), origin=third), recording).leaders) == 4
    assert not {each.hash for each in again.candidates} & {each.hash for each in first.candidates}
    assert len(again.candidates) == 8


def test_a_search_begins_as_ever_where_nothing_is_known_or_nobody_asks(recording: Context) -> None:
    plain = first_round(recording)
    tune(recording, trials=8)
    assert first_round(recording, settings=replace(SETTINGS, known="never")) == plain


def test_schedules_in_another_format_are_not_given_to_an_engine(
    recording: Context, database: Remembering
) -> None:
    from sqlalchemy import text

    plain = first_round(recording)
    tune(recording, trials=8)
    with database.writing() as connection:
        connection.execute(text("UPDATE trials SET format = 2"))
    assert {each.hash for each in first_round(recording).candidates} == {
        each.hash for each in plain.candidates
    }


def test_a_small_space_is_exhausted_and_not_before(recording: Context) -> None:
    small = MODEL.replace(b"name: a,", b"name: a, space: 10,")
    second = replace(FIRST, job="second", accepted=FIRST.accepted + 1)

    def task() -> TaskSpec:
        work = ImportWork(model=recording.store.put(small))
        return expect(ImportDone, done(work, recording, second)).tasks[0]

    update = expect(UpdateDone, done(UpdateWork(task=task(), want=6), recording, FIRST))
    trials = [
        Trial(candidate=each, outcome="measured", latencies=[0.1], conditions=HERE.id)
        for each in update.candidates
    ]
    work = UpdateWork(task=task(), want=0, trials=trials, timings=[replace(TIMING, finished=FIRST.accepted)])
    done(work, recording, FIRST, 1)
    for want, count in ((8, 8), (12, 10)):
        found = expect(UpdateDone, done(UpdateWork(task=task(), want=want), recording, second))
        assert len({each.hash for each in found.candidates}) == count
        assert found.exhausted == (count < want)


def test_a_round_that_is_proposed_ahead_of_the_first_has_none_of_it(recording: Context) -> None:
    small = MODEL.replace(b"name: a,", b"name: a, space: 20,")
    second = replace(FIRST, job="second", accepted=FIRST.accepted + 1)
    imports = ImportWork(model=recording.store.put(small))
    task = expect(ImportDone, done(imports, recording, second)).tasks[0]
    # Another job has tried all of it.
    update = expect(UpdateDone, done(UpdateWork(task=task, want=20), recording, FIRST))
    trials = [
        Trial(candidate=each, outcome="measured", latencies=[0.1 + each.index], conditions=HERE.id)
        for each in reversed(update.candidates)
    ]
    work = UpdateWork(task=task, want=0, trials=trials, timings=[replace(TIMING, finished=FIRST.accepted)])
    done(work, recording, FIRST, 1)
    for seed in range(20):
        first = expect(UpdateDone, done(UpdateWork(task=task, want=8), recording, second, seed=seed))
        ahead = UpdateWork(task=task, want=8, state=first.state)
        after = expect(UpdateDone, done(ahead, recording, second, 1, seed=seed))
        assert not {each.hash for each in first.candidates} & {each.hash for each in after.candidates}


# -- Models -----------------------------------------------------------------------------------------------


def reads(sandbox: FakeSandbox) -> int:
    """How often a model was imported."""
    return sum(name == "import_model" for name, _ in sandbox.calls)


def test_a_worker_imports_a_model_once(
    recording: Context, sandbox: FakeSandbox, store: ArtifactStore
) -> None:
    first = imported(recording, devices=())
    assert (imported(recording, devices=()), reads(sandbox)) == (first, 1)
    # Whatever the records know by now.
    tune(recording)
    assert set(imported(recording).known) == {"t00", "t01"}
    assert reads(sandbox) == 1
    # All that the outcome depends on, and nothing else.
    for number, changes in enumerate(
        ({"target": "mock-other"}, {"seed": 6}, {"settings": replace(SETTINGS, math="exact")}), start=2
    ):
        imported(recording, **changes)
        assert reads(sandbox) == number
    imported(recording, settings=replace(SETTINGS, batch=5))
    assert reads(sandbox) == 4


def test_a_model_of_which_something_is_gone_is_imported_again(
    recording: Context, sandbox: FakeSandbox, tmp_path: Path
) -> None:
    first = imported(recording)
    (file,) = tmp_path.rglob(first.model.sha256)
    file.unlink()
    assert imported(recording) == first
    assert (reads(sandbox), file.exists()) == (2, True)


# -- What was tried before --------------------------------------------------------------------------------


def search(context: Context, *devices: Device, **changes: Any) -> UpdateDone:
    """The first round of a second job, for these devices."""
    second = replace(FIRST, job="second", accepted=FIRST.accepted + 1)
    task = imported(context, second, devices=()).tasks[0]
    return expect(
        UpdateDone, done(UpdateWork(task=task, want=8, devices=list(devices)), context, second, **changes)
    )


def test_what_was_tried_on_such_a_device_is_not_proposed_again(recording: Context) -> None:
    tune(recording, trials=8, assembled=False)
    again = {each.hash for each in search(recording, DEVICE).candidates}
    # But for the best four, which are measured again.
    assert len(again & tried(recording)) == 4
    elsewhere = {each.hash for each in search(recording, Device(conditions=ELSEWHERE)).candidates}
    assert len(elsewhere & tried(recording)) > 4


def test_what_failed_there_is_not_proposed_again(recording: Context, sandbox: FakeSandbox) -> None:
    task = imported(recording, FIRST).tasks[0]
    update = expect(UpdateDone, done(UpdateWork(task=task, want=8), recording, FIRST))
    first, *others = update.candidates
    trials = [Trial(candidate=each, outcome="run-failed", error="crashed") for each in others]
    trials.append(Trial(candidate=first, outcome="measured", latencies=[0.1], conditions=HERE.id))
    timing = replace(TIMING, started=FIRST.accepted, finished=FIRST.accepted)
    done(
        UpdateWork(task=task, want=0, trials=trials, timings=[timing], conditions=[HERE]), recording, FIRST, 1
    )
    again = {each.hash for each in search(recording, DEVICE).candidates}
    assert again & {each.hash for each in update.candidates} == {first.hash}


def given(sandbox: FakeSandbox) -> UpdateCall:
    """What the engine was told at the first of its last calls."""
    return next(
        each for each in reversed(sandbox.records) if isinstance(each, UpdateCall) and each.search is None
    )


def test_the_engine_learns_from_what_was_tried(recording: Context, sandbox: FakeSandbox) -> None:
    best = tune(recording, trials=8)["t00"]
    search(recording, DEVICE, settings=replace(SETTINGS, known="first"))
    call = given(sandbox)
    (here,) = call.here
    assert (len(here.trials), len(call.seen), call.elsewhere) == (8, 8, [])
    assert (here.trials[0].candidate.hash, here.trials[0].latency) == (best.candidate.hash, best.latency)
    search(recording, Device(conditions=ELSEWHERE))
    call = given(sandbox)
    assert (call.here, call.seen, [len(each.trials) for each in call.elsewhere]) == ([], [], [8])


def test_how_old_it_is_does_not_matter(recording: Context) -> None:
    """The best are measured again, and a schedule does not get better with time."""
    best = tune(recording, trials=8, at=FIRST.accepted - 91 * DAY)["t00"]
    again = [each.hash for each in search(recording, DEVICE).candidates]
    assert again[0] == best.candidate.hash
    assert len(set(again) & tried(recording)) == 4


def test_nobody_asks_where_nothing_is_to_be_known(recording: Context, sandbox: FakeSandbox) -> None:
    tune(recording, trials=8)
    search(recording, DEVICE, settings=replace(SETTINGS, known="never"))
    call = given(sandbox)
    assert (call.here, call.elsewhere, call.seen) == ([], [], [])


def test_updates_use_the_newest_prior(
    recording: Context, database: Remembering, sandbox: FakeSandbox
) -> None:
    with database.writing() as connection:
        memory.keep(connection, prior(0, 1.0, family="mock"))
    search(recording, DEVICE)
    assert given(sandbox).prior == b"prior 0"
    search(recording, DEVICE, settings=replace(SETTINGS, known="never"))
    assert given(sandbox).prior is None
