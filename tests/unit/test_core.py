"""The core, without broker or clock.

Over 400 lines: all of them are about one job in one world.
"""

from __future__ import annotations

import random
import statistics

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.unit.world import BLOB, OBJECTS, SAMPLE, TUNED, World, objects_of, request
from tunemesh.coordinator.events import (
    Acknowledge,
    Answer,
    Arrived,
    Dispatch,
    QueueSeen,
    Save,
    Tell,
    Tick,
    WorkerSeen,
)
from tunemesh.coordinator.jobs import progress
from tunemesh.coordinator.jobs.ledger import Ledger, TaskLedger
from tunemesh.coordinator.journal.replay import replay
from tunemesh.shared import codec
from tunemesh.shared.messages import (
    Blob,
    BuildDone,
    BuildWork,
    Built,
    Cancel,
    Failure,
    ImportWork,
    Origin,
    Query,
    SetStrategy,
    Step,
    StepResult,
    TaskSpec,
    Timing,
    UpdateWork,
    Usage,
    ValidateDone,
)


def trials(ledger: Ledger) -> int:
    return sum(task.trials for task in ledger.tasks)


STRATEGIES = ["sequential", "uncontrolled", "interleaved", "fair:a=3", "predictive"]


def learned(ledger: Ledger) -> int:
    """Trials that the engine has learned from; none of them twice."""
    hashes = [h for t in ledger.tasks for blob in t.history for h in (blob.data or b"").decode().split()]
    assert len(hashes) == len(set(hashes))
    return len(hashes)


def test_a_job_runs_through_all_stages_and_ends_with_exactly_its_trials() -> None:
    world = World(tasks=3)
    world.publish(request(trials=37, batch=8, chunk=3))
    world.run("job")
    ledger = world.ledger("job")
    assert ledger.phase == "done"
    assert trials(ledger) == 37
    assert [e.kind for e in world.events if e.kind != "progress"] == ["accepted", "done"]


@pytest.mark.parametrize(
    ("tuned", "result", "text"),
    [
        (1.0, TUNED, "2000.000 ms -> 1000.000 ms (2.0x)"),
        (2.02, TUNED, "2000.000 ms -> 2020.000 ms (1.0x)"),
        (2.5, BLOB, "2000.000 ms, untuned: tuned it would take 2500.000 ms"),
    ],
)
def test_a_model_that_tuning_made_slower_is_not_handed_out(tuned: float, result: Blob, text: str) -> None:
    found = ValidateDone(latency_before=2.0, latency_after=tuned, largest_difference=0.0, equal=True)
    world = World(validated=found)
    world.publish(request())
    world.run("job")
    done = world.events[-1]
    assert (done.kind, done.text) == ("done", text)
    assert done.assembled is not None
    assert done.validated is not None
    assert (done.assembled.tuned, done.assembled.untuned) == (result, BLOB)
    said = (done.validated.latency_after, done.validated.rejected)
    assert said == ((tuned, None) if result is TUNED else (2.0, tuned))


def test_what_import_kept_goes_to_validate() -> None:
    world = World()
    world.publish(request())
    world.run("job")
    assert world.compared_with == SAMPLE


@given(st.integers(0, 10**6), st.sampled_from([0, 1]), st.sampled_from(["cancel", "fail"]))
@settings(max_examples=40, deadline=None)
def test_no_trial_is_lost_with_a_job_that_ends_before_it_is_done(seed: int, ahead: int, how: str) -> None:
    rng = random.Random(seed)
    world = World(tasks=rng.randint(1, 3), rng=rng)
    world.publish(request(trials=60, batch=6, chunk=2, lookahead=ahead))
    for _ in range(rng.randint(1, 400)):
        world.turn()
    if "job" not in world.core.jobs or world.core.jobs["job"].ended:
        return
    if how == "cancel":
        world.publish(Cancel(job="job"))
    else:
        original = world.result

        def result(worker: object, step: object) -> StepResult:
            message = original(worker, step)  # type: ignore[arg-type]
            return msgspec.structs.replace(message, result=Failure(error="it broke"))

        world.result = result  # type: ignore[method-assign]
    world.run("job")
    ledger = world.ledger("job")
    for task in ledger.tasks:
        # The size of a history is its number of trials here.
        assert sum(blob.size for blob in task.history) + len(task.rest) == task.trials
    final = [event for event in world.events if event.kind in ("failed", "cancelled", "done")][-1]
    tried = [task for task in ledger.tasks if task.trials]
    if ledger.phase == "done":
        assert final.measured == []
    else:
        told = {records.task.id: records for records in final.measured}
        assert [told[task.spec.id].history for task in tried] == [task.history for task in tried]
        assert [told[task.spec.id].trials for task in tried] == [task.rest for task in tried]


