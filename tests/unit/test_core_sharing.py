"""Jobs that have tasks in common: each is tuned once, and whatever is killed every job ends."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.test_core import learned, trials
from tests.unit.world import BLOB, TUNED, World, request
from tunemesh.coordinator.events import Dispatch, Save
from tunemesh.coordinator.jobs import progress, sharing
from tunemesh.coordinator.jobs.ledger import Ledger
from tunemesh.coordinator.journal.replay import replay
from tunemesh.shared.messages import (
    Cancel,
    Failure,
    Level,
    Request,
    SetStrategy,
    Settings,
    StepResult,
    TaskSpec,
    TaskState,
    UpdateDone,
    UpdateWork,
    ValidateDone,
)

SHARING = ["interleaved", "fair:a=3", "predictive"]
"""Strategies under which jobs share tasks."""


def counted(ledger: Ledger) -> int:
    """Trials that served a job, whoever made them."""
    return sum(sharing.total(task) for task in ledger.tasks)


def run(world: World, *requests: Request, turns: int = 0) -> None:
    for each in requests:
        world.publish(each)
    for _ in range(turns):
        world.turn()
    world.run(*(each.job for each in requests))


@pytest.mark.parametrize("strategy", SHARING)
@pytest.mark.parametrize("seed", range(5))
def test_two_jobs_that_share_all_tasks_take_the_trials_of_one(strategy: str, seed: int) -> None:
    world = World(tasks=4, strategy=strategy, rng=random.Random(seed))
    run(world, request("a", 60, shared=True, batch=8), request("b", 60, shared=True, batch=8))
    first, second = world.ledger("a"), world.ledger("b")
    assert [first.phase, second.phase] == ["done", "done"]
    assert trials(first) + trials(second) <= 1.05 * 60
    assert counted(first) == counted(second) == 60
    assert [task.best for task in first.tasks] == [task.best for task in second.tasks]
    assert [task.confirmed for task in first.tasks] == [task.confirmed for task in second.tasks]


def test_one_that_wants_more_goes_on_from_there_and_repeats_no_trial() -> None:
    world = World(tasks=3)
    run(world, request("a", 30, shared=True, batch=8), request("b", 90, shared=True, batch=8))
    first, second = world.ledger("a"), world.ledger("b")
    assert (trials(first), trials(second)) == (30, 60)
    # `learned` fails where a candidate was tried twice.
    assert learned(second) == counted(second) == 90
    for task, other in zip(second.tasks, first.tasks, strict=True):
        assert task.history[: len(other.history)] == other.history


def test_one_that_wants_less_has_all_that_was_found() -> None:
    world = World(tasks=3)
    run(world, request("a", 90, shared=True, batch=8), request("b", 9, shared=True, batch=8))
    assert trials(world.ledger("b")) == 0
    assert [t.best for t in world.ledger("a").tasks] == [t.best for t in world.ledger("b").tasks]


def test_what_is_not_shared_has_its_part_of_the_trials() -> None:
    world = World(tasks_of={"a": [0], "b": [0, 1, 2, 3]})
    run(world, request("a", 400, shared=True, batch=8), request("b", 40, shared=True, batch=8))
    ledger = world.ledger("b")
    (task,) = [task for task in ledger.tasks if task.taken is not None]
    assert sharing.total(task) == 400
    # A quarter of the budget is taken for spent on it.
    assert trials(ledger) == 30
    assert task.trials == 0


def test_tasks_that_one_has_alone_are_tuned_and_closed_while_it_waits() -> None:
    world = World(tasks_of={"a": [0, 1], "b": [1, 2]}, rng=random.Random(1))
    world.publish(request("a", 400, shared=True, batch=8))
    world.publish(request("b", 16, shared=True, batch=8))
    while not ("b" in world.core.jobs and any(task.closed for task in world.ledger("b").tasks)):
        world.turn()
    waits, own = world.ledger("b").tasks
    assert (own.closed, waits.closed, waits.round) == (True, False, -1)
    assert not any(task.closed for task in world.ledger("a").tasks)
    world.run("a", "b")
    assert world.ledger("b").phase == "done"


def test_whoever_waits_is_told_so_and_what_it_saved() -> None:
    world = World(tasks=2, rng=random.Random(4))
    world.publish(request("a", 60, shared=True, batch=8))
    world.publish(request("b", 60, shared=True, batch=8))
    while not ("b" in world.core.jobs and world.core.jobs["b"].waits):
        world.turn()
    world.pass_time(1.1)
    text = "another job tunes 2 of its tasks: it takes over what that finds"
    assert (world.events[-1].job, world.events[-1].text) == ("b", text)
    world.run("a", "b")
    told = progress.progress(world.core.jobs["b"])
    for task, other in zip(told.tasks, world.ledger("a").tasks, strict=True):
        assert task.taken is not None
        assert (task.taken.job, task.taken.trials, task.taken.closed) == ("a", other.trials, True)
        assert task.taken.seconds == pytest.approx(other.trials * other.pace["profile"])
        assert (task.trials, task.ended) == (0, "job a has tuned it")


def test_what_one_tenant_tunes_is_nobody_elses_business() -> None:
    world = World(tasks=1)
    asked = [msgspec.structs.replace(request(j, 20, shared=True), tenant=j) for j in ("secret", "b")]
    run(world, *asked)
    for job in ("secret", "b"):
        (task,) = world.ledger(job).tasks
        assert (task.taken, task.trials) == (None, 20)
    for event in world.events:
        assert event.job != "b" or "secret" not in f"{event.text}{event.progress}"


@pytest.mark.parametrize(
    "change",
    [
        {"level": Level(shared=False)},
        {"seed": 1},
        {"settings": Settings(repeats=5)},
        {"settings": Settings(math="exact")},
        {"options": {"mock": {"population": 4}}},
        {"engines": ["toy"]},
        {"tenant": "x"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_is_searched_otherwise_is_another_task(change: dict[str, object]) -> None:
    one = request(shared=True)
    spec = _spec()
    other = msgspec.structs.replace(one, **change)
    if "engines" in change:
        assert sharing.same_of(one, spec) != sharing.same_of(
            other, msgspec.structs.replace(spec, engine="toy")
        )
    else:
        assert sharing.same_of(one, spec) != sharing.same_of(other, spec)


def test_how_much_is_tried_and_in_which_portions_does_not_make_another_task() -> None:
    one = request(shared=True)
    changed = Settings(batch=7, chunk=3, lookahead=0, dims={"n": [1]}, ranges={"x": (0.0, 1.0)})
    fields = {"settings": changed, "level": Level(trials=7), "priority": 99, "job": "other"}
    other = msgspec.structs.replace(one, **fields)
    assert sharing.same_of(one, _spec()) == sharing.same_of(other, _spec())


def test_every_setting_counts_unless_it_is_known_not_to() -> None:
    assert set(Settings.__struct_fields__) >= sharing.OWN


@pytest.mark.parametrize("strategy", ["sequential", "uncontrolled"])
def test_strategies_that_show_what_tuners_do_alone_share_nothing(strategy: str) -> None:
    world = World(tasks=2, strategy=strategy)
    run(world, request("a", 20, shared=True), request("b", 20, shared=True))
    assert (trials(world.ledger("a")), trials(world.ledger("b"))) == (20, 20)


def test_a_successor_that_would_start_with_another_strategy_has_jobs_wait_all_the_same() -> None:
    world = World(tasks=2, strategy="sequential", rng=random.Random(3))
    world.publish(SetStrategy(strategy="interleaved", at=1.0))
    world.publish(request("a", 60, shared=True, batch=8))
    world.publish(request("b", 60, shared=True, batch=8))
    while not ("b" in world.core.jobs and world.core.jobs["b"].waits):
        world.turn()
    world.start_coordinator()
    world.run("a", "b")
    assert trials(world.ledger("a")) + trials(world.ledger("b")) == 60


def test_a_job_that_had_ended_before_another_was_accepted_serves_it_not() -> None:
    world = World(tasks=2)
    run(world, request("a", 20, shared=True))
    world.now += 1.0
    run(world, request("b", 20, shared=True))
    assert trials(world.ledger("b")) == 20


def test_what_a_wrong_model_was_made_of_is_not_taken_over() -> None:
    wrong = ValidateDone(latency_before=1.0, latency_after=2.0, largest_difference=9.0, equal=False)
    world = World(tasks=1, validated=wrong)
    world.publish(request("a", 20, shared=True))
    while not ("a" in world.core.jobs and world.core.jobs["a"].ledger.phase == "validating"):
        world.turn()
    world.publish(request("b", 20, shared=True))
    # Nobody imports it until the first has ended.
    (builder,) = [worker for worker in world.workers if worker.queue == "build-cpu"]
    world.kill(builder)
    world.run("a")
    world.revive(builder)
    world.validated = msgspec.structs.replace(wrong, equal=True, latency_after=1.0)
    world.run("b")
    assert world.ledger("a").phase == "failed"
    assert trials(world.ledger("b")) == 20


def test_the_second_begins_when_the_first_has_closed_the_task_with_what_that_found() -> None:
    world = World(tasks=1, rng=random.Random(2))
    world.publish(request("a", 8, shared=True, batch=8, chunk=8))
    world.publish(request("b", 20, shared=True, batch=8, chunk=8))
    while not ("a" in world.core.jobs and any(task.closed for task in world.ledger("a").tasks)):
        before = len(world.log)
        world.turn()
    # In one step of the core: the first closes it, and the second takes it over and goes on.
    saved = {}
    for each in world.log[before:]:
        if isinstance(each, Save):
            saved[each.ledger.request.job] = each.ledger
    assert set(saved) == {"a", "b"}
    (its,), (task,) = saved["a"].tasks, saved["b"].tasks
    assert task.taken is not None
    assert (task.round, task.want, task.history, task.best) == (0, 8, its.history, its.best)
    while not any(isinstance(each, Dispatch) and each.step.job == "b" for each in world.log[before:]):
        world.turn()
    (step,) = [
        each.step for each in world.log[before:] if isinstance(each, Dispatch) and each.step.job == "b"
    ]
    expected = UpdateWork(task=task.spec, want=8, recall=its.history, chunk_size=8)
    assert (step.id, step.work) == ("b/t00/0/-/model-update", expected)


@pytest.mark.parametrize("seed", range(3))
def test_of_what_is_taken_over_it_is_known_who_has_tried_it(seed: int) -> None:
    world = World(tasks=1, rng=random.Random(seed))
    for job, tenant in (("a", "x"), ("b", "x"), ("c", "x")):
        asked = request(job, 40, shared=True, batch=8, chunk=2)
        world.publish(msgspec.structs.replace(asked, tenant=tenant))
    # The first is cancelled when something of its first round is back, that no update has learned from.
    while not ("c" in world.core.jobs and len(world.profiled["a/t00"]) >= 4):
        world.turn()
    world.publish(Cancel(job="a"))
    world.run("a", "b", "c")
    (its,) = world.ledger("a").tasks
    assert (its.rest_of, bool(its.rest)) == (None, True)
    updates = {
        each.step.id: each.step.work
        for each in world.log
        if isinstance(each, Dispatch) and isinstance(each.step.work, UpdateWork)
    }
    (first,) = [
        work for name, work in updates.items() if name.endswith("t00/0/-/model-update") and work.trials
    ]
    assert first.origin == world.ledger("a").origin
    assert {trial.candidate.hash for trial in first.trials} == {trial.candidate.hash for trial in its.rest}
    # What others try is their own.
    assert all(work.origin is None for work in updates.values() if work is not first)


def test_an_update_may_keep_the_histories_that_it_began_from() -> None:
    blob = TaskState(search=TUNED, history=[TUNED] * 3)
    done = UpdateDone(state=blob, candidates=[], exhausted=True)
    assert done.problem(1, 0, 0, 8, recalled=3) == ""
    assert done.problem(1, 0, 0, 8, recalled=2) == "it has a history of 3 rounds after 2"


ENDS = ["cancel", "keep", "fail", "nothing"]


@pytest.mark.parametrize("strategy", SHARING)
@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    moment=st.integers(0, 300),
    how=st.sampled_from(ENDS),
    kills=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 3)), max_size=6),
    tasks=st.integers(1, 4),
    count_a=st.integers(1, 60),
    count_b=st.integers(1, 60),
)
def test_whenever_the_first_ends_and_whatever_is_killed_the_second_ends_right(
    strategy: str,
    seed: int,
    moment: int,
    how: str,
    kills: list[tuple[int, int]],
    tasks: int,
    count_a: int,
    count_b: int,
) -> None:
    world = World(tasks=tasks, strategy=strategy, rng=random.Random(seed))
    world.publish(request("a", count_a, shared=True, batch=8, chunk=2))
    world.publish(request("b", count_b, shared=True, batch=8, chunk=2))
    endings(world, [(moment, "a", how)], kills)
    world.run("a", "b")
    first, second = world.ledger("a"), world.ledger("b")
    assert second.phase == "done"
    assert counted(second) == learned(second) >= count_b
    assert trials(second) <= count_b
    if how == "nothing":
        assert first.phase == "done"
        # Of fewer trials than tasks the first leaves some to the second.
        together = max(count_a, count_b) if min(count_a, count_b) >= tasks else count_a + count_b
        assert trials(first) + trials(second) <= together
    assert list(replay(world.records)) == []


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    strategy=st.sampled_from(SHARING),
    jobs=st.lists(
        st.tuples(
            st.sets(st.integers(0, 4), min_size=1, max_size=5),
            st.integers(1, 40),
            st.integers(0, 150),
            st.sampled_from(ENDS),
            st.sampled_from(["", "x"]),
        ),
        min_size=2,
        max_size=4,
    ),
    kills=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 3)), max_size=5),
    space=st.sampled_from([3, 10_000]),
)
def test_no_jobs_wait_for_each_other_for_ever(
    seed: int,
    strategy: str,
    jobs: list[tuple[set[int], int, int, str, str]],
    kills: list[tuple[int, int]],
    space: int,
) -> None:
    names = ["a", "b", "c", "d"][: len(jobs)]
    world = World(
        strategy=strategy,
        rng=random.Random(seed),
        space=space,
        tasks_of={name: sorted(tasks) for name, (tasks, *_) in zip(names, jobs, strict=True)},
    )
    for name, (_, count, _, _, tenant) in zip(names, jobs, strict=True):
        world.publish(
            msgspec.structs.replace(request(name, count, shared=True, batch=4, chunk=2), tenant=tenant)
        )
    endings(world, [(m, name, how) for name, (_, _, m, how, _) in zip(names, jobs, strict=True)], kills)
    world.run(*names)
    for name, (_, count, _, how, _) in zip(names, jobs, strict=True):
        ledger = world.ledger(name)
        assert trials(ledger) <= count
        if how == "nothing":
            assert ledger.phase == "done"
        if ledger.phase == "done":
            assert learned(ledger) == counted(ledger)
            if how == "nothing" and space > 3:
                assert counted(ledger) >= count
    for _ in range(200):
        world.turn()
    assert sorted(type(message).__name__ for message in world.coordinator.values()) == ["Ledger"] * len(jobs)
    assert list(replay(world.records)) == []


def endings(world: World, ends: list[tuple[int, str, str]], kills: list[tuple[int, int]]) -> None:
    """Run ``world``, end jobs at their moments, and kill workers, or the coordinator: the last of them."""
    failing: set[str] = set()
    original = world.result

    def result(worker: object, step: object) -> StepResult:
        message = original(worker, step)  # type: ignore[arg-type]
        if message.job in failing:
            return msgspec.structs.replace(message, result=Failure(error="it broke"))
        return message

    world.result = result  # type: ignore[method-assign]
    last = max([moment for moment, *_ in ends] + [moment for moment, _ in kills])
    for turn in range(last + 1):
        world.turn()
        for moment, job, how in ends:
            if moment == turn and how in ("cancel", "keep"):
                world.publish(Cancel(job=job, keep=how == "keep"))
            elif moment == turn and how == "fail":
                failing.add(job)
        for moment, victim in kills:
            if moment == turn:
                world.strike(victim)


def _spec() -> TaskSpec:
    return TaskSpec(id="t00", name="t", key="0" * 64, weight=1, engine="mock", workload=BLOB, untuned=BLOB)
