"""What is known of workers and queues: who serves what, who lives, what is in flight."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunemesh.coordinator.scheduling import resources as module
from tunemesh.coordinator.scheduling.clock import LONGEST, Clock
from tunemesh.coordinator.scheduling.needs import Need
from tunemesh.coordinator.scheduling.queues import LATELY
from tunemesh.coordinator.scheduling.resources import FORGET_AFTER, MISSING_AFTER, WORKER_SILENT, Resources
from tunemesh.coordinator.scheduling.strategies import Ready
from tunemesh.shared.messages import ResourceProgress, Serves, WorkerStatus

HOUR = 3600.0
DEVICE = Need("profile:cpu")


def status(
    queue: str = "build-cpu",
    worker: str = "w",
    engines: tuple[str, ...] = ("metaschedule", "mock"),
    targets: tuple[str, ...] = (),
    slots: int = 1,
    leaving: bool = False,
    **more: object,
) -> WorkerStatus:
    if queue.startswith("profile-"):
        engines = ()
    return WorkerStatus(
        worker=worker,
        queue=queue,
        host="host",
        slots=0 if leaving else slots,
        serves=Serves(engines=[*engines], targets=[*targets]),
        leaving=leaving,
        **more,  # type: ignore[arg-type]
    )


def build(*engines: str) -> Need:
    return Need.of("build-cpu", engines)


def ready(step: str = "j/t/0/0/build", need: Need = Need("build-cpu", ("mock",))) -> Ready:  # noqa: B008
    return Ready(step=step, job=step.partition("/")[0], need=need, job_order=1)


def name(resources: Resources, need: Need) -> str | None:
    queue = resources.idle(need)
    return queue.name if queue is not None else None


def test_what_holds_models_in_is_said_of_each_queue() -> None:
    resources = Resources()
    for number, cage in enumerate(["bare", "namespaces, seccomp", "bare", ""]):
        resources.seen(status(worker=f"w{number}", cage=cage), 0.0)
    (shown,) = resources.progress(1.0)
    assert shown.cages == ["bare", "namespaces, seccomp"]


# -- Who serves what -----------------------------------------------------------------------------------------


def test_a_need_is_for_queues_whose_workers_serve_all_its_engines() -> None:
    resources = Resources()
    resources.seen(status(), 0.0)
    resources.seen(status("build-cpu.toy", "v", ("toy", "mock"), slots=2), 0.0)
    found = {
        engines: (name(resources, build(*engines)), resources.slots(build(*engines)))
        for engines in [("metaschedule",), ("toy",), ("mock",), ("metaschedule", "toy"), ("other",)]
    }
    assert found == {
        ("metaschedule",): ("build-cpu", 1),
        ("toy",): ("build-cpu.toy", 2),
        ("mock",): ("build-cpu.toy", 3),
        ("metaschedule", "toy"): (None, 0),
        ("other",): (None, 0),
    }
    assert resources.served_engines("build-cpu") == ["metaschedule", "mock", "toy"]
    assert resources.served_engines("model-update") == []


def test_needs_compete_where_a_live_worker_serves_both() -> None:
    resources = Resources()
    resources.seen(status("build-cpu.toy", "v", ("toy", "mock")), 0.0)
    toy, mock, other = build("toy"), build("mock"), build("other")
    assert resources.compete(toy, mock)
    assert not resources.compete(toy, other)
    resources.seen(status("build-cpu.toy", "v", leaving=True), 1.0)
    assert not resources.compete(toy, mock)


def test_only_what_all_workers_of_a_queue_serve_counts() -> None:
    resources = Resources()
    resources.seen(status(worker="both"), 0.0)
    resources.seen(status(worker="mock only", engines=("mock",)), 0.0)
    assert (resources.slots(build("metaschedule")), resources.slots(build("mock"))) == (0, 2)
    assert resources.served_engines("build-cpu") == ["mock"]
    resources.seen(status(worker="mock only", leaving=True), 1.0)
    assert (resources.slots(build("metaschedule")), resources.slots(build("mock"))) == (1, 1)


def test_a_target_that_a_build_worker_names_changes_nothing() -> None:
    resources = Resources()
    resources.seen(status(), 0.0)
    resources.seen(status(targets=("cpu",)), 1.0)
    assert name(resources, build("metaschedule")) == "build-cpu"
    assert (resources.slots(DEVICE), resources.canonical("cpu"), resources.served_targets()) == (0, None, [])


def test_a_device_serves_all_names_of_its_target_and_the_first_is_canonical() -> None:
    resources = Resources()
    resources.seen(status("profile-a", targets=("llvm -x", "native")), 0.0)
    assert {name(resources, Need(f"profile:{t}")) for t in ("llvm -x", "native")} == {"profile-a"}
    assert resources.canonical("native") == "llvm -x"
    resources.seen(status("profile-a", targets=("cuda",)), 1.0)
    assert resources.canonical("native") is None
    assert name(resources, Need("profile:cuda")) == "profile-a"
    resources.seen(status("profile-a", targets=("cuda",), leaving=True), 2.0)
    assert (name(resources, Need("profile:cuda")), resources.canonical("cuda")) == (None, "cuda")


def test_the_fastest_idle_queue_comes_first_whatever_else_it_serves() -> None:
    resources = Resources()
    for queue, engines in (("build-cpu", ("metaschedule", "mock")), ("build-cpu.toy", ("toy", "mock"))):
        resources.seen(status(queue, queue, engines), 0.0)
    for fast, slow in (("build-cpu", "build-cpu.toy"), ("build-cpu.toy", "build-cpu")):
        resources.account(fast, 1.0, 0.5, 0.0)
        resources.account(slow, 1.0, 2.0, 0.0)
        assert name(resources, build("mock")) == fast
    resources.start(ready(), "build-cpu.toy", 1.0)
    assert name(resources, build("mock")) == "build-cpu"
    resources.end("j/t/0/0/build")
    assert name(resources, build("mock")) == "build-cpu.toy"


@given(
    statuses=st.lists(
        st.tuples(
            st.sampled_from(["build-cpu", "build-cpu.toy", "profile-a", "profile-b"]),
            st.sampled_from("uvw"),
            st.sets(st.sampled_from(["a", "b", "c"])),
            st.integers(0, 3),
            st.booleans(),
        ),
        max_size=30,
    )
)
def test_slots_are_those_of_the_workers_whose_whole_queue_serves_the_need(
    statuses: list[tuple[str, str, set[str], int, bool]],
) -> None:
    resources = Resources()
    live: dict[str, dict[str, tuple[set[str], int]]] = {}
    for queue, worker, names, slots, leaving in statuses:
        served = tuple(sorted(names))
        resources.seen(status(queue, worker, served, served, slots, leaving), 0.0)
        workers = live.setdefault(queue, {})
        workers.pop(worker, None)
        if not leaving:
            workers[worker] = (names, slots)
    for kind, queues in (
        ("build-cpu", ("build-cpu", "build-cpu.toy")),
        ("profile", ("profile-a", "profile-b")),
    ):
        for asked in ("a", "b", "c"):
            need = Need.of(kind, [asked]) if kind == "build-cpu" else Need(f"profile:{asked}")
            serving = [
                live[q] for q in queues if live.get(q) and all(asked in each for each, _ in live[q].values())
            ]
            expected = sum(slots for workers in serving for _, slots in workers.values())
            assert resources.slots(need) == expected
            assert (resources.idle(need) is not None) == (expected > 0)


# -- Who lives -----------------------------------------------------------------------------------------------


def later(resources: Resources, now: float, seconds: float) -> float:
    """Time passes, with nothing but ticks."""
    for _ in range(round(seconds)):
        now += 1.0
        resources.expire(now)
    return now


@pytest.mark.parametrize("jump", [HOUR, -HOUR, -1e9])
def test_a_clock_that_jumps_neither_kills_the_living_nor_keeps_the_dead(jump: float) -> None:
    resources = Resources()
    resources.seen(status(), 1e6)
    now = later(resources, 1e6, 1.0) + jump
    resources.expire(now)
    assert resources.slots(build("mock")) == 1
    later(resources, now, WORKER_SILENT + 1.0)
    assert resources.slots(build("mock")) == 0


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_no_step_is_missed_for_a_jump_and_a_missing_one_is_for_all_that(jump: float) -> None:
    resources = Resources()
    resources.seen(status(), 1e6)
    resources.start(ready(), "build-cpu", 1e6)
    now = later(resources, 1e6, 1.0)
    resources.checked("build-cpu", 0, 1, now)
    assert list(resources.missing(now)) == []
    now += jump
    resources.seen(status(), now)
    assert list(resources.missing(now)) == []
    for _ in range(round(MISSING_AFTER) + 2):
        now += 1.0
        resources.seen(status(), now)
        found = [flight.ready.step for flight in resources.missing(now)]
    assert found == ["j/t/0/0/build"]


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1))
def test_passed_time_is_the_sum_of_what_passed_between_readings(readings: list[float]) -> None:
    clock = Clock()
    passed = [clock.read(reading) for reading in readings]
    steps = [min(max(b - a, 0.0), LONGEST) for a, b in itertools.pairwise(readings)]
    assert passed == pytest.approx([sum(steps[:n]) for n in range(len(readings))])


def test_utilisation_is_sound_after_a_jump() -> None:
    resources = Resources()
    resources.seen(status("profile-a", "w", targets=("cpu",)), 1e6)
    for second in range(1, 11):
        resources.seen(status("profile-a", "w", targets=("cpu",)), 1e6 + second)
    resources.account("profile-a", 5.0, 1.0, 1e6 + 10)
    assert resources.progress(10.0) == [
        ResourceProgress(
            queue="profile-a",
            slots=1,
            workers=["w"],
            targets=["cpu"],
            running=[],
            busy=5.0,
            utilisation=0.5,
            hosts=[status().host],
        )
    ]


def test_utilisation_is_that_of_the_last_minutes_with_what_is_under_way() -> None:
    resources = Resources()

    def utilisation(now: float) -> float:
        resources.seen(status("profile-a", "w", targets=("cpu",)), now)
        return resources.progress(now)[0].utilisation

    def pass_time(until: float) -> None:
        nonlocal now
        while now < until:
            now += 2.0
            utilisation(now)

    now = 0.0
    utilisation(now)
    pass_time(600.0)
    assert utilisation(now) == 0.0
    resources.start(ready("j/t/0/0/profile", DEVICE), "profile-a", now)
    pass_time(630.0)
    assert utilisation(now) == pytest.approx(30 / LATELY)
    resources.end("j/t/0/0/profile")
    resources.account("profile-a", 30.0, 1.0, now)
    assert utilisation(now) == pytest.approx(30 / LATELY)
    pass_time(now + LATELY + 2)
    assert utilisation(now) == 0.0
    for _ in range(60):
        pass_time(now + 2)
        resources.account("profile-a", 2.0, 1.0, now)
    assert utilisation(now) == pytest.approx(120 / LATELY)
    assert len(resources.queues["profile-a"].lately) < 20


def test_clients_are_told_which_engines_and_targets_are_served() -> None:
    resources = Resources()
    resources.seen(status("build-cpu.toy", "b", engines=("toy", "mock")), 0.0)
    resources.seen(status("profile-a", "p", targets=("cpu", "native")), 0.0)
    told = {each.queue: (each.engines, each.targets) for each in resources.progress(1.0)}
    assert told == {"build-cpu.toy": (["mock", "toy"], []), "profile-a": ([], ["cpu", "native"])}


def test_a_queue_that_nothing_is_left_of_is_forgotten_and_comes_back_with_a_worker() -> None:
    resources = Resources()
    assert resources.seen(status(), 0.0)
    assert resources.seen(status("profile-a", targets=("cpu",)), 0.0)
    resources.start(ready("j/t/0/0/profile", DEVICE), "profile-a", 0.0)
    now = later(resources, 0.0, WORKER_SILENT + FORGET_AFTER + 2)
    assert list(resources.queues) == ["profile-a"]  # a step is on its way there
    assert resources.end("j/t/0/0/profile") is not None
    resources.expire(now)
    assert (resources.queues, resources.canonical("cpu")) == ({}, None)
    assert resources.seen(status("profile-a", targets=("cpu",)), now)
    assert name(resources, DEVICE) == "profile-a"


def test_a_worker_that_leaves_makes_no_queue() -> None:
    resources = Resources()
    assert not resources.seen(status(leaving=True), 0.0)
    assert resources.queues == {}


def test_a_deserted_queue_is_one_whose_steps_others_could_do() -> None:
    resources = Resources()
    for queue in ("profile-a", "profile-b"):
        resources.seen(status(queue, queue, targets=("cpu",)), 0.0)
    resources.start(ready("j/t/0/0/profile", DEVICE), "profile-a", 0.0)
    resources.seen(status("profile-a", "profile-a", leaving=True), 0.5)
    assert resources.deserted(1.0) == []
    assert [queue.name for queue in resources.deserted(0.5 + module.LOST_AFTER + 0.1)] == ["profile-a"]
    resources.seen(status("profile-b", "profile-b", leaving=True), 4.0)
    assert resources.deserted(5.0) == []


def test_cores_are_shared_where_two_needs_have_fewer_than_slots() -> None:
    resources = Resources()
    update = Need("model-update", ("mock",))
    resources.seen(status(cpus=[0]), 0.0)
    assert not resources.share_cores(build("mock"), update)
    resources.seen(status("model-update", "u", cpus=[0]), 0.0)
    assert resources.share_cores(build("mock"), update)
    assert not resources.share_cores(build("toy"), update)
    resources.seen(status("model-update", "u", cpus=[1]), 1.0)
    assert not resources.share_cores(build("mock"), update)


def test_a_device_that_does_not_work_is_not_forgotten_and_not_counted_on() -> None:
    resources = Resources()
    broken = status("profile-a", targets=("cpu",), slots=0, fault="error 304")
    assert resources.seen(broken, 0.0)
    for number in range(1, int(2 * FORGET_AFTER / 5)):
        assert not resources.seen(broken, 5.0 * number)
        resources.checked("profile-a", 0, 0, 5.0 * number)
        resources.expire(5.0 * number)
    assert (resources.canonical("cpu"), resources.slots(DEVICE)) == ("cpu", 0)
    assert resources.faults("profile:cpu") == ["profile-a: error 304"]
    assert resources.take_lost() == []
    resources.seen(status("profile-a", targets=("cpu",)), 5.0 * number)
    assert (resources.faults("profile:cpu"), name(resources, DEVICE)) == ([], "profile-a")
