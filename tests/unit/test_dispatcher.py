"""From ready steps to sent ones, with any strategy: to whom, how many, and that nobody starves."""

from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.test_resources import status
from tunemesh.broker_config.topology import work_queue
from tunemesh.coordinator.scheduling.dispatcher import Dispatcher, Send
from tunemesh.coordinator.scheduling.needs import Need
from tunemesh.coordinator.scheduling.resources import Resources
from tunemesh.coordinator.scheduling.strategies import Forecast, Ready, by_name

CONTROLLED = ["interleaved", "fair:x=2", "predictive"]
ENGINES = ["a", "b", "mock"]
ENGINE_SETS = st.sets(st.sampled_from(ENGINES), max_size=3)
KINDS = ["build-cpu", "model-update"]
QUEUES = [work_queue("build-cpu", ["a"]), work_queue("build-cpu", ["a", "b"]), "build-cpu", "model-update"]
NEEDS = [Need.of(kind, engines) for kind in KINDS for engines in (["a"], ["b"], ["a", "b"], ["mock"])]
FEEDS = {"model-update": "build-cpu", "build-cpu": "model-update"}


def step(number: int, need: Need, job: str = "j", tenant: str = "x") -> Ready:
    return Ready(
        step=f"{job}/t/0/{number}/build",
        job=job,
        need=need,
        job_order=len(job),
        tenant=tenant,
        feeds=(Need(FEEDS[need.kind], need.engines[:1]),),
        seconds=1.0,
        forecast=Forecast({need: 1.0 + number}, 1.0),
    )


def dispatcher(strategy: str = "interleaved") -> Dispatcher:
    return Dispatcher(by_name(strategy), Resources())


def test_it_is_known_who_waits_for_what() -> None:
    one = dispatcher()
    one.resources.seen(status("build-cpu", engines=("a",)), 0.0)
    for number in range(3):
        one.make_ready(step(number, NEEDS[0]))
    one.make_ready(step(3, NEEDS[0], job="other"))
    one.make_ready(step(4, Need("model-update"), job="other"))
    assert one.waiting(20) == {"build-cpu": {"j": 3, "other": 1}, "model-update": {"other": 1}}
    assert [send.step for send in one.fill(1.0)] == [step(0, NEEDS[0]).step]
    assert one.waiting(1) == {"build-cpu": {"j": 2}, "model-update": {"other": 1}}


@pytest.mark.parametrize("strategy", CONTROLLED)
def test_what_is_urgent_goes_first_and_is_charged_like_others(strategy: str) -> None:
    one = dispatcher(strategy)
    one.resources.seen(status("build-cpu", engines=("a",)), 0.0)
    early, late = step(1, NEEDS[0]), step(2, NEEDS[0], job="other")
    urgent = msgspec.structs.replace(step(3, NEEDS[0], job="last"), urgent=True)
    for ready in (early, late, urgent):
        one.make_ready(ready)
    assert list(one.fill(1.0)) == [Send("build-cpu", urgent.step, "last", 0)]
    one.switch(by_name(strategy))
    assert one.ended(urgent.step, 1.0) is not None
    assert [send.step for send in one.fill(2.0)] == [early.step]


def test_what_is_urgent_is_not_due_any_more_once_its_job_has_ended() -> None:
    one = dispatcher()
    one.make_ready(msgspec.structs.replace(step(1, NEEDS[0]), urgent=True))
    one.forget("j")
    one.resources.seen(status("build-cpu", engines=("a",)), 0.0)
    assert list(one.fill(1.0)) == []
    assert one.needs == []


def test_urgency_does_not_go_around_a_strategy_of_one_step_at_a_time() -> None:
    one = dispatcher("sequential")
    one.resources.seen(msgspec.structs.replace(status("build-cpu", engines=("a",)), slots=2), 0.0)
    one.make_ready(step(1, NEEDS[0]))
    one.make_ready(msgspec.structs.replace(step(2, NEEDS[0]), urgent=True))
    assert len(list(one.fill(1.0))) == 1