def test_a_model_that_computes_something_else_is_not_handed_out() -> None:
    wrong = ValidateDone(
        latency_before=1.0, latency_after=2.0, largest_difference=9.0, equal=False, wrong="output y"
    )
    world = World(validated=wrong)
    world.publish(request())
    world.run("job")
    assert world.ledger("job").error == "the tuned model does not compute what it should: output y"
    world.give(Arrived(7, Query(job="job"), reply_to="c", correlation_id="c"))
    (answer,) = [each for each in world.log if isinstance(each, Answer)]
    assert answer.snapshot.assembled is None


def test_a_chunk_on_its_way_to_the_device_counts_neither_as_tried_nor_as_failed() -> None:
    world = World(tasks=1)
    world.publish(request(trials=8, batch=8, chunk=8))
    device = world.workers[2]
    while device.doing is None or device.doing[1].work.__class__.__name__ != "ProfileWork":
        world.turn()
    task = progress.progress(world.core.jobs["job"]).tasks[0]
    assert (task.trials, task.outcomes) == (0, {})


def test_no_candidate_is_tried_twice_and_all_history_is_kept() -> None:
    world = World(tasks=2)
    world.publish(request(trials=50, batch=8, chunk=8))
    world.run("job")
    for done in world.profiled.values():
        assert len(done) == len(set(done))
    assert learned(world.ledger("job")) == 50


def test_trials_that_a_small_space_gives_back_go_to_the_other_tasks() -> None:
    world = World(tasks=2, space=10)
    world.publish(request(trials=100, batch=8))
    world.run("job")
    assert trials(world.ledger("job")) == 20
    assert all(task.exhausted for task in world.ledger("job").tasks)


def test_fewer_trials_than_tasks_leaves_some_tasks_untuned() -> None:
    world = World(tasks=5)
    world.publish(request(trials=2))
    world.run("job")
    assert world.ledger("job").phase == "done"
    assert trials(world.ledger("job")) == 2
    # The heaviest tasks were chosen.
    assert [task.trials for task in world.ledger("job").tasks] == [0, 0, 0, 1, 1]


def test_a_model_without_tasks_is_still_assembled() -> None:
    world = World(tasks=0)
    world.publish(request())
    world.run("job")
    assert world.ledger("job").phase == "done"


def test_everything_is_acknowledged_in_the_end_but_the_last_ledger() -> None:
    world = World()
    world.publish(request())
    world.run("job")
    assert [type(m) for m in world.coordinator.values()] == [Ledger]


def test_nothing_is_dispatched_before_the_ledger_is_back() -> None:
    world = World(seed="")
    world.settle()
    asked = request()
    save, told = world.does(Arrived(10**6, asked))
    assert isinstance(save, Save)
    assert isinstance(told, Tell)
    assert (told.event.kind, told.event.text) == ("accepted", "job: 20 trials for mock")
    accepted = save.ledger
    assert accepted == Ledger(request=asked, revision=0, phase="importing", accepted=accepted.accepted)
    # A device serves the target: that is saved, and only then the model is imported.
    served = msgspec.structs.replace(accepted, revision=1)
    assert world.does(Arrived(10**6 + 1, accepted)) == [Acknowledge(10**6), Save(served)]
    step = Step(
        id="job/-/-/-/import",
        job="job",
        engines=["mock"],
        target="mock",
        seed=0,
        settings=asked.settings,
        work=ImportWork(model=BLOB),
        origin=Origin(job="job", accepted=accepted.accepted),
    )
    assert world.does(Arrived(10**6 + 2, served)) == [Acknowledge(10**6 + 1), Dispatch("build-cpu", step)]


