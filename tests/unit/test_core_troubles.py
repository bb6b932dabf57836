"""Who is blamed for what goes wrong with a step, who waits for room, and what ends without an end."""

from __future__ import annotations

import random

import msgspec
import pytest

from tests.unit.test_core import learned, trials
from tests.unit.world import FakeWorker, World, request
from tunemesh.coordinator import lifecycle, mishaps
from tunemesh.coordinator.events import (
    Acknowledge,
    Arrived,
    Log,
    PutAside,
    QueueMissing,
    QueueSeen,
    Tick,
    WorkerSeen,
)
from tunemesh.coordinator.jobs import progress, rounds, steps
from tunemesh.coordinator.jobs.job import Job, StepRef
from tunemesh.coordinator.jobs.ledger import Ledger, TaskLedger
from tunemesh.coordinator.results import Results
from tunemesh.shared import codec
from tunemesh.shared.messages import Cancel, ProfileDone, Query, Step, StepResult, Timing, UpdateDone
from tunemesh.shared.messages.progress import Usage

TWO_DEVICES = ("model-update", "build-cpu", "profile-cpu-0", "profile-cpu-1")


class OneLiar(World):
    """A world in which one worker's results never make sense."""

    liar = "profile-cpu-0"
    told = 0

    def result(self, worker: FakeWorker, step: Step) -> StepResult:
        right = super().result(worker, step)
        if worker.queue != self.liar:
            return right
        if not isinstance(right.result, ProfileDone):
            return right
        self.told += 1
        return msgspec.structs.replace(right, result=ProfileDone(profiled=[]))


@pytest.mark.parametrize("strategy", ["interleaved", "predictive", "fair", "sequential", "uncontrolled"])
def test_one_lying_device_fails_no_job_while_another_one_is_honest(strategy: str) -> None:
    world = OneLiar(tasks=2, strategy=strategy, queues=TWO_DEVICES, rng=random.Random(3))
    world.publish(request(trials=24, batch=8, chunk=2))
    world.run("job")
    assert world.ledger("job").phase == "done", world.ledger("job").error
    assert trials(world.ledger("job")) == learned(world.ledger("job")) == 24
    assert world.told > 0
    sent = [each for each in world.dead.values() if "a senseless result of profile-cpu-0" in each]
    assert len(sent) == len(world.dead) == world.told


def test_a_step_goes_back_to_whoever_got_it_wrong_when_nobody_else_is_there() -> None:
    world = OneLiar(tasks=1, queues=TWO_DEVICES, rng=random.Random(3))
    honest = world.workers[3]
    world.publish(request(trials=8, batch=8, chunk=8))
    while not world.told:
        world.turn()
        world.kill(honest)  # before it can take anything
    world.liar = "nobody"
    world.run("job")
    assert world.ledger("job").phase == "done"


def test_a_worker_that_was_silent_and_is_back_was_not_lost_to_the_step() -> None:
    world = World(tasks=1)
    world.publish(request(trials=8))
    builder = world.workers[1]
    while builder.doing is None:
        world.turn()
    for _ in range(5):
        world.report()
        world.now += 9.0  # longer than a worker may be silent
        world.give(Tick())
    world.report()
    world.run("job")
    assert world.ledger("job").phase == "done"


def test_a_queue_that_is_deleted_costs_nobody_a_worker() -> None:
    world = World(tasks=1)
    world.publish(request(trials=8))
    builder = world.workers[1]
    while builder.doing is None:
        world.turn()
    for number in range(4):
        world.revive(builder)  # a fresh name each time: they would count as different victims
        world.report()
        world.now += 2.0
        world.give(QueueMissing("build-cpu", "somebody has deleted it"))
        said = [each.text for each in world.give(Tick()) if isinstance(each, Log)]
        assert not any("worker lost" in text for text in said), (number, said)
        world.give(QueueSeen("build-cpu", 0, 1))
    world.report()
    world.run("job")
    assert world.ledger("job").phase == "done"


