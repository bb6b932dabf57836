"""Learning from the records: only while the mesh has nothing else to do, and in nobody's way."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.test_core import trials
from tests.unit.world import World, request
from tunemesh.coordinator import lessons
from tunemesh.coordinator.events import Acknowledge, Arrived, Dispatch, Log, Tick
from tunemesh.coordinator.journal.replay import replay
from tunemesh.shared.messages import (
    Failure,
    Learn,
    LearnDone,
    LearnWork,
    Result,
    Settings,
    Step,
    StepResult,
    Timing,
)

ASKED = Learn(engine="mock", after=7)
STEP = Step(
    id="learn/-/-/-/learn",
    job="learn",
    engines=["mock"],
    target="-",
    seed=0,
    settings=Settings(),
    work=LearnWork(engine="mock", after=7),
)


@pytest.fixture
def world() -> World:
    """An idle mesh."""
    world = World(seed="")
    world.settle()
    return world


def sent(world: World) -> list[Dispatch]:
    return [each for each in world.log if isinstance(each, Dispatch) and each.step.id == STEP.id]


def wait(world: World, seconds: float = lessons.QUIET + 1) -> None:
    for _ in range(round(seconds / 0.5)):
        world.pass_time(0.5)


def answer(result: Result) -> StepResult:
    timing = Timing(
        step=STEP.id, stage="learn", resource="model-update", worker="w", started=1.0, finished=2.0
    )
    return StepResult(job="learn", timing=timing, result=result)


def test_an_idle_mesh_is_sent_the_lesson_and_the_question_is_held_until_it_is_done(world: World) -> None:
    assert world.does(Arrived(7001, ASKED)) == []
    world.now += lessons.QUIET + 1
    world.report()
    assert world.does(Tick()) == [Dispatch("model-update", STEP)]
    done = answer(LearnDone(said=["mock, llvm: learned from 9 trials of 3 tasks"]))
    assert world.give(Arrived(7002, done)) == [
        Acknowledge(7002),
        Log("info", "mock, llvm: learned from 9 trials of 3 tasks", worker="w"),
        Acknowledge(7001),
    ]
    wait(world, 60)
    assert len(sent(world)) == 1


def test_it_waits_until_all_jobs_have_ended(world: World) -> None:
    world.publish(ASKED)
    world.publish(request("job", 20))
    world.deliver()
    world.deliver()
    while not world.core.jobs["job"].ended:
        world.turn()
        world.pass_time(0.5)
    assert sent(world) == []
    wait(world)
    assert len(sent(world)) == 1


def test_a_job_gets_the_worker_that_learns(world: World) -> None:
    world.publish(ASKED)
    world.deliver()
    wait(world)
    # The lesson lies in the queue, or is done by its only worker: the first update goes there all the same.
    (updater,) = [worker for worker in world.workers if worker.queue == "model-update"]
    world.work(updater)
    assert updater.doing is not None
    assert updater.doing[1] == STEP
    world.check()
    world.publish(request("job", 20))
    for _ in range(60):
        if not world.deliver():
            for worker in world.workers:
                if worker is not updater:
                    world.work(worker)
    assert [step.id for _, step in world.stage["model-update"]] == ["job/t00/0/-/model-update"]


@pytest.mark.parametrize(
    ("result", "again"),
    [
        (LearnDone(gave_way=True), True),
        (LearnDone(said=["x"]), False),
        (Failure(error="the database is locked"), False),
    ],
)
def test_what_gave_way_is_asked_for_again(world: World, result: Result, again: bool) -> None:
    world.publish(ASKED)
    world.deliver()
    wait(world)
    world.stage["model-update"].clear()
    world.give(Arrived(7002, answer(result)))
    wait(world, 60)
    assert (len(sent(world)) > 1) == again


def test_what_is_lost_is_sent_again(world: World) -> None:
    world.publish(ASKED)
    world.deliver()
    wait(world)
    world.stage["model-update"].clear()
    wait(world, lessons.LOST + 5)
    assert len(sent(world)) == 2


def test_another_coordinator_goes_on(world: World) -> None:
    world.publish(ASKED)
    world.deliver()
    world.start_coordinator()
    world.settle()
    wait(world)
    assert len(sent(world)) == 1


def test_asked_twice_is_asked_once(world: World) -> None:
    world.does(Arrived(7001, ASKED))
    assert world.does(Arrived(7002, ASKED)) == [Acknowledge(7002)]


def test_what_nobody_has_time_for_is_forgotten_in_the_end(world: World) -> None:
    world.does(Arrived(7001, msgspec.structs.replace(ASKED, engine="toy")))
    world.pass_time(lessons.KEPT - 60)
    wait(world)
    assert world.give(Tick()) == []
    world.pass_time(120)
    assert Acknowledge(7001) in world.log


@pytest.mark.parametrize(("after", "expected"), [(0, []), (50, [LearnWork(engine="mock", after=50)])])
def test_after_jobs_have_ended_the_coordinator_asks_by_itself(after: int, expected: list[LearnWork]) -> None:
    world = World(seed="", learn_after=after)
    world.publish(request("job", 20))
    world.run("job")
    wait(world)
    for worker in world.workers:
        world.work(worker)
        world.work(worker)
    while world.deliver():
        pass
    wait(world, 60)
    assert [each.step.work for each in sent(world)] == expected


@pytest.mark.parametrize(("learned", "lines"), [(0, 0), (1, 1)])
def test_what_nobody_asked_for_is_told_where_something_was_learned(learned: int, lines: int) -> None:
    world = World(seed="", learn_after=50)
    world.publish(request("job", 20))
    world.run("job")
    wait(world)
    assert len(sent(world)) == 1
    out = world.give(Arrived(7002, answer(LearnDone(said=["so and so"], learned=learned))))
    assert out == [Acknowledge(7002)] + [Log("info", "so and so", worker="w")] * lines


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    moments=st.lists(st.integers(0, 300), min_size=1, max_size=3),
    kills=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 3)), max_size=5),
)
def test_no_job_is_disturbed_whenever_somebody_asks(
    seed: int, moments: list[int], kills: list[tuple[int, int]]
) -> None:
    world = World(rng=random.Random(seed), learn_after=10)
    world.publish(request("a", 24, batch=4, chunk=2))
    for turn in range(301):
        world.turn()
        if turn in moments:
            world.publish(ASKED)
        if turn == 150:
            world.publish(request("b", 24, batch=4, chunk=2))
        for moment, victim in kills:
            if moment == turn:
                world.strike(victim)
    world.run("a", "b")
    for _ in range(150):
        world.turn()
        world.pass_time(0.5)
    assert [(world.ledger(job).phase, trials(world.ledger(job))) for job in "ab"] == [("done", 24)] * 2
    # Nothing is left of what was asked.
    assert sorted(type(message).__name__ for message in world.coordinator.values()) == ["Ledger"] * 2
    assert world.dead == {}
    assert list(replay(world.records)) == []