def test_the_same_request_twice_is_one_job() -> None:
    world = World()
    world.publish(request())
    world.publish(request())
    world.run("job")
    assert [e.kind for e in world.events].count("done") == 1
    assert len(world.core.jobs) == 1


def test_more_rounds_than_a_ledger_can_hold_are_refused_at_once() -> None:
    world = World()
    world.settle()
    out = world.give(Arrived(10**6, request(trials=64_001, batch=8), reply_to="client.x"))
    (told,) = [each for each in out if isinstance(each, Tell)]
    assert told.event.kind == "rejected"
    assert "64,001 trials in batches of 8 are more than 8,000 rounds" in told.event.text
    assert any(isinstance(each, Acknowledge) for each in out)


def test_another_request_of_the_same_id_is_refused_to_its_sender_only() -> None:
    world = World()
    world.publish(request())
    world.settle()
    world.deliver()
    out = world.give(Arrived(10**6, request(trials=99), reply_to="client.x"))
    told = [i for i in out if isinstance(i, Tell)]
    assert [(t.event.kind, t.reply_to) for t in told] == [("rejected", "client.x")]


def test_a_second_result_of_the_same_step_is_dropped() -> None:
    world = World()
    world.publish(request(trials=20))
    done = set()
    for _ in range(3000):
        world.turn()
        for message in list(world.coordinator.values()):
            if isinstance(message, StepResult) and message.timing.step not in done:
                done.add(message.timing.step)
                world.publish(message)
    assert world.ledger("job").phase == "done"
    assert trials(world.ledger("job")) == 20


def test_a_step_that_fails_as_a_whole_fails_its_job_and_no_other() -> None:
    world = World()
    world.publish(request("bad"))
    world.publish(request("good"))
    original = world.result

    def result(worker: object, step: object) -> StepResult:
        message = original(worker, step)  # type: ignore[arg-type]
        if message.job == "bad" and message.timing.stage == "build":
            return StepResult(
                job="bad",
                task=message.task,
                round=message.round,
                chunk=message.chunk,
                timing=message.timing,
                result=Failure(error="artifact is damaged"),
                nonce=message.nonce,
            )
        return message

    world.result = result  # type: ignore[method-assign]
    world.run("bad", "good")
    assert world.ledger("bad").phase == "failed"
    assert "artifact is damaged" in world.ledger("bad").error
    assert world.ledger("good").phase == "done"


def test_when_no_candidate_can_be_built_the_job_fails_with_the_last_error() -> None:
    world = World()
    original = world.result

    def result(worker: object, step: object) -> StepResult:
        message = original(worker, step)  # type: ignore[arg-type]
        if isinstance(message.result, BuildDone):
            broken = [
                Built(index=b.index, seconds=0.1, outcome="build-failed", error="no linker")
                for b in message.result.built
            ]
            return StepResult(
                job=message.job,
                task=message.task,
                round=message.round,
                chunk=message.chunk,
                timing=message.timing,
                result=BuildDone(built=broken),
                nonce=message.nonce,
            )
        return message

    world.result = result  # type: ignore[method-assign]
    world.publish(request(trials=16))
    world.run("job")
    assert world.ledger("job").phase == "failed"
    assert "none of 16 trials" in world.ledger("job").error
    assert "no linker" in world.ledger("job").error


def check_cancelled(world: World) -> None:
    """The job ends so, and nothing but its last ledger stays behind."""
    world.run("job")
    assert world.ledger("job").phase == "cancelled"
    for _ in range(200):
        world.turn()
    assert [type(m) for m in world.coordinator.values()] == [Ledger]


def test_cancel_ends_a_job_and_releases_what_is_held() -> None:
    world = World()
    world.publish(request(trials=1000))
    for _ in range(300):
        world.turn()
    world.publish(Cancel(job="job"))
    check_cancelled(world)