def test_a_liar_about_whose_step_it_was_does_not_fail_the_one_it_names() -> None:
    """A worker that claims a step of another queue is not believed about that one."""
    world = World(tasks=1, queues=TWO_DEVICES)
    world.publish(request("good", trials=16, batch=8, chunk=4))
    device = world.workers[2]
    while device.doing is None:
        world.turn()
    step = device.doing[1]
    for number in range(20):
        right = world.result(device, step)
        stranger = msgspec.structs.replace(right.timing, resource="build-cpu", worker=f"stranger-{number}")
        lie = msgspec.structs.replace(right, timing=stranger, result=ProfileDone(profiled=[]))
        world.give(Arrived(10**6 + number, lie))
    assert world.core.resources.in_flight(step.id)
    world.run("good")
    assert world.ledger("good").phase == "done"


def test_a_step_that_is_lost_without_a_trace_again_and_again_fails_its_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mishaps, "MOST_ATTEMPTS", 4)
    world = World(tasks=1)
    world.publish(request("bad", trials=8))
    for _ in range(2000):
        if world.core.jobs.get("bad") and world.core.jobs["bad"].ended:
            break
        if world.stage["build-cpu"] and world.stage["build-cpu"][0][1].job == "bad":
            world.stage["build-cpu"].clear()  # a worker that answers for another step each time
            world.now += 1.0
        world.turn()
    assert world.ledger("bad").phase == "failed"
    assert world.ledger("bad").error == (
        "import: it was lost 4 times without a trace, the last time in build-cpu; see dead-letter"
    )


def test_what_an_update_has_learned_from_is_known_to_a_successor_too() -> None:
    """An honest update that was asked for by the coordinator before is not refused; a liar is."""
    for lie in (False, True):
        world = World(tasks=1, rng=random.Random(1))
        world.publish(request(trials=24, batch=8, chunk=2, lookahead=0))
        updater = world.workers[0]
        while not (updater.doing and updater.doing[1].round == 1):
            world.turn()
        step = updater.doing[1]
        world.start_coordinator()
        world.settle()
        world.pass_time(6.0)
        assert world.core.jobs["job"].round("t00", 0) is not None
        result = world.result(updater, step)
        updater.doing = None
        assert isinstance(result.result, UpdateDone)
        if lie:
            done = msgspec.structs.replace(result.result, learned=result.result.learned[:-1])
            result = msgspec.structs.replace(result, result=done)
        world.publish(result)
        world.run("job")
        assert world.ledger("job").phase == "done"
        assert [("it has learned from chunks" in each) for each in world.dead.values()] == [True] * lie


def test_jobs_are_let_in_in_their_order_and_say_what_they_wait_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "MOST_HELD", 100)
    world = World(tasks=4, rng=random.Random(2))
    # A large one behind a first one, then small ones that would always fit before it.
    world.publish(request("first", trials=16, batch=8, chunk=1))
    world.publish(request("large", trials=16, batch=8, chunk=1))
    small = [f"small{number}" for number in range(6)]
    for name in small:
        world.publish(request(name, trials=8, batch=8, chunk=8))
    ended: list[str] = []
    waited: set[str] = set()
    for _ in range(20_000):
        world.turn()
        ended += [name for name, job in world.core.jobs.items() if job.ended and name not in ended]
        waited |= {job.waiting for job in world.core.jobs.values() if "cannot hold more" in job.waiting}
        if len(ended) == 8:
            break
    assert ended[:2] == ["first", "large"]
    assert sorted(ended[2:]) == small
    assert "waiting for other jobs to end: the coordinator cannot hold more at once (0 before)" in waited


def test_room_is_counted_for_the_smallest_chunks_of_the_strategy() -> None:
    world = World(tasks=2, strategy="predictive")
    world.publish(request(trials=600, batch=512, chunk=8))
    world.publish(request("short", trials=10, batch=512, chunk=8))
    while "short" not in world.core.jobs or world.core.jobs["short"].ledger.phase == "importing":
        world.turn()
    counted = [
        steps.to_be_held(job, fitting=fitting) for job in world.core.jobs.values() for fitting in (0, 1)
    ]  # type: ignore[arg-type]
    assert counted == [2 + 2 * 130, 2 + 2 * 1026, 2 + 2 * 6, 2 + 2 * 22]


