"""While a job runs its client is told where everything lies that was measured."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.world import World, request
from tunemesh.coordinator.events import Save, Tell, Tick
from tunemesh.coordinator.jobs import measured, progress
from tunemesh.coordinator.jobs.ledger import Ledger
from tunemesh.coordinator.upkeep import DELIVER_EVERY
from tunemesh.shared.messages import JobEvent, TaskRecords


def closed(ledger: Ledger) -> list[str]:
    return [task.spec.id for task in ledger.tasks if task.closed]


def until_the_first_is_closed(world: World) -> None:
    """The revision that closes it is on its way to the broker, and nothing else happens."""
    for _ in range(5_000):
        if "job" in world.core.jobs and closed(world.ledger("job")):
            return
        world.turn()
    raise AssertionError("no task is closed")


def test_a_task_is_told_of_once_its_end_is_saved_and_not_again() -> None:
    world = World(tasks=1)
    world.publish(request(trials=16))
    until_the_first_is_closed(world)
    assert [each.measured for each in world.events if each.measured] == []
    world.now += 2.0
    told = [each for each in world.does(Tick()) if isinstance(each, Tell)]
    assert [each.event.measured for each in told] == [[]]  # not saved yet
    world.deliver()
    job = world.core.jobs["job"]
    (task,) = job.ledger.tasks
    world.now += 2.0
    event = JobEvent(
        job="job",
        kind="progress",
        at=world.core.state.epoch + world.now,
        progress=progress.progress(job),
        resources=world.core.resources.progress(world.now),
        measured=[
            TaskRecords(task=task.spec, history=task.history, confirmed=task.confirmed, untuned=task.untuned)
        ],
    )
    assert world.does(Tick()) == [Tell(event)]
    world.now += DELIVER_EVERY + 1
    assert [each for each in world.does(Tick()) if isinstance(each, Tell) and each.event.measured] == []


def test_what_is_measured_of_open_tasks_is_told_once_a_minute() -> None:
    world = World(tasks=2)
    world.publish(request(trials=4000, batch=8))
    for _ in range(600):
        world.turn()
        world.pass_time(0.25)
    times = [each.at for each in world.events if each.measured]
    assert not closed(world.ledger("job"))
    assert len(times) >= 2
    assert all(later - earlier >= DELIVER_EVERY - 1 for earlier, later in pairwise(times))
    newest = {each.task.id: each for event in world.events for each in event.measured}
    assert all(sum(blob.size for blob in each.history) + len(each.trials) > 8 for each in newest.values())


@given(st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_whatever_is_killed_all_is_told_before_the_model_is_assembled(seed: int) -> None:
    rng = random.Random(seed)
    world = World(tasks=rng.randint(1, 4), rng=rng)
    world.publish(request(trials=40, batch=8, chunk=2))
    for _ in range(20_000):
        job = world.core.jobs.get("job")
        if job is not None and job.ledger.phase != "importing" and len(closed(job.ledger)) == world.tasks:
            break
        world.turn()
        if rng.random() < 0.005:
            world.start_coordinator()
    if rng.random() < 0.5:
        world.start_coordinator()
    for _ in range(30):
        world.deliver()
        world.pass_time(0.5)
    told = {each.task.id: each for event in world.events for each in event.measured}
    ledger = world.ledger("job")
    assert ledger.phase == "assembling"
    assert told == {each.task.id: each for each in measured.records(ledger.tasks)}


def test_what_a_message_has_no_room_for_is_told_with_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tasks=6)
    world.publish(request(trials=60, batch=8))
    until_the_first_is_closed(world)
    monkeypatch.setattr(measured, "ROOM_TOLD", 2000)
    for _ in range(200):
        world.turn()
        world.pass_time(0.5)
    told = [[each.task.id for each in event.measured] for event in world.events if event.measured]
    assert 0 < max(map(len, told)) < 6
    assert {task for tasks in told for task in tasks} == {f"t{number:02}" for number in range(6)}


def test_nothing_is_told_of_tasks_of_which_nothing_was_measured() -> None:
    world = World(tasks=0)
    world.publish(request())
    world.run("job")
    assert not any(event.measured for event in world.events)
    assert any(isinstance(each, Save) for each in world.log)