def test_a_target_that_no_device_serves_fails_the_job_and_names_what_there_is() -> None:
    world = World(queues=("model-update", "build-cpu"))
    world.publish(request())
    for _ in range(200):
        world.pass_time(0.5)
        world.deliver()
    assert world.ledger("job").phase == "failed"
    assert "no device serves target mock" in world.ledger("job").error


def test_whoever_follows_a_job_is_told_soon_that_no_device_serves_its_target() -> None:
    world = World()
    world.publish(msgspec.structs.replace(request(), target="cuda"))
    for _ in range(10):
        world.pass_time(0.5)
        world.deliver()
    [told] = [event for event in world.events if event.kind == "progress"]
    assert told.text == "no device serves target cuda"
    assert told.progress is not None
    assert told.progress.waiting == told.text
    assert [each.targets for each in told.resources if each.targets] == [["mock"]]


def test_a_lost_device_gives_its_step_to_another_of_the_same_target() -> None:
    world = World(queues=("model-update", "build-cpu", "profile-cpu-0", "profile-cpu-1"))
    world.publish(request(trials=30, batch=8, chunk=2))
    lost = world.workers[2]
    for _ in range(5000):
        world.turn()
        if lost.doing is not None:
            break
    world.kill(lost)
    world.run("job")
    assert world.ledger("job").phase == "done"
    assert trials(world.ledger("job")) == 30


def test_a_lost_device_without_a_twin_is_waited_for_visibly() -> None:
    world = World()
    world.publish(request(trials=30, batch=8, chunk=2))
    lost = world.workers[2]
    for _ in range(5000):
        world.turn()
        if lost.doing is not None:
            break
    world.kill(lost)
    for _ in range(100):
        world.turn()
        world.pass_time(0.5)
    assert not world.core.jobs["job"].ended
    assert "waiting for a worker for profile:mock" in world.core.jobs["job"].waiting
    world.revive(lost)
    world.run("job")
    assert trials(world.ledger("job")) == 30


def test_sequential_runs_one_step_at_a_time_and_one_job_after_the_other() -> None:
    world = World(strategy="sequential")
    world.publish(request("a"))
    world.publish(request("b"))
    running = 0
    order: list[str] = []
    while not all(j in world.core.jobs and world.core.jobs[j].ended for j in ("a", "b")):
        world.turn()
        running = sum(len(q.flights) for q in world.core.resources.queues.values())
        assert running <= 1
        order += [s.job for q in world.stage.values() for _, s in q]
    assert order == sorted(order)


def test_a_step_that_a_cross_check_saw_waiting_does_not_hold_up_the_next_one() -> None:
    world = World(tasks=1)
    world.settle()
    world.publish(request(trials=40, batch=8, chunk=4))
    steps = world.stage["build-cpu"]
    while not (steps and isinstance(steps[0][1].work, BuildWork)):
        assert world.deliver() or any(world.work(worker) for worker in world.workers)
    (builder,) = [worker for worker in world.workers if worker.queue == "build-cpu"]
    first = steps[0]
    world.check()
    while first in steps or builder.doing:
        assert world.work(builder)
    while world.deliver():
        pass
    assert len(steps) == 1, "the second chunk waits for another cross-check"


def test_steps_of_somebody_else_in_a_queue_are_waited_for() -> None:
    world = World(tasks=1)
    world.settle()
    world.publish(request(trials=8, batch=8, chunk=8))
    while world.deliver():
        pass
    (builder,) = [worker for worker in world.workers if worker.queue == "build-cpu"]
    assert world.work(builder)  # takes the import
    world.give(QueueSeen("model-update", 1, 1))
    assert world.work(builder)
    while world.deliver():
        pass
    assert not world.stage["model-update"]
    world.check()
    assert world.stage["model-update"]


