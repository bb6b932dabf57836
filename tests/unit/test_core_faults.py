"""What must not stop the coordinator, nor hang a job: whole instructions, one fault at a time.

Over 400 lines: one fault each, told with the same few helpers.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tests.unit.world import FakeWorker, World, request
from tunemesh.coordinator import lifecycle, upkeep
from tunemesh.coordinator.events import (
    Acknowledge,
    Answer,
    Arrived,
    Declare,
    Dispatch,
    Log,
    PutAside,
    QueueMissing,
    QueueSeen,
    Save,
    SaveFailed,
    Tell,
    Tick,
    Unreadable,
    WorkerSeen,
)
from tunemesh.coordinator.jobs import steps
from tunemesh.coordinator.jobs.job import Job, StepRef
from tunemesh.coordinator.jobs.ledger import TaskLedger
from tunemesh.shared.messages import (
    Blob,
    BuildDone,
    Built,
    ImportDone,
    ProfileDone,
    Query,
    Request,
    Serves,
    Step,
    StepResult,
    UpdateDone,
    WorkerStatus,
)

Spoil = Callable[[StepResult], StepResult]


class Spoilt(World):
    """A world in which the results of one stage of the job ``job`` are spoilt, ``times`` times."""

    spoil: Spoil = staticmethod(lambda result: result)
    spoilt_stage = "build"
    times = 10**9

    def result(self, worker: FakeWorker, step: Step) -> StepResult:
        right = super().result(worker, step)
        if right.timing.stage != self.spoilt_stage or step.job != "job" or not self.times:
            return right
        self.times -= 1
        return self.spoil(right)


def measured_builds(result: StepResult) -> StepResult:
    assert isinstance(result.result, BuildDone)
    built = [Built(index=each.index, seconds=0.1, outcome="measured") for each in result.result.built]
    return msgspec.structs.replace(result, result=BuildDone(built=built))


def spoilt(stage: str, spoil: Spoil, times: int = 10**9) -> Spoilt:
    world = Spoilt(rng=random.Random(5))
    world.spoilt_stage, world.times = stage, times
    world.spoil = spoil  # type: ignore[method-assign]
    return world


def latency_of_nothing(result: StepResult) -> StepResult:
    """Every latency is 0, as of a confirmation that ended the coordinator and its successors once."""
    done = result.result
    nothing = [msgspec.structs.replace(each, latencies=[0.0]) for each in done.profiled]  # type: ignore[union-attr]
    return msgspec.structs.replace(result, result=msgspec.structs.replace(done, profiled=nothing))


def other_ids(result: StepResult) -> StepResult:
    return msgspec.structs.replace(result, round=result.round + 1)


def other_candidates(result: StepResult) -> StepResult:
    built = [Built(index=99, seconds=0.1, outcome="build-failed", error="x")]
    return msgspec.structs.replace(result, result=BuildDone(built=built))


def twice_proposed(result: StepResult) -> StepResult:
    done = result.result
    assert isinstance(done, UpdateDone)
    twice = [msgspec.structs.replace(each, hash="same") for each in done.candidates]
    return msgspec.structs.replace(result, result=msgspec.structs.replace(done, candidates=twice))


SENSELESS = [
    ("build", measured_builds, "candidate 0 has outcome measured, which no build has"),
    ("build", other_ids, "but says that it is for"),
    ("build", other_candidates, "it answers for candidates 99, asked were 0, 1"),
    ("profile", latency_of_nothing, "candidate 0 has a latency that is not above 0"),
    ("model-update", twice_proposed, "it proposes a candidate twice"),
]


@pytest.mark.parametrize(("stage", "spoil", "said"), SENSELESS)
def test_a_senseless_result_is_set_aside_and_its_step_done_again(stage: str, spoil: Spoil, said: str) -> None:
    world = spoilt(stage, spoil, times=2)
    world.publish(request(trials=8, batch=8, chunk=2))
    world.run("job")
    assert world.ledger("job").phase == "done"
    assert sum(task.trials for task in world.ledger("job").tasks) == 8
    assert len(world.dead) == 2
    assert all(said in reason for reason in world.dead.values()), world.dead


@pytest.mark.parametrize(("stage", "spoil", "said"), SENSELESS)
def test_after_three_senseless_results_the_job_fails_with_the_cause(
    stage: str, spoil: Spoil, said: str
) -> None:
    world = spoilt(stage, spoil)
    world.publish(request(trials=8, batch=8, chunk=2))
    world.publish(request("good", trials=8, batch=8, chunk=2))
    world.run("job", "good")
    error = world.ledger("job").error
    assert world.ledger("job").phase == "failed"
    assert f"{stage} of t0" in error
    assert "3 results made no sense" in error
    assert said in error
    assert world.ledger("good").phase == "done"


def test_a_result_that_cannot_be_read_has_its_step_done_again_at_once() -> None:
    world = World(tasks=1)
    world.publish(request(trials=8))
    while not world.stage["build-cpu"]:
        world.turn()
    _, step = world.stage["build-cpu"].pop()
    world.give(Unreadable(step.id, "not MessagePack", step.nonce))
    world.pass_time(1.0)
    assert [each.id for _, each in world.stage["build-cpu"]] == [step.id]
    assert world.stage["build-cpu"][0][1].attempt == 1


def test_a_defect_fails_one_job_and_sets_one_message_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tasks=1, defects_expected=True)
    world.publish(request("bad", trials=8))
    world.publish(request("good", trials=8))
    whole = steps.is_back

    def broken(job: Job, task: TaskLedger) -> bool:
        if job.id == "bad" and job.round(task.spec.id, 0) is not None:
            raise ZeroDivisionError("a defect")
        return whole(job, task)

    monkeypatch.setattr(steps, "is_back", broken)
    world.run("bad", "good")
    assert world.ledger("good").phase == "done"
    assert world.ledger("bad").phase == "failed"
    assert world.ledger("bad").error == "a defect of the coordinator: ZeroDivisionError: a defect"
    (letter,) = [each for each in world.log if isinstance(each, PutAside)]
    assert letter.reason == "a defect of the coordinator: ZeroDivisionError: a defect"
    traces = [each for each in world.log if isinstance(each, Log) and each.level == "error"]
    assert {each.job for each in traces} == {"bad"}
    assert all("Traceback" in each.text or "ZeroDivisionError" in each.text for each in traces)


def lose(world: World, worker: FakeWorker) -> None:
    """Kill a worker in the middle of its step, and let the mesh notice."""
    world.kill(worker)
    for _ in range(20):
        world.pass_time(0.5)
    world.revive(worker)
    world.report()


def test_a_step_that_costs_three_workers_fails_its_job_with_the_cause() -> None:
    world = World(tasks=1)
    world.publish(request("poison", trials=8))
    builder = world.workers[1]
    for count in range(3):
        assert not world.core.jobs.get("poison") or not world.core.jobs["poison"].ended, count
        while builder.doing is None:
            world.turn()
        world.report()  # so that it is known what the worker is doing
        lose(world, builder)
    world.pass_time(0.5)
    ledger = world.ledger("poison")
    assert ledger.phase == "failed"
    assert ledger.error.startswith(
        "import: 3 workers were lost while they did it, the last one build-cpu@host:"
    )
    world.publish(request("good", trials=8))
    world.run("good")
    assert world.ledger("good").phase == "done"


def test_workers_lost_in_different_steps_fail_no_job() -> None:
    world = World(tasks=2)
    world.publish(request(trials=40, batch=8, chunk=2))
    builder = world.workers[1]
    seen: set[str] = set()
    while len(seen) < 5:
        world.turn()
        if builder.doing is not None and builder.doing[1].id not in seen:
            seen.add(builder.doing[1].id)
            world.report()
            lose(world, builder)
    world.run("job")
    assert world.ledger("job").phase == "done"


def test_a_status_of_a_builder_that_names_a_target_is_ignored_and_builds_go_on() -> None:
    world = World()
    world.settle()
    status = WorkerStatus(
        worker="stranger", queue="build-cpu", host="h", slots=1, serves=Serves(targets=["mock"])
    )
    said = "ignored a status: a worker on build-cpu serves 1 targets; it is devices that serve some"
    assert world.give(WorkerSeen(status)) == [Log("warning", said, worker="stranger")]
    world.publish(request(trials=8))
    world.run("job")
    assert world.ledger("job").phase == "done"


def test_a_deleted_queue_is_said_declared_again_and_what_was_in_it_sent_again() -> None:
    world = World(tasks=1)
    world.publish(request(trials=8, batch=8, chunk=8))
    while not world.stage["build-cpu"]:
        world.turn()
    (_, step), world.stage["build-cpu"] = world.stage["build-cpu"][0], []
    gone = world.give(QueueMissing("build-cpu", "somebody has deleted it"))
    assert gone[:2] == [
        Log("warning", "queue build-cpu is not there: somebody has deleted it"),
        Declare("build-cpu"),
    ]
    # It cannot be declared: said once, and in what the job waits for.
    refused = QueueMissing("build-cpu", "it cannot be declared: access refused", refused=True)
    said = "queue build-cpu is not there: it cannot be declared: access refused"
    assert world.give(refused) == [Log("warning", said)]
    assert world.give(refused) == []
    world.now += 2.0
    world.give(QueueMissing("build-cpu", "somebody has deleted it"))
    world.give(Tick())
    assert said in world.core.jobs["job"].waiting
    back = world.give(QueueSeen("build-cpu", 0, 1))
    assert back[0] == Log("info", "queue build-cpu is there again")
    world.pass_time(1.0)
    assert [(each.id, each.attempt) for _, each in world.stage["build-cpu"]] == [(step.id, 1)]
    world.run("job")
    assert world.ledger("job").phase == "done"


def test_a_request_whose_ledger_could_not_be_kept_is_rejected_and_can_be_asked_about() -> None:
    world = World()
    world.settle()
    shapes = {f"x{number}": [[1] * 4000] for number in range(60)}
    large = msgspec.structs.replace(
        request(), settings=msgspec.structs.replace(request().settings, shapes=shapes)
    )
    acknowledged, told = world.does(Arrived(7, large, "client.x", "c"))
    assert acknowledged == Acknowledge(7)
    assert isinstance(told, Tell)
    assert "bytes beside the model; 131,072 are allowed" in told.event.text
    (answer,) = [
        each for each in world.give(Arrived(8, Query(job="job"), "client.x", "c")) if isinstance(each, Answer)
    ]
    assert answer.snapshot.rejected == told.event.text
    assert answer.snapshot.jobs == []


def test_a_last_ledger_that_is_too_large_ends_the_job_all_the_same() -> None:
    world = World(tasks=1, defects_expected=True)
    world.publish(request(trials=8))
    while not (world.core.jobs and world.core.jobs["job"].ended):
        world.turn()
    job = world.core.jobs["job"]
    revision = job.ledger.revision
    out = world.give(SaveFailed("job", "Ledger of 2,000,000 bytes exceeds the limit"))
    (save,) = [each for each in out if isinstance(each, Save)]
    assert (save.ledger.revision, save.ledger.phase, save.ledger.tasks) == (revision, "failed", [])
    assert (save.ledger.model, save.ledger.usage, save.ledger.timings) == (None, {}, [])
    assert "exceeds the limit" in save.ledger.error
    # Once more: there is nothing left to leave out, and nothing is held for it any longer.
    out = world.give(SaveFailed("job", "Ledger of 2,000,000 bytes exceeds the limit"))
    assert not any(isinstance(each, Save) for each in out)
    assert any(isinstance(each, Acknowledge) for each in out)
    assert any(isinstance(each, Log) and "its end cannot be kept" in each.text for each in out)
    assert world.give(SaveFailed("job", "again")) == []


def test_a_model_that_travels_inside_a_message_is_refused_before_it_fills_a_ledger() -> None:
    blob = Blob("0" * 64, 10**6, bytes(10**6))
    world = spoilt(
        "import",
        lambda result: msgspec.structs.replace(
            result, result=msgspec.structs.replace(result.result, model=blob)
        ),
    )  # type: ignore[arg-type]
    world.publish(request(trials=8))
    world.run("job")
    assert "belong into the artifact store" in world.ledger("job").error


def test_jobs_wait_while_too_much_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "MOST_HELD", 100)
    world = World(tasks=4, rng=random.Random(2))
    names = [f"job{number}" for number in range(12)]
    for name in names:
        world.publish(request(name, trials=40, batch=8, chunk=1))
    most = 0
    for _ in range(6000):
        world.turn()
        most = max(most, len(world.delivered))
    world.run(*names)
    assert all(world.ledger(name).phase == "done" for name in names)
    # A job holds up to 74 deliveries, and one more while it waits; all at once might have held 888.
    assert most <= 100 + 3 * len(names), most


def test_a_job_that_needs_more_than_can_ever_be_held_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "MOST_HELD", 60)
    world = World(tasks=4)
    world.publish(request(trials=40, batch=8, chunk=1))
    world.run("job")
    said = "its 4 searches would have the coordinator hold 74 results at once; 60 are allowed: "
    assert world.ledger("job").error.startswith(said)


def test_ended_jobs_are_kept_for_a_day_and_not_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "MOST_FINISHED", 3)
    world = World(tasks=0)
    names = [f"job{number}" for number in range(5)]
    for name in names:
        world.publish(request(name))
        while name not in world.core.jobs or not world.core.jobs[name].ended:
            world.turn()
    for _ in range(50):
        world.turn()
    assert list(world.core.jobs) == names[2:]
    assert len(world.coordinator) == 3
    world.now += upkeep.KEEP_FINISHED + 1
    world.pass_time(1.0)
    assert world.core.jobs == {}
    assert world.coordinator == {}


def test_instants_follow_the_wall_clock_of_the_connection_and_durations_no_clock_that_jumps() -> None:
    world = World(tasks=1)
    world.publish(request(trials=8))
    world.run("job")
    ledger = world.ledger("job")
    # World connects with a wall clock that is a million seconds ahead.
    assert ledger.accepted == pytest.approx(1e6 + 1000.0, abs=5)
    assert ledger.finished is not None
    assert 0 < ledger.finished - ledger.accepted < world.now - 1000.0 + 1


def test_the_clock_of_a_successor_may_be_decades_behind() -> None:
    world = World(tasks=1)
    world.publish(request(trials=16))
    while not (world.core.jobs and world.core.jobs["job"].ledger.phase == "tuning"):
        world.turn()
    world.behind = 1e6 + 900.0
    world.start_coordinator()
    world.run("job")
    ledger = world.ledger("job")
    assert ledger.phase == "done"
    assert ledger.finished is not None
    assert ledger.finished >= ledger.accepted


def test_what_happens_to_a_job_is_logged_with_its_name() -> None:
    world = World(tasks=1)
    world.publish(request(trials=8))
    world.run("job")
    said = [(each.level, each.text) for each in world.log if isinstance(each, Log) and each.job == "job"]
    assert said[0] == ("info", "accepted: job: 8 trials for mock")
    assert [text for _, text in said[1:-1]] == ["tuning", "assembling", "validating"]
    assert said[-1] == ("info", "done: 2000.000 ms -> 1000.000 ms (2.0x)")
    workers = {
        each.worker for each in world.log if isinstance(each, Log) and each.text.startswith("worker seen")
    }
    assert workers == {worker.name for worker in world.workers}


def test_a_step_that_cannot_be_made_fails_its_job_only(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tasks=1, defects_expected=True)
    world.publish(request("bad", trials=8))
    world.publish(request("good", trials=8))
    whole = steps.make_step

    def broken(job: Job, ref: StepRef, *rest: Any) -> Step:
        if job.id == "bad" and ref.stage == "profile":
            raise KeyError("a defect")
        return whole(job, ref, *rest)

    monkeypatch.setattr(steps, "make_step", broken)
    world.run("bad", "good")
    assert "KeyError" in world.ledger("bad").error
    assert world.ledger("good").phase == "done"
    assert not any(isinstance(each, Dispatch) and each.step.job == "bad" for each in world.give(Tick()))


def test_a_request_without_sense_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.settle()
    twice = msgspec.structs.replace(request(), engines=["mock", "mock"])
    strange = msgspec.structs.replace(request(), options={"template": {"x": 1}})
    for asked, said in ((twice, "it names an engine twice"), (strange, "it has options for template")):
        assert isinstance(asked, Request)
        acknowledged, told = world.does(Arrived(7, asked, "client.x"))
        assert acknowledged == Acknowledge(7)
        assert isinstance(told, Tell)
        assert said in told.event.text
    assert world.core.jobs == {}


def test_tasks_that_no_engine_takes_stay_untuned_and_the_others_get_all_trials() -> None:
    world = World(tasks=3)
    whole = world.result

    def result(worker: FakeWorker, step: Step) -> StepResult:
        right = whole(worker, step)
        if isinstance(right.result, ImportDone):
            first, *rest = right.result.tasks
            tasks = [msgspec.structs.replace(first, engine=None), *rest]
            return msgspec.structs.replace(right, result=msgspec.structs.replace(right.result, tasks=tasks))
        return right

    world.result = result  # type: ignore[method-assign]
    world.publish(request(trials=30, batch=8))
    world.run("job")
    ledger = world.ledger("job")
    assert ledger.phase == "done"
    assert ledger.tasks[0].trials == 0
    assert sum(task.trials for task in ledger.tasks) == 30


def test_why_the_untuned_kernel_could_not_be_measured_is_kept() -> None:
    def silent(result: StepResult) -> StepResult:
        done = result.result
        assert isinstance(done, ProfileDone)
        said = msgspec.structs.replace(done, untuned=None, untuned_error="no device memory")
        return msgspec.structs.replace(result, result=said)

    world = spoilt("profile", silent, times=2)
    world.publish(request(trials=4, batch=2, chunk=2))
    world.run("job")
    assert {task.last_error for task in world.ledger("job").tasks} == {"no device memory"}
    assert world.ledger("job").phase == "done"
