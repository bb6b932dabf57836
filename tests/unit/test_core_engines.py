"""The core on a mesh whose workers serve different engines."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.world import World, request
from tunemesh.coordinator.events import Dispatch, Tick, WorkerSeen
from tunemesh.shared.messages import Request, Serves

STRATEGIES = ["sequential", "uncontrolled", "interleaved", "fair:a=3", "predictive"]
MIXED = ("model-update", "model-update.toy", "build-cpu", "build-cpu.toy", "profile-cpu-0")


def with_engines(made: Request, *engines: str) -> Request:
    return msgspec.structs.replace(made, engines=[*engines])


@pytest.mark.parametrize("strategy", STRATEGIES)
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    kills=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 5)), max_size=5),
    tasks=st.integers(1, 4),
)
def test_every_job_ends_and_its_steps_went_only_to_workers_of_their_engines(
    strategy: str, seed: int, kills: list[tuple[int, int]], tasks: int
) -> None:
    world = World(tasks=tasks, strategy=strategy, rng=random.Random(seed), queues=MIXED)
    jobs = {"a": ["mock"], "b": ["toy"], "c": ["mock", "toy"]}
    for job, engines in jobs.items():
        world.publish(with_engines(request(job, trials=12, batch=4, chunk=2), *engines))
    moments = sorted(kills)
    turn = 0
    while moments:
        turn += 1
        world.turn()
        while moments and moments[0][0] <= turn:
            _, victim = moments.pop(0)
            if victim == len(MIXED):
                world.start_coordinator()
            else:
                world.kill(world.workers[victim])
                world.revive(world.workers[victim])
    world.run(*jobs)
    assert {job: world.ledger(job).phase for job in jobs} == dict.fromkeys(jobs, "done")
    serving = {worker.queue: set(worker.engines) for worker in world.workers}
    sent = [each for each in world.log if isinstance(each, Dispatch)]
    for each in sent:
        if each.queue.startswith("profile-"):
            assert each.step.engines == []
        else:
            assert set(each.step.engines) <= serving[each.queue], each.step.id
    builds = {(each.step.job, *each.step.engines) for each in sent if each.step.id.endswith("/build")}
    assert builds == {("a", "mock"), ("b", "toy"), ("c", "mock"), ("c", "toy")} - (
        {("c", "toy")} if tasks == 1 else set()
    )


def test_a_job_whose_engine_nobody_serves_waits_and_says_what_is_served() -> None:
    world = World()
    world.publish(with_engines(request(), "toy"))
    for _ in range(100):
        world.turn()
    assert world.core.jobs["job"].waiting == (
        "waiting for a worker that serves engine toy on build-cpu; served there: mock"
    )
    assert world.events[-1].text == world.core.jobs["job"].waiting
    late = World(queues=MIXED).workers
    for worker in (late[1], late[3]):
        world.workers.append(worker)
    world.run("job")
    assert world.ledger("job").phase == "done"


def test_a_job_that_needs_several_things_says_all_of_them() -> None:
    world = World(tasks=2, queues=("model-update", "build-cpu", "build-cpu.toy", "profile-cpu-0"))
    world.publish(with_engines(request(trials=40), "mock", "toy"))
    for _ in range(200):
        world.turn()
    assert "waiting for a worker that serves engine toy on model-update; served there: mock" in {
        event.text for event in world.events
    }
    for worker in world.workers:
        if worker.queue == "build-cpu.toy":
            world.kill(worker)
    world.publish(with_engines(request("other"), "toy", "mock"))
    for _ in range(200):
        world.turn()
    assert world.core.jobs["other"].waiting == (
        "waiting for a worker that serves engines mock, toy on build-cpu; served there: mock"
    )


def test_one_status_of_a_build_worker_that_names_a_target_stops_nothing() -> None:
    world = World()
    status = world.workers[1].status()
    world.give(WorkerSeen(msgspec.structs.replace(status, serves=Serves(engines=["mock"], targets=["llvm"]))))
    world.publish(request())
    world.run("job")
    assert world.ledger("job").phase == "done"


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
def test_steps_go_on_while_the_clock_jumps(jump: float) -> None:
    """No worker is taken for dead, and no step is sent twice."""
    world = World(tasks=1, rng=random.Random(2))
    world.publish(request(trials=40, batch=8, chunk=2))
    for turn in range(200):
        if turn % 20 == 10:
            world.report()
            world.now += jump
            world.give(Tick())
            assert [each.slots for each in world.core.resources.progress(world.now)] == [1, 1, 1]
        world.turn()
    world.run("job")
    sent = [each.step.id for each in world.log if isinstance(each, Dispatch)]
    assert len(sent) == len(set(sent))
