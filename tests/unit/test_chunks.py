"""How many candidates go out together: what builds take, who would idle, and what a step costs by itself."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.world import World, request
from tunemesh.coordinator.events import Dispatch
from tunemesh.coordinator.scheduling.chunks import Cost, best
from tunemesh.shared.messages import BuildWork, UpdateWork

NVCC, LLVM, MOCK = Cost(0.006, 3.2), Cost(0.006, 0.3), Cost(0.006, 0.005)
GPU, CPU, FAKE = Cost(0.3, 0.1), Cost(0.006, 0.15), Cost(0.006, 0.01)


def size(
    build: Cost | None,
    profile: Cost | None,
    builders: int,
    *,
    free: int | None = None,
    batch: int = 32,
    fits: bool = False,
) -> int:
    """Of chunks for one device, which has nothing to do as long as builders have not."""
    idle = builders if free is None else free
    return best(
        batch, 8, build, profile, builders=builders, free=idle, devices=1, waits=not idle, fits=fits
    )  # fmt: skip


def test_slow_builds_go_out_one_by_one_where_builders_would_idle() -> None:
    assert size(NVCC, GPU, 11, batch=14) == 1
    assert size(NVCC, None, 11) == 1


def test_slow_builds_go_out_in_small_chunks_where_all_builders_are_busy() -> None:
    assert size(NVCC, Cost(0.006, 0.1), 11, free=0) == 1
    # A device that takes 0.3 s for a step, whatever is in it, would not get through more of them.
    assert size(NVCC, GPU, 11, free=0) == 2


def test_what_is_not_known_counts_as_a_second_so_that_nobody_idles_for_a_large_chunk() -> None:
    assert size(None, None, 11) == 1
    assert size(None, None, 11, free=0) == 3


@pytest.mark.parametrize("builders", [1, 2])
@pytest.mark.parametrize("free", [0, None])
def test_fast_builds_on_few_builders_go_out_in_chunks_as_large_as_allowed(
    builders: int, free: int | None
) -> None:
    assert size(LLVM, CPU, builders, free=free) == 8
    assert size(MOCK, FAKE, builders, free=free) == 8


def test_fast_builds_keep_large_chunks_where_many_builders_are_busy() -> None:
    assert size(MOCK, FAKE, 11, free=0) == 8
    assert size(MOCK, FAKE, 11, free=0, fits=True) == 8


def test_no_chunk_builds_for_half_a_minute_whatever_a_step_costs_the_device() -> None:
    assert size(NVCC, Cost(5.0, 0.1), 11, free=0) == 2


@example(batch=1, limit=2, build=None, profile=None, builders=0, free=0, devices=0, waits=False, fits=False)
@given(
    batch=st.integers(1, 512),
    limit=st.integers(1, 8),
    build=st.none() | st.builds(Cost, st.floats(0, 1e6), st.floats(0, 1e6)),
    profile=st.none() | st.builds(Cost, st.floats(0, 1e6), st.floats(0, 1e6)),
    builders=st.integers(0, 100),
    free=st.integers(0, 100),
    devices=st.integers(0, 100),
    waits=st.booleans(),
    fits=st.booleans(),
)
def test_a_chunk_has_at_least_one_candidate_and_no_more_than_allowed(
    batch: int,
    limit: int,
    build: Cost | None,
    profile: Cost | None,
    builders: int,
    free: int,
    devices: int,
    waits: bool,
    fits: bool,
) -> None:
    found = best(
        batch,
        limit,
        build,
        profile,
        builders=builders,
        free=free,
        devices=devices,
        waits=waits,
        fits=fits,
    )
    assert 1 <= found <= min(limit, batch)


def of_stage(world: World, stage: str) -> list[Dispatch]:
    sent = [each for each in world.log if isinstance(each, Dispatch)]
    return [each for each in sent if each.step.id.endswith(f"/{stage}")]


def started(builders: int, strategy: str) -> World:
    """A world in which the first batch of a job of one task is proposed, and nothing is built."""
    queues = ("model-update", *["build-cpu"] * builders, "profile-cpu-0")
    world = World(tasks=1, queues=queues, strategy=strategy)
    world.settle()
    world.publish(request(trials=32))
    busy = [worker for worker in world.workers if worker.queue == "build-cpu"]
    for _ in range(400):
        if of_stage(world, "build"):
            return world
        world.deliver()
        for worker in world.workers:
            if worker not in busy or not of_stage(world, "model-update"):
                world.work(worker)
    raise AssertionError("nothing was proposed")


@pytest.mark.parametrize("strategy", ["interleaved", "fair", "predictive"])
def test_the_first_batch_of_one_task_feeds_all_builders(strategy: str) -> None:
    world = started(11, strategy)
    (update,) = of_stage(world, "model-update")
    assert isinstance(update.step.work, UpdateWork)
    assert (update.step.work.want, update.step.work.chunk_size) == (16, 1)
    builds = of_stage(world, "build")
    assert [each.queue for each in builds] == ["build-cpu"] * 11
    assert [each.step.id for each in builds] == [f"job/t00/0/{chunk}/build" for chunk in range(11)]
    work = [each.step.work for each in builds]
    assert [len(each.candidates) for each in work if isinstance(each, BuildWork)] == [1] * 11


def test_one_step_at_a_time_takes_as_much_of_the_batch_as_it_may() -> None:
    (build,) = of_stage(started(11, "sequential"), "build")
    assert isinstance(build.step.work, BuildWork)
    assert len(build.step.work.candidates) == 8