def test_a_worker_that_has_left_gets_nothing() -> None:
    world = World()
    world.settle()
    for worker in world.workers:
        world.give(WorkerSeen(worker.status(leaving=True)))
    world.give(Arrived(10**6, request()))
    assert not any(isinstance(i, Dispatch) for i in world.log)
    assert not any(isinstance(i, Dispatch) for i in world.give(Tick()))


@pytest.mark.parametrize("strategy", STRATEGIES)
@example(seed=4, kills=[(105, 4)], tasks=4, trials_a=5, trials_b=4, lookahead=0, switch=None)
@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    kills=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 4)), max_size=8),
    tasks=st.integers(1, 4),
    trials_a=st.integers(1, 40),
    trials_b=st.integers(0, 40),
    lookahead=st.integers(0, 1),
    switch=st.none() | st.tuples(st.integers(1, 300), st.sampled_from(STRATEGIES)),
)
def test_whatever_is_killed_every_job_ends_with_every_trial_counted_once(
    strategy: str,
    seed: int,
    kills: list[tuple[int, int]],
    tasks: int,
    trials_a: int,
    trials_b: int,
    lookahead: int,
    switch: tuple[int, str] | None,
) -> None:
    """Invariants 1 to 3: kills of workers and coordinator at any moment, in any order, and another strategy
    meanwhile. A job that is alone looks ahead."""
    world = World(
        tasks=tasks,
        strategy=strategy,
        rng=random.Random(seed),
        queues=("model-update", "build-cpu", "profile-cpu-0", "build-cpu"),
    )
    jobs = {"a": trials_a, "b": trials_b}
    jobs = {job: count for job, count in jobs.items() if count}
    for job, count in jobs.items():
        world.publish(request(job, trials=count, batch=8, chunk=2, lookahead=lookahead))
    moments = sorted(kills)
    turn = 0
    while moments or (switch is not None and turn <= switch[0]):
        turn += 1
        world.turn()
        if switch is not None and turn == switch[0]:
            world.publish(SetStrategy(strategy=switch[1], at=1.0))
        while moments and moments[0][0] <= turn:
            world.strike(moments.pop(0)[1])
    world.run(*jobs)
    for job, count in jobs.items():
        assert world.ledger(job).phase == "done"
        assert trials(world.ledger(job)) == count
        assert learned(world.ledger(job)) == count
    kept = sorted(type(message).__name__ for message in world.coordinator.values())
    assert kept == ["Ledger"] * len(jobs) + ["SetStrategy"] * (switch is not None)
    # The whole story once more, from what was written down.
    assert list(replay(world.records)) == []
    if switch is not None:
        assert world.core.strategy == switch[1]
    elif not kills and strategy != "uncontrolled":
        assert world.largest_backlog <= 0


@pytest.mark.parametrize("strategy", STRATEGIES)
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    moment=st.integers(0, 400),
    kills=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 4)), max_size=4),
    tasks=st.integers(1, 4),
    count=st.integers(1, 200),
    lookahead=st.integers(0, 1),
)
def test_a_job_that_is_stopped_early_keeps_whatever_was_measured(
    strategy: str,
    seed: int,
    moment: int,
    kills: list[tuple[int, int]],
    tasks: int,
    count: int,
    lookahead: int,
) -> None:
    world = World(tasks=tasks, strategy=strategy, rng=random.Random(seed))
    world.publish(request(trials=count, batch=16, chunk=2, lookahead=lookahead))
    moments = sorted([(moment, -1), *kills])
    turn = 0
    while moments:
        turn += 1
        world.turn()
        while moments and moments[0][0] <= turn:
            _, victim = moments.pop(0)
            if victim == -1:
                world.publish(Cancel(job="job", keep=True))
            else:
                world.strike(victim)
    world.run("job")
    ledger = world.ledger("job")
    measured = {(task, *each) for task, done in world.profiled.items() for each in done}
    assert trials(ledger) <= count
    if ledger.phase == "cancelled":
        assert "before anything was measured" in ledger.error
    else:
        assert ledger.phase == "done"
        assert trials(ledger) == learned(ledger) == len(measured)
        assert ledger.stopped or trials(ledger) == count
    for _ in range(200):
        world.turn()
    assert [type(m) for m in world.coordinator.values()] == [Ledger]


