"""A share of the devices is kept for gold jobs; spare ones take what idles, and give way at the next step."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.test_resources import status
from tests.unit.world import TARGET
from tunemesh.coordinator.scheduling.dispatcher import Dispatcher
from tunemesh.coordinator.scheduling.needs import Need
from tunemesh.coordinator.scheduling.resources import Resources
from tunemesh.coordinator.scheduling.strategies import Ready, by_name
from tunemesh.coordinator.simulation import Scenario, simulate
from tunemesh.coordinator.simulation.scenario import Spread
from tunemesh.shared.messages import Class

STRATEGIES = ["interleaved", "fair", "fair:a=2", "predictive"]
NEED = Need(f"profile:{TARGET}")


def mesh(devices: int, strategy: str = "interleaved", reserved: float = 0.25) -> Dispatcher:
    found = Dispatcher(by_name(strategy), Resources(), reserved)
    for number in range(devices):
        found.resources.seen(status(f"profile-d{number}", targets=(TARGET,)), 0.0)
    return found


def ready(number: int, class_: Class, need: Need = NEED) -> Ready:
    job = f"{class_}"
    return Ready(
        step=f"{job}/t/0/{number}/profile",
        job=job,
        need=need,
        job_order=len(job),
        tenant=class_,
        seconds=1.0,
        class_=class_,
    )


def sent(one: Dispatcher, now: float = 1.0) -> Counter[str]:
    return Counter(send.job for send in one.fill(now))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_standard_jobs_leave_the_reserved_devices_to_gold_and_spare_ones_fill_them(strategy: str) -> None:
    one = mesh(4, strategy)
    for number in range(8):
        one.make_ready(ready(number, "standard"))
    assert sent(one) == {"standard": 3}
    for number in range(8):
        one.make_ready(ready(number, "spare"))
    assert sent(one) == {"spare": 1}
    one.make_ready(ready(0, "gold"))
    assert sent(one) == {}
    # At the border of its step the spare job gives way.
    one.ended("spare/t/0/0/profile", 1.0)
    assert sent(one) == {"gold": 1}
    # A standard step is followed by another one: gold has its share.
    one.make_ready(ready(1, "gold"))
    one.ended("standard/t/0/0/profile", 1.0)
    assert sum(sent(one).values()) == 1


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_gold_may_have_all_devices_and_spare_none_while_others_wait(strategy: str) -> None:
    one = mesh(4, strategy)
    classes: tuple[Class, ...] = ("spare", "gold")
    for class_ in classes:
        for number in range(6):
            one.make_ready(ready(number, class_))
    assert sent(one) == {"gold": 4}
    for number in range(6):
        one.ended(f"gold/t/0/{number}/profile", 1.0)
    assert sent(one) == {"spare": 4}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_device_is_for_everybody_but_spare_comes_last(strategy: str) -> None:
    one = mesh(1, strategy, reserved=1.0)
    for class_ in ("spare", "standard"):
        one.make_ready(ready(0, class_))  # type: ignore[arg-type]
    assert sent(one) == {"standard": 1}
    one.ended("standard/t/0/0/profile", 1.0)
    assert sent(one) == {"spare": 1}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_nothing_is_kept_where_nothing_is_reserved_nor_of_other_workers(strategy: str) -> None:
    free = mesh(4, strategy, reserved=0.0)
    for number in range(8):
        free.make_ready(ready(number, "standard"))
    assert sent(free) == {"standard": 4}
    builders = mesh(0, strategy)
    builders.resources.seen(msgspec.structs.replace(status("build-cpu", engines=("a",)), slots=4), 0.0)
    for number in range(8):
        builders.make_ready(ready(number, "standard", Need("build-cpu", ("a",))))
    assert sent(builders) == {"standard": 4}


@settings(max_examples=60, deadline=None)
@given(
    strategy=st.sampled_from(STRATEGIES),
    devices=st.integers(1, 5),
    reserved=st.floats(0, 1),
    moves=st.lists(
        st.tuples(
            st.sampled_from(["gold", "standard", "spare", "end", "leave", "back", "lost"]), st.integers(0, 9)
        ),
        max_size=60,
    ),
)
def test_whatever_comes_and_goes_nothing_ready_is_left_on_an_idle_device_that_it_may_have(
    strategy: str, devices: int, reserved: float, moves: list[tuple[str, int]]
) -> None:
    one = mesh(devices, strategy, reserved)
    waiting: dict[str, Class] = {}
    flying: dict[str, Class] = {}
    made = 0
    for now, (move, which) in enumerate(moves, 2):
        queue = f"profile-d{which % devices}"
        match move:
            case "gold" | "standard" | "spare":
                made += 1
                step = ready(made, move)  # type: ignore[arg-type]
                one.make_ready(step)
                waiting[step.step] = step.class_
            case "end" | "lost" if flying:
                step_id = sorted(flying)[which % len(flying)]
                del flying[step_id]
                _ = one.ended(step_id, 1.0) if move == "end" else one.lost(step_id)
            case "leave":
                one.resources.seen(
                    msgspec.structs.replace(status(queue, targets=(TARGET,)), leaving=True, slots=0), now
                )
            case "back":
                one.resources.seen(status(queue, targets=(TARGET,)), now)
        for send in one.fill(float(now)):
            flying[send.step] = waiting.pop(send.step)
        pools = {id(queue.pool): queue.pool for queue in one.resources.queues.values() if queue.pool}
        counted: Counter[str] = Counter()
        for pool in pools.values():
            counted += pool.at_work
        assert counted == Counter(flying.values())
        if one.resources.idle(NEED) is not None and waiting:
            # Only standard ones may wait while a device idles: it is kept for gold.
            assert set(waiting.values()) == {"standard"}
            assert reserved > 0


CLASSES: list[Class] = ["gold", "standard", "spare", "standard"]


@pytest.mark.parametrize("strategy", ["interleaved", "predictive"])
def test_a_gold_job_is_done_sooner_on_a_crowded_mesh_and_all_others_end(strategy: str) -> None:
    durations = {
        "import": Spread(0.1),
        "model-update": Spread(0.2),
        "build": Spread(0.01),
        "profile": Spread(0.2),
        "assemble": Spread(0.1),
        "validate": Spread(0.1),
    }
    crowded = Scenario(
        strategy=strategy,
        jobs=12,
        tasks=2,
        rounds=2,
        batch=16,
        builders=4,
        updaters=4,
        devices=4,
        every=2.0,
        durations=durations,
        classes=CLASSES,
    )
    took: list[dict[str, float]] = []
    for reserved in (0.0, 0.5):
        outcome = simulate(crowded, reserved=reserved)
        means = {}
        for class_ in ("gold", "standard", "spare"):
            ends = [end for job, end in outcome.completions.items() if CLASSES[int(job[3:]) % 4] == class_]
            means[class_] = sum(ends) / len(ends)
        took.append(means)
    before, after = took
    assert after["gold"] < 0.6 * before["gold"]
    assert after["gold"] < min(after["standard"], after["spare"])
