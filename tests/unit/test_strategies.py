"""Each strategy by itself: which of the ready steps it takes for an idle queue."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunemesh.coordinator.scheduling.needs import Need
from tunemesh.coordinator.scheduling.strategies import Forecast, Ready, Strategy, by_name
from tunemesh.shared.errors import BadInput

BUILD, UPDATE, DEVICE = Need("build-cpu"), Need("model-update"), Need("profile:cpu")
GPU = Need("profile:gpu")
NAMES = ["sequential", "uncontrolled", "interleaved", "fair", "predictive"]


@dataclass
class FakeLoad:
    """Resources as a test wants them."""

    slots_of: dict[Need, int] = field(default_factory=dict)
    supplies: dict[Need, float] = field(default_factory=dict)
    shared: bool = False
    competing: tuple[tuple[Need, Need], ...] = ()
    now: float = 0.0

    def slots(self, need: Need) -> int:
        return self.slots_of.get(need, 1)

    def supply(self, need: Need) -> float:
        return self.supplies.get(need, 0.0)

    def compete(self, one: Need, other: Need) -> bool:
        return (one, other) in self.competing or (other, one) in self.competing

    def share_cores(self, one: Need, other: Need) -> bool:
        return self.shared


LOAD = FakeLoad()
orders = itertools.count(1)


def step(
    job: str = "a",
    need: Need = BUILD,
    *,
    tenant: str = "",
    priority: int = 10,
    feeds: str = "",
    seconds: float = 1.0,
    work: dict[Need, float] | None = None,
    path: float = 0.0,
) -> Ready:
    order = next(orders)
    return Ready(
        step=f"{job}/{order}",
        job=job,
        need=need,
        job_order=ord(job[0]),
        order=order,
        tenant=tenant,
        priority=priority,
        feeds=tuple(map(Need, feeds.split())),
        seconds=seconds,
        forecast=Forecast(work or {}, path),
    )


def take(strategy: Strategy, need: Need = BUILD, load: FakeLoad = LOAD, slowness: float = 1.0) -> Ready:
    taken = strategy.take(need, load, slowness)
    assert taken is not None
    strategy.started(taken)
    return taken


@pytest.mark.parametrize("name", NAMES)
@given(
    steps=st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([BUILD, UPDATE, DEVICE]))),
    ended=st.sets(st.sampled_from("abc")),
)
def test_every_step_is_taken_once_but_those_of_jobs_that_have_ended(
    name: str, steps: list[tuple[str, Need]], ended: set[str]
) -> None:
    strategy = by_name(name)
    added = [step(job, need) for job, need in steps]
    for each in added:
        strategy.add(each)
    for job in ended:
        strategy.forget(job)
    taken: list[Ready] = []
    for job in ["", *"abc"]:
        strategy.forget(job)  # by now it has had all of its steps
        for need in (BUILD, UPDATE, DEVICE) * (len(added) + 1):
            ready = strategy.take(need, LOAD, 1.0)
            if ready is not None:
                assert ready.need == need
                taken.append(ready)
                strategy.started(ready)
                strategy.ended(ready, 1.0)
    assert sorted(each.step for each in taken) == sorted(s.step for s in added if s.job not in ended)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (
            "best",
            "unknown strategy 'best'; there are: fair, interleaved, predictive, sequential, uncontrolled",
        ),
        ("interleaved:a=1", "takes nothing behind a colon"),
        ("fair:", "bad share ''"),
        ("fair:gold=0", "bad share 'gold=0'"),
        ("fair:gold=three", "bad share"),
    ],
)
def test_a_bad_strategy_is_one_clear_line(text: str, cause: str) -> None:
    with pytest.raises(BadInput) as caught:
        by_name(text)
    assert cause in str(caught.value)


def test_interleaved_is_first_come_first_served() -> None:
    strategy = by_name("interleaved")
    steps = [step(job) for job in "bca"]
    for each in reversed(steps):
        strategy.add(each)
    assert [take(strategy) for _ in steps] == steps


@pytest.mark.parametrize("name", NAMES)
def test_the_id_of_a_job_that_has_ended_can_be_used_again(name: str) -> None:
    strategy = by_name(name)
    strategy.add(step("other"))
    old = step("job")
    strategy.add(old)
    strategy.forget("job")
    strategy.ended(take(strategy), 1.0)
    strategy.forget("other")
    new = step("job")
    strategy.add(new)
    assert take(strategy) is new


def test_sequential_has_one_step_in_flight_and_serves_the_oldest_job() -> None:
    strategy = by_name("sequential")
    younger, older = step("b"), step("a")
    strategy.add(younger)
    strategy.add(older)
    assert take(strategy) is older
    assert strategy.take(BUILD, LOAD, 1.0) is None
    strategy.ended(older, 1.0)
    assert strategy.take(BUILD, LOAD, 1.0) is None  # job a may still have something to come
    strategy.forget("a")
    assert take(strategy) is younger


def shares(strategy: Strategy, jobs: dict[str, tuple[str, int]], rounds: int) -> Counter[str]:
    """Device seconds by job while every job always has a step ready; durations are not as predicted."""
    used: Counter[str] = Counter()
    for job, (tenant, priority) in jobs.items():
        strategy.add(step(job, DEVICE, tenant=tenant, priority=priority))
    for number in range(rounds):
        taken = take(strategy, DEVICE)
        seconds = 0.5 + number % 3
        used[taken.job] += seconds  # type: ignore[assignment]
        strategy.add(step(taken.job, DEVICE, tenant=taken.tenant, priority=taken.priority))
        strategy.ended(taken, seconds)
    return used


def test_fair_gives_tenants_their_shares_whatever_the_number_of_their_jobs() -> None:
    jobs = {"a": ("gold", 10), "b": ("free", 10), "c": ("free", 10), "d": ("free", 10)}
    used = shares(by_name("fair:gold=3,free=1"), jobs, 4000)
    assert used["a"] / (used["b"] + used["c"] + used["d"]) == pytest.approx(3, rel=0.01)


def test_fair_divides_a_tenants_share_by_priority_and_starves_nobody() -> None:
    used = shares(by_name("fair"), {"a": ("x", 20), "b": ("x", 10), "c": ("x", 1)}, 6000)
    assert used["a"] / used["b"] == pytest.approx(2, rel=0.02)
    assert used["b"] / used["c"] == pytest.approx(10, rel=0.05)


def test_fair_keeps_long_steps_out_of_the_moments_between_short_ones() -> None:
    """Of a tenant whose candidates hang, beside a job of short steps."""
    strategy, load = by_name("fair"), FakeLoad()
    strategy.add(step("e", tenant="eve"))
    strategy.add(step("a", tenant="ann"))

    def do(seconds: float) -> str:
        taken = strategy.take(BUILD, load, 1.0)
        if taken is None:
            return ""
        strategy.started(taken)
        load.now += seconds
        strategy.ended(taken, seconds)
        return taken.tenant

    assert do(20.0) == "eve"
    for _ in range(10):
        strategy.add(step("e", tenant="eve"))
        assert do(0.1) == "ann"
        assert do(20.0) == ""  # it is ready, and the worker is free
        load.now += 0.4
        strategy.add(step("a", tenant="ann"))
    assert do(0.1) == "ann"
    assert do(20.0) == ""
    load.now += 0.5  # nobody knows whether ann comes again
    assert do(20.0) == "eve"


@pytest.mark.parametrize(("ann", "eve"), [(0.1, 1.9), (100.0, 20.0)], ids=["short", "used less"])
def test_fair_leaves_no_worker_idle_for_short_steps_or_for_who_has_used_more(ann: float, eve: float) -> None:
    strategy = by_name("fair")
    for name in ("ann", "eve"):
        strategy.add(step(name[0], tenant=name))
    for _ in range(2):
        taken = take(strategy)
        strategy.started(taken)
        strategy.ended(taken, ann if taken.tenant == "ann" else eve)
    strategy.add(step("e", tenant="eve"))
    assert take(strategy).tenant == "eve"


def test_fair_lets_nobody_save_up_for_later() -> None:
    strategy = by_name("fair")
    shares(strategy, {"a": ("early", 10)}, 1000)
    strategy.add(step("b", DEVICE, tenant="late"))
    taken = Counter()
    for _ in range(20):
        ready = take(strategy, DEVICE)
        taken[ready.tenant] += 1
        strategy.add(step(ready.job, DEVICE, tenant=ready.tenant))
        strategy.ended(ready, 1.0)
    assert taken == {"early": 10, "late": 10}


def test_predictive_finishes_the_shortest_job_first() -> None:
    strategy = by_name("predictive")
    long, short = step("a", work={DEVICE: 500.0}), step("b", work={DEVICE: 50.0})
    strategy.add(long)
    strategy.add(short)
    assert take(strategy) is short


def test_predictive_takes_the_longest_path_first_when_the_end_is_near() -> None:
    strategy = by_name("predictive")
    long, short = step("a", work={DEVICE: 50.0}, path=40.0), step("b", work={DEVICE: 5.0}, path=5.0)
    strategy.add(short)
    strategy.add(long)
    assert take(strategy) is long


def test_predictive_feeds_the_resource_that_is_about_to_run_dry() -> None:
    strategy = by_name("predictive")
    work = {DEVICE: 500.0, GPU: 100.0}
    for_cpu = step("a", feeds="profile:cpu", work=work)
    for_gpu = step("b", feeds="profile:gpu", work=work | {DEVICE: 900.0})
    for each in (for_cpu, for_gpu):
        strategy.add(each)
    hungry_gpu = FakeLoad(supplies={DEVICE: 30.0, GPU: 0.5})
    assert take(strategy, load=hungry_gpu) is for_gpu
    assert take(strategy, load=hungry_gpu) is for_cpu


def test_predictive_looks_past_the_next_stage_to_the_device_that_runs_dry() -> None:
    strategy = by_name("predictive")
    work = {UPDATE: 100.0, DEVICE: 95.0, GPU: 95.0}
    short = step("a", UPDATE, feeds="build-cpu profile:cpu", work={BUILD: 1.0})
    long = step("b", UPDATE, feeds="build-cpu profile:gpu", work=work)
    for each in (short, long):
        strategy.add(each)
    supplies = {BUILD: 9.0, DEVICE: 30.0, GPU: 0.5}
    assert take(strategy, UPDATE, FakeLoad(supplies=supplies)) is long


def test_predictive_lets_no_job_wait_for_its_end_to_feed_what_is_not_scarce() -> None:
    strategy = by_name("predictive")
    profile = step("a", DEVICE, feeds="model-update build-cpu", work={DEVICE: 500.0, UPDATE: 5.0})
    validate = step("b", DEVICE, work={DEVICE: 1.0})
    strategy.add(profile)
    strategy.add(validate)
    assert take(strategy, DEVICE) is validate


def test_predictive_lets_updates_wait_on_shared_cores_while_builds_can_feed_a_hungry_device() -> None:
    strategy = by_name("predictive")
    build = step("a", BUILD, feeds="profile:cpu")
    update = step("b", UPDATE, feeds="build-cpu", seconds=2.0)
    strategy.add(build)
    strategy.add(update)
    hungry = FakeLoad(supplies={DEVICE: 1.0}, shared=True)
    assert strategy.take(UPDATE, hungry, 1.0) is None
    assert strategy.take(UPDATE, FakeLoad(supplies={DEVICE: 9.0}, shared=True), 1.0) is update
    strategy.add(update)
    assert take(strategy, load=hungry) is build
    assert strategy.take(UPDATE, hungry, 1.0) is None  # the build is in flight
    strategy.ended(build, 1.0)
    assert strategy.take(UPDATE, hungry, 1.0) is update


def test_predictive_leaves_a_slow_device_idle_when_a_fast_one_is_done_sooner() -> None:
    strategy = by_name("predictive")
    first, last = step("a", DEVICE, seconds=1.0), step("a", DEVICE, seconds=1.0)
    strategy.add(first)
    strategy.add(last)
    few = FakeLoad(supplies={DEVICE: 2.0})
    assert take(strategy, DEVICE, few, slowness=0.5) is first
    assert strategy.take(DEVICE, few, 10.0) is None
    assert strategy.take(DEVICE, FakeLoad(supplies={DEVICE: 100.0}), 10.0) is last


def test_predictive_counts_the_work_of_all_engines_that_share_workers() -> None:
    """Else a job seems to be at its end, and the longest path goes first, while others fill its builders."""
    ours, theirs = Need("build-cpu", ("a",)), Need("build-cpu", ("b",))
    long, short = step("a", ours, work={ours: 20.0}, path=15.0), step("b", ours, work={ours: 2.0}, path=1.0)
    other = step("c", theirs, work={theirs: 12.0}, path=1.0)
    for load, first in ((FakeLoad(), long), (FakeLoad(competing=((ours, theirs),)), short)):
        strategy = by_name("predictive")
        for each in (short, long, other):
            strategy.add(each)
        assert strategy.take(ours, load, 1.0) is first


def test_predictive_lets_updates_wait_for_the_builds_of_other_engines_on_the_same_workers() -> None:
    ours, theirs = Need("build-cpu", ("a",)), Need("build-cpu", ("b",))
    update = msgspec.structs.replace(
        step("a", Need("model-update", ("a",)), seconds=2.0), feeds=(ours, DEVICE)
    )
    for load, taken in (
        (FakeLoad(shared=True), update),
        (FakeLoad(shared=True, competing=((ours, theirs),)), None),
    ):
        strategy = by_name("predictive")
        strategy.add(step("b", theirs, feeds="profile:cpu"))
        strategy.add(update)
        assert strategy.take(update.need, load, 1.0) is taken