def test_stopping_early_leaves_out_what_was_not_begun() -> None:
    world = World(tasks=4, rng=random.Random(3))
    world.publish(request(trials=1000, batch=64, chunk=2, lookahead=0))
    while not any(world.profiled.values()):
        world.turn()
    started = sum(isinstance(each, Dispatch) and each.step.id.endswith("/build") for each in world.log)
    world.publish(Cancel(job="job", keep=True))
    while not world.core.jobs["job"].ledger.stopped:
        world.turn()
    before = len(world.log)
    world.run("job")
    assert world.ledger("job").phase == "done"
    updates = [each.step.work for each in world.log[before:] if isinstance(each, Dispatch)]
    assert {work.want for work in updates if isinstance(work, UpdateWork)} == {0}
    # What was begun when the wish arrived, of 500 chunks; a few more were begun while it was on its way.
    assert 2 * started <= trials(world.ledger("job")) <= 2 * started + 20
    assert any("stopping early" in event.text for event in world.events)


def test_a_lone_job_looks_ahead_at_most_one_round_and_learns_every_trial_once() -> None:
    world = World(tasks=1, rng=random.Random(1))
    world.publish(request(trials=64, batch=8, chunk=2))
    staleness = 0
    while not (world.core.jobs and world.core.jobs["job"].ended):
        world.turn()
        job = world.core.jobs.get("job")
        if job is not None and job.ledger.tasks:
            task = job.ledger.tasks[0]
            staleness = max(staleness, task.round - task.folded)
    assert world.ledger("job").tasks[0].rounds_ahead > 0
    assert staleness == 2
    assert learned(world.ledger("job")) == 64


def test_no_lookahead_when_it_is_switched_off_or_when_another_job_fills_the_gap() -> None:
    alone = World(tasks=1, rng=random.Random(1))
    alone.publish(request(trials=64, batch=8, chunk=2, lookahead=0))
    alone.run("job")
    assert alone.ledger("job").tasks[0].rounds_ahead == 0
    together = World(tasks=1, rng=random.Random(1))
    together.publish(request("a", trials=64, batch=8, chunk=2))
    together.publish(request("b", trials=640, batch=8, chunk=2))
    together.run("a")
    assert together.ledger("a").tasks[0].rounds_ahead == 0


def test_the_best_few_are_confirmed_before_a_task_is_closed() -> None:
    world = World(tasks=1)
    world.publish(request(trials=16))
    world.run("job")
    task = world.ledger("job").tasks[0]
    assert len(task.confirmed) == 2
    assert task.trials == 16
    assert task.best == min(statistics.median(each.latencies) for each in task.confirmed)


def test_what_was_compiled_before_goes_to_assemble() -> None:
    world = World(tasks=2)
    world.publish(request(trials=16))
    world.run("job")
    assert world.assembled_from is not None
    assert world.assembled_from.objects == OBJECTS
    confirmed = [each for records in world.assembled_from.tasks for each in records.confirmed]
    assert len(confirmed) == 4
    assert [each.objects for each in confirmed] == [objects_of(each.hash) for each in confirmed]


def test_another_strategy_is_taken_over_by_a_successor_and_an_unknown_one_is_refused() -> None:
    world = World()
    world.settle()
    world.publish(SetStrategy(strategy="fair:gold=3", at=2.0))
    world.deliver()
    assert world.core.strategy == "fair:gold=3"
    world.start_coordinator()
    world.settle()
    world.pass_time(1.0)
    assert world.core.strategy == "fair:gold=3"
    answers = world.does(Arrived(10**6, SetStrategy(strategy="best", at=3.0), reply_to="client.1"))
    assert [type(each) for each in answers] == [Acknowledge, Tell]
    assert "unknown strategy 'best'; there are: fair, interleaved" in answers[1].event.text  # type: ignore[union-attr]
    for at, cause in ((1.0, "fair:gold=3 was set later"), (world.now + 1e9, "lies in the future")):
        late = Arrived(10**6, SetStrategy(strategy="sequential", at=at), "client.1", "asked")
        acknowledged, told = world.does(late)
        assert isinstance(acknowledged, Acknowledge)
        assert isinstance(told, Tell)
        assert (told.event.kind, told.reply_to, told.correlation_id) == ("rejected", "client.1", "asked")
        assert cause in told.event.text
        assert world.core.strategy == "fair:gold=3"