def test_a_successor_keeps_the_order_in_which_jobs_were_accepted() -> None:
    world = World(tasks=1)
    world.settle()
    for name in ("b", "a", "c"):
        world.publish(request(name, trials=8))
        world.settle()
    world.coordinator = dict(reversed(world.coordinator.items()))
    world.start_coordinator()
    world.settle()
    world.pass_time(6.0)
    assert sorted(world.core.jobs, key=lambda name: world.core.jobs[name].order) == ["b", "a", "c"]


def timing(started: float, finished: float) -> Timing:
    return Timing(
        step="job/-/-/-/import", stage="import", resource="q", worker="w", started=started, finished=finished
    )


def test_the_time_of_a_worker_whose_clock_jumped_never_makes_a_ledger_unreadable() -> None:
    usage: dict[str, Usage] = {}
    for _ in range(20_000):
        usage = rounds.add_usage(usage, [timing(0.0, 1e11)])
    assert usage["q"].steps == 20_000
    ledger = Ledger(request=request(), revision=0, phase="importing", accepted=0.0, usage=usage)
    assert codec.decode(codec.encode(ledger), Ledger) == ledger


def test_a_query_that_meets_a_defect_does_not_fail_the_job_it_asks_about(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(tasks=1, defects_expected=True)
    world.publish(request("good", trials=8))
    world.settle()
    with monkeypatch.context() as patch:
        patch.setattr(progress, "progress", lambda _: 1 / 0)
        out = world.give(Arrived(10**6, Query(job="good"), "client.x", "c"))
    assert [each.reason for each in out if isinstance(each, PutAside)] == [
        "a defect of the coordinator: ZeroDivisionError: division by zero"
    ]
    world.run("good")
    assert world.ledger("good").phase == "done"


def test_a_cancel_for_a_job_whose_end_is_not_saved_is_kept_until_it_is() -> None:
    world = World(tasks=1)
    world.publish(request(trials=8))
    while not (world.core.jobs and world.core.jobs["job"].ended):
        world.turn()
    handle = next(world.ids)
    world.coordinator[handle] = Cancel(job="job")
    world.delivered.add(handle)
    assert Acknowledge(handle) not in world.give(Arrived(handle, Cancel(job="job")))
    world.settle()
    assert handle not in world.coordinator


def test_the_newest_revision_of_a_job_is_never_dead_lettered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect while it is acted upon: a successor that meets the job has to know it."""
    world = World(tasks=1, defects_expected=True)
    world.publish(request("bad", trials=8))
    whole = steps.open_steps

    def broken(job: Job) -> list[StepRef]:
        if job.ledger.phase == "tuning" and job.saved >= job.ledger.revision:
            raise KeyError("a defect")
        return whole(job)

    monkeypatch.setattr(steps, "open_steps", broken)
    world.run("bad")
    assert world.ledger("bad").phase == "failed"
    assert not world.dead
    kept = [each for each in world.coordinator.values() if isinstance(each, Ledger)]
    assert [each.phase for each in kept] == ["failed"]


@pytest.mark.parametrize("part", ["fill", "missing", "deserted", "take_lost"])
def test_a_defect_that_is_no_jobs_is_logged_and_the_others_go_on(
    part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tasks=1, defects_expected=True)
    world.publish(request("good", trials=8))
    world.settle()
    owner = world.core.state.dispatcher if part == "fill" else world.core.resources
    with monkeypatch.context() as patch:
        patch.setattr(owner, part, lambda *_: 1 / 0)
        world.pass_time(2.0)
    assert any(isinstance(each, Log) and "ZeroDivisionError" in each.text for each in world.log)
    world.run("good")
    assert world.ledger("good").phase == "done"


def test_a_defect_in_the_end_of_a_job_ends_it_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tasks=1, defects_expected=True)
    world.publish(request("bad", trials=8))
    while not (world.core.jobs and world.core.jobs["bad"].ledger.phase == "tuning"):
        world.turn()
    whole = rounds.current

    def broken(job: Job, task: TaskLedger) -> TaskLedger:
        raise KeyError("a defect")

    monkeypatch.setattr(rounds, "current", broken)
    world.publish(Cancel(job="bad"))
    world.run("bad")
    monkeypatch.setattr(rounds, "current", whole)
    assert (world.ledger("bad").phase, world.ledger("bad").tasks) == ("failed", [])
    world.publish(request("good", trials=8))
    world.run("good")
    assert world.ledger("good").phase == "done"


def test_a_defect_after_the_end_was_decided_leaves_no_half_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tasks=1, defects_expected=True)
    world.publish(request("bad", trials=8))
    while not (world.core.jobs and world.core.jobs["bad"].ledger.phase == "tuning"):
        world.turn()
    state, broken = world.core.state, [True]
    whole = state.dispatcher.forget

    def forget(job: str) -> None:
        if broken:
            broken.pop()
            raise KeyError("a defect")
        whole(job)

    monkeypatch.setattr(state.dispatcher, "forget", forget)
    monkeypatch.setattr(Results, "take", lambda *_: 1 / 0)
    world.run("bad")
    assert world.ledger("bad").phase == "failed"
    world.start_coordinator()
    world.settle()
    world.pass_time(6.0)
    assert world.ledger("bad").phase == "failed"


def test_what_is_known_of_troubles_ends_with_the_job() -> None:
    world = OneLiar(tasks=1, queues=TWO_DEVICES)
    world.publish(request(trials=16, batch=8, chunk=2))
    world.run("job")
    assert world.told
    assert world.core.state.trouble == {}


def test_a_status_of_a_worker_that_waits_for_its_device_is_no_loss() -> None:
    world = World(tasks=1)
    world.publish(request(trials=8))
    device = world.workers[2]
    while device.doing is None:
        world.turn()
    world.report()
    # It has lost its connection with the step in hand, is back, and stands by.
    out = world.give(WorkerSeen(device.status(leaving=True)))
    assert [each.text for each in out if isinstance(each, Log)] == ["worker has left profile-cpu-0"]
    world.now += 20.0
    assert not any("lost" in each.text for each in world.give(Tick()) if isinstance(each, Log))


FAULT = "the device does not work: CUDA error 304"


@pytest.mark.parametrize("from_the_start", [True, False])
def test_a_job_whose_only_device_does_not_work_waits_and_loses_no_candidate(from_the_start: bool) -> None:
    world = World(tasks=1, queues=("model-update", "build-cpu"))
    device = FakeWorker("profile-cpu-0", "w", fault=FAULT if from_the_start else "")
    world.workers.append(device)
    world.report()
    world.publish(request(trials=8))
    while not from_the_start and device.doing is None:
        world.turn()
    if device.doing is not None:  # it goes back
        world.stage[device.queue].insert(0, device.doing)
        device.doing, device.fault = None, FAULT
    for _ in range(300):
        world.turn()
    world.pass_time(90.0)
    world.pass_time(1.0)
    job = world.core.jobs["job"]
    assert job.waiting == f"waiting for a device that works: profile-cpu-0: {FAULT}"
    assert (job.ledger.phase, dict(world.profiled)) == ("tuning", {})
    (shown,) = [each for each in world.core.resources.progress(world.now) if each.queue == "profile-cpu-0"]
    assert (shown.slots, shown.faults, shown.targets) == (0, [FAULT], ["mock"])
    device.fault = ""
    world.run("job")
    assert (world.ledger("job").phase, learned(world.ledger("job"))) == ("done", 8)


def test_the_steps_of_a_device_that_stops_working_go_to_another_one() -> None:
    world = World(tasks=1, queues=TWO_DEVICES)
    broken = world.workers[2]
    world.publish(request(trials=8))
    while broken.doing is None:
        world.turn()
    world.stage[broken.queue].insert(0, broken.doing)
    broken.doing, broken.fault = None, FAULT
    world.run("job")
    assert (world.ledger("job").phase, learned(world.ledger("job"))) == ("done", 8)
