"""What the coordinator keeps of who asked for what, and tells those who write the history."""

from __future__ import annotations

import msgspec

from tests.unit.world import World, request
from tunemesh.coordinator import upkeep
from tunemesh.coordinator.events import Answer, Arrived, Count
from tunemesh.coordinator.jobs import progress
from tunemesh.coordinator.journal.replay import replay
from tunemesh.shared.messages import FINAL_KINDS, MOST_NAMED, Blob, Cancel, Cancelled, JobProgress, Query


def by(world: World, message: object, user: str, handle: int = 80_000) -> None:
    """A message of a user whom the broker has verified."""
    world.coordinator[handle] = message  # type: ignore[assignment]
    world.delivered.add(handle)
    world.give(Arrived(handle, message, user=user))  # type: ignore[arg-type]


def known(world: World, job: str = "job") -> JobProgress:
    return progress.progress(world.core.jobs[job])


def test_it_is_known_who_asked_for_a_job_also_after_a_restart() -> None:
    world = World(tasks=1)
    world.settle()
    by(world, request(trials=8), "ann")
    world.run("job")
    assert known(world).asked_by == "ann"
    assert known(world).cancelled is None
    world.start_coordinator()
    world.settle()
    assert known(world).asked_by == "ann"
    assert list(replay(world.records)) == []


def test_it_is_known_who_cancelled_a_job_and_when() -> None:
    world = World(tasks=1)
    world.settle()
    by(world, request(), "ann")
    world.deliver()
    at = world.core.state.instant
    by(world, Cancel(job="job"), "bob", 80_001)
    assert known(world).phase == "cancelled"
    assert known(world).cancelled == Cancelled(by="bob", at=at)
    (end,) = [each for each in world.events if each.kind == "cancelled"]
    assert end.progress is not None
    assert end.progress.cancelled == Cancelled(by="bob", at=at)


def test_of_two_who_stop_a_job_the_first_is_kept() -> None:
    world = World(tasks=1)
    world.settle()
    by(world, request(trials=200), "ann")
    for _ in range(2000):
        world.turn()
        if "job" in world.core.jobs and any(task.best for task in known(world).tasks):
            break
    by(world, Cancel(job="job", keep=True), "bob", 80_001)
    first = known(world).cancelled
    assert first is not None
    assert (first.by, first.keep) == ("bob", True)
    by(world, Cancel(job="job"), "eve", 80_002)
    assert known(world).phase == "cancelled"
    assert known(world).cancelled == first


def test_how_the_latest_jobs_ended_is_told_again_by_a_successor() -> None:
    """Its predecessor may have died between what it saved and what it told."""
    world = World(tasks=1)
    world.publish(request(trials=8))
    world.run("job")
    (told,) = [each for each in world.events if each.kind in FINAL_KINDS]
    world.events.clear()
    world.start_coordinator()
    world.settle()
    (again,) = [each for each in world.events if each.kind in FINAL_KINDS]
    for name in ("kind", "assembled", "validated", "measured"):
        assert getattr(again, name) == getattr(told, name)
    assert again.progress is not None
    assert told.progress is not None
    assert (again.progress.finished, again.progress.tasks) == (told.progress.finished, told.progress.tasks)


def census(world: World) -> object:
    (answer,) = [
        each
        for each in world.give(Arrived(90_000, Query(census=True), "client.1", "c"))
        if isinstance(each, Answer)
    ]
    assert answer.snapshot.jobs == []
    return answer.snapshot.census


def test_the_census_names_what_came_with_jobs_that_have_not_ended() -> None:
    world = World(tasks=1)
    world.settle()
    model, file, samples = (Blob(digit * 64, 70_000) for digit in "abc")
    asked = msgspec.structs.replace(request(trials=8), model=model, files={"w": file}, samples=samples)
    world.publish(asked)
    world.deliver()
    found = census(world)
    accepted = world.ledger("job").accepted
    assert (found.oldest, found.complete) == (accepted, True)  # type: ignore[attr-defined]
    assert found.named == [each.sha256 for each in (model, file, samples)]  # type: ignore[attr-defined]
    world.run("job")
    found = census(world)
    # It is still known, and what it has left is not older than it.
    assert (found.oldest, found.named) == (accepted, [])  # type: ignore[attr-defined]


def test_a_census_of_too_many_says_that_it_is_not_complete() -> None:
    world = World(tasks=1)
    world.settle()
    for number in range(11):
        files = {f"{n}": Blob(f"{number:032x}{n:032x}", 1) for n in range(MOST_NAMED // 10)}
        world.publish(msgspec.structs.replace(request(f"job-{number}"), files=files))
    while world.deliver():
        pass
    found = census(world)
    assert len(found.named) == MOST_NAMED  # type: ignore[attr-defined]
    assert not found.complete  # type: ignore[attr-defined]


def test_what_is_needed_is_told_regularly() -> None:
    world = World()
    world.settle()
    counted = lambda: [each for each in world.log if isinstance(each, Count)]  # noqa: E731
    assert counted() == []
    for _ in range(5):
        world.pass_time(upkeep.COUNT_EVERY / 2 + 1)
    assert len(counted()) == 2