def test_a_cancel_is_held_until_it_is_saved() -> None:
    world = World()
    world.publish(request(trials=1000))
    for _ in range(100):
        world.turn()
    world.publish(Cancel(job="job"))
    handle = max(world.coordinator)
    while handle not in world.delivered:
        assert world.deliver()
    assert world.core.jobs["job"].ended
    world.start_coordinator()  # before the last ledger was delivered, and perhaps before it was published
    for number, message in list(world.coordinator.items()):
        if isinstance(message, Ledger) and message.phase == "cancelled":
            del world.coordinator[number]
    check_cancelled(world)


def test_a_device_that_a_job_has_seen_is_waited_for_after_a_restart() -> None:
    world = World()
    world.settle()
    device = world.workers[2]
    importer = world.workers[1]
    world.publish(request(trials=8))
    while importer.doing is None:
        world.turn()
    world.kill(device)
    world.kill(importer)
    world.start_coordinator()  # this one knows of no device
    for _ in range(300):
        world.pass_time(0.5)
        world.deliver()
    assert world.ledger("job").phase == "importing"
    assert "no device serves target mock" in world.core.jobs["job"].waiting
    world.revive(device)
    world.revive(importer)
    world.run("job")
    assert world.ledger("job").phase == "done"


def test_a_list_of_all_jobs_fits_into_a_message_however_many_there_are() -> None:
    devices = tuple(f"profile-cpu-{number}" for number in range(500))
    world = World(queues=("model-update", "build-cpu", *devices))
    world.settle()
    timing = Timing(
        step="job/-/-/-/import", stage="import", resource="build-cpu", worker="w", started=1.0, finished=2.0
    )
    spec = TaskSpec(id="t00", name="n" * 40, key="0" * 64, weight=1, workload=BLOB, untuned=BLOB)
    task = TaskLedger(spec=spec, trials=64, outcomes={"measured": 64}, last_error="e" * 2000, closed=True)
    for number in range(3000):
        tasks = [task] * (number % 20)
        ended = number % 3 > 0
        ledger = Ledger(
            request=request(f"job{number}"),
            revision=1,
            phase="failed" if ended else "tuning",
            accepted=float(number),
            finished=float(number) if ended else None,
            tasks=tasks,
            timings=[timing] * 60,
            error="e" * 2000 if ended else "",
            usage={device: Usage(steps=100, busy=1.5) for device in devices[:200]},
        )
        world.give(Arrived(10**6 + number, ledger))
    answer = world.give(Arrived(10**7, Query(job=None), reply_to="client.1"))[-1]
    assert isinstance(answer, Answer)
    assert len(codec.encode(answer.snapshot)) < codec.MAX_MESSAGE
    listed = {each.job for each in answer.snapshot.jobs}
    assert len(listed) + answer.snapshot.left_out == 3000
    assert len(listed) > 100
    assert {f"job{number}" for number in range(2970, 3000, 3)} < listed
    # The list goes on for whoever asks for the rest.
    while left_out := answer.snapshot.left_out:
        asked = Query(skip=3000 - left_out)
        answer = world.give(Arrived(10**7 + left_out, asked, reply_to="client.1"))[-1]
        assert isinstance(answer, Answer)
        assert not listed & {each.job for each in answer.snapshot.jobs}
        listed |= {each.job for each in answer.snapshot.jobs}
    assert len(listed) == 3000
    one = world.give(Arrived(10**7 + 1, Query(job="job5"), reply_to="client.1"))[-1]
    assert isinstance(one, Answer)
    assert (len(one.snapshot.jobs[0].timings), one.snapshot.left_out) == (60, 0)