def test_a_step_is_sent_once_and_again_as_a_further_attempt_when_it_was_lost() -> None:
    one = dispatcher()
    one.resources.seen(status("build-cpu", engines=("a",)), 0.0)
    ready = step(1, NEEDS[0])
    one.make_ready(ready)
    one.make_ready(ready)
    assert list(one.fill(1.0)) == [Send("build-cpu", ready.step, "j", 0)]
    one.make_ready(ready)
    assert list(one.fill(2.0)) == []
    assert one.lost(ready.step) is not None
    one.make_ready(ready)
    assert list(one.fill(3.0)) == [Send("build-cpu", ready.step, "j", 1)]
    assert one.ended(ready.step, 1.0) is not None
    assert (one.has(ready.step), one.needs, one.needs_of("j")) == (False, [], [])


def test_a_step_that_nobody_serves_waits_and_goes_out_when_somebody_does() -> None:
    one = dispatcher()
    one.resources.seen(status("build-cpu", engines=("a",)), 0.0)
    ready = step(1, Need("build-cpu", ("b",)))
    one.make_ready(ready)
    assert (list(one.fill(1.0)), one.needs_of("j")) == ([], [Need("build-cpu", ("b",))])
    one.resources.seen(status("build-cpu.b", "v", engines=("b",)), 2.0)
    assert list(one.fill(2.0)) == [Send("build-cpu.b", ready.step, "j", 0)]


def test_the_supply_of_workers_is_all_that_they_could_do() -> None:
    one = dispatcher()
    one.resources.seen(status("build-cpu", engines=("a", "mock"), slots=2), 0.0)
    for number, need in enumerate([*NEEDS[:4], NEEDS[0]]):
        one.make_ready(step(number, need))
    # Two for a, one for mock; that for b, and that for both, nobody can do.
    assert {need: one.supply(need) for need in NEEDS[:4]} == {
        NEEDS[0]: 1.5,
        NEEDS[1]: 1.0,
        NEEDS[2]: 1.0,
        NEEDS[3]: 1.5,
    }


def test_what_was_withdrawn_is_not_sent_and_holds_up_nothing() -> None:
    one = dispatcher("predictive")
    one.resources.seen(status("build-cpu", engines=("a",)), 0.0)
    for number in range(3):
        one.make_ready(step(number, NEEDS[0]))
    one.withdraw("j")
    assert list(one.fill(1.0)) == []
    one.make_ready(step(7, NEEDS[0]))
    assert [send.step for send in one.fill(2.0)] == ["j/t/0/7/build"]


@dataclass
class Mesh:
    """The model: who lives and what is in flight, by queue."""

    workers: dict[str, dict[str, tuple[set[str], int]]] = field(default_factory=dict)
    flights: dict[str, str] = field(default_factory=dict)

    def seen(
        self, one: Dispatcher, queue: str, worker: str, engines: set[str], slots: int, now: float
    ) -> None:
        """``slots`` of 0: the worker leaves."""
        one.resources.seen(status(queue, worker, tuple(engines), slots=slots, leaving=not slots), now)
        self.workers.setdefault(queue, {}).pop(worker, None)
        if slots:
            self.workers[queue][worker] = (engines, slots)

    def check(self, send: Send, need: Need) -> None:
        """Invariants (a) and (b)."""
        workers = self.workers[send.queue]
        assert send.queue.partition(".")[0] == need.kind
        assert workers
        assert all(set(need.engines) <= engines for engines, _ in workers.values())
        self.flights[send.step] = send.queue
        in_flight = Counter(self.flights.values())[send.queue]
        assert in_flight <= sum(slots for _, slots in workers.values())


WORKERS = st.tuples(
    st.just("worker"), st.sampled_from(QUEUES), st.sampled_from("uv"), ENGINE_SETS, st.integers(0, 3)
)
ACTIONS = st.one_of(
    WORKERS,
    st.tuples(st.just("ready"), st.sampled_from(NEEDS), st.sampled_from(["j", "jj"]), st.sampled_from("xy")),
    st.tuples(st.sampled_from(["ended", "lost"]), st.integers(0, 20)),
    st.tuples(st.just("withdraw"), st.sampled_from(["j", "jj"])),
    st.tuples(st.just("switch"), st.sampled_from(CONTROLLED)),
)


@settings(max_examples=300, deadline=None)
@given(
    strategy=st.sampled_from(CONTROLLED),
    actions=st.lists(ACTIONS, max_size=60),
    first=st.lists(WORKERS, max_size=8),
)
def test_steps_go_only_to_workers_that_serve_them_and_never_more_than_have_slots(
    strategy: str, actions: list[tuple], first: list[tuple]
) -> None:
    """And whatever happened, in the end every step that somebody serves is sent."""
    one, mesh, now = dispatcher(strategy), Mesh(), 0.0
    needs: dict[str, Need] = {}
    due: set[str] = set()

    def fill() -> None:
        for send in one.fill(now):
            due.remove(send.step)
            mesh.check(send, needs[send.step])

    for number, action in enumerate([*first, *actions]):
        now += 0.01
        match action:
            case ("worker", queue, worker, engines, slots):
                mesh.seen(one, queue, worker, engines, slots, now)
            case ("ready", need, job, tenant):
                ready = step(number, need, job, tenant)
                needs[ready.step] = need
                due.add(ready.step)
                one.make_ready(ready)
            case ("ended" | "lost" as what, which) if mesh.flights:
                flying = sorted(mesh.flights)[which % len(mesh.flights)]
                del mesh.flights[flying]
                assert (one.ended(flying, 1.0) if what == "ended" else one.lost(flying)) is not None
            case ("withdraw", job):
                one.withdraw(job)
                due = {each for each in due if each.partition("/")[0] != job}
            case ("switch", name):
                one.switch(by_name(name))
        fill()
    while mesh.flights:
        for flying in list(mesh.flights):
            del mesh.flights[flying]
            one.ended(flying, 1.0)
        fill()
    assert not [each for each in due if one.slots(needs[each])]


@settings(deadline=None)
@given(
    strategy=st.sampled_from(CONTROLLED),
    backlog=st.lists(st.integers(1, 8), min_size=4, max_size=4),
    slots=st.integers(1, 3),
    again=st.booleans(),
)
def test_needs_that_share_a_queue_take_turns(
    strategy: str, backlog: list[int], slots: int, again: bool
) -> None:
    """Each gets its turn while the others have theirs once, also where one has a new step at once whenever
    one of its steps has ended."""
    one = dispatcher(strategy)
    one.resources.seen(status("build-cpu.a+b", engines=("a", "b", "mock"), slots=slots), 0.0)
    needs = {f"j/t/0/{n}/build": NEEDS[n % 4] for n in range(4 * 8) if n // 4 < backlog[n % 4]}
    for number, need in ((int(each.split("/")[3]), need) for each, need in needs.items()):
        one.make_ready(step(number, need))
    left = Counter(needs.values())
    waited: Counter[Need] = Counter()
    for turn in range(100):
        sends = list(one.fill(float(turn)))
        for send in sends:
            sent = needs[send.step]
            left[sent] -= 1
            waited.update(need for need in left if left[need])
            del waited[sent]
            assert all(count < 4 for count in waited.values()), "a need was passed over more than once"
        flying = [flight.ready.step for flight in one.resources.flights()]
        if not flying:
            break
        one.ended(flying[0], 1.0)
        if again and needs[flying[0]] == NEEDS[0] and turn < 40:
            number = 1000 + turn
            needs[f"j/t/0/{number}/build"] = NEEDS[0]
            left[NEEDS[0]] += 1
            one.make_ready(step(number, NEEDS[0]))
    assert not +left


@pytest.mark.parametrize("strategy", [*CONTROLLED, "sequential", "uncontrolled"])
def test_nothing_of_a_job_that_has_ended_is_kept(strategy: str) -> None:
    """Engines are named by requests: needs that were kept would pile up."""
    one = dispatcher(strategy)
    one.resources.seen(status("build-cpu", engines=("a",)), 0.0)
    sizes = []
    for number in range(100, 600):
        job = f"job{number}"
        one.make_ready(step(1, Need("build-cpu", (f"engine-{number}",)), job))
        one.make_ready(step(2, Need("build-cpu", ("a",)), job))
        for each in list(one.fill(1.0)):
            one.lost(each.step)
            one.ended(each.step, 1.0)
        one.forget(job)
        assert one.needs == []
        sizes.append(len(pickle.dumps(one)))
    assert max(sizes[400:]) <= 1.2 * max(sizes[:100])  # counters, and entries of heaps that are old
