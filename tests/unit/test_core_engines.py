"""The core on a mesh whose workers serve different engines."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.world import BLOB, World, objects_of, request
from tunemesh.coordinator.events import (
    Acknowledge,
    Arrived,
    Dispatch,
    Log,
    Save,
    Tell,
    Tick,
    WorkerSeen,
)
from tunemesh.coordinator.jobs import closing, progress, searches
from tunemesh.shared.messages import (
    Built,
    Candidate,
    Profiled,
    ProfileDone,
    ProfileWork,
    Request,
    Serves,
    Step,
    TaskState,
    UpdateDone,
    UpdateWork,
)

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
            world.strike(moments.pop(0)[1])
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
    assert builds == {("a", "mock"), ("b", "toy"), ("c", "mock"), ("c", "toy")}
    ledger = world.ledger("c")
    assert sum(task.trials for task in ledger.tasks) == ledger.request.level.trials
    assert [len(each) for each in searches.by_task(ledger.tasks)] == [2] * tasks
    for found in searches.by_task(ledger.tasks):
        # However often the coordinator was killed meanwhile.
        assert len({each.turns for search in found for each in search.confirmed}) == 1


def test_the_best_of_a_task_is_what_was_confirmed_whichever_engine_made_it() -> None:
    world = World(tasks=3, queues=MIXED, slowness={"mock": 100.0}, rng=random.Random(1))
    world.publish(with_engines(request(trials=240, batch=8, chunk=4), "mock", "toy"))
    world.run("job")
    ledger = world.ledger("job")
    for slow, fast in searches.by_task(ledger.tasks):
        assert (slow.spec.id, fast.spec.id) == (slow.spec.id, f"{slow.spec.id}.toy")
        assert (slow.spec.engine, fast.spec.engine) == ("mock", "toy")
        assert (slow.best or 0.0) > 10 * (fast.best or 100.0)
        assert searches.ahead([slow, fast]) is fast
        # The slow engine gets what shows that it is slow, and hardly more.
        assert slow.ended == "another engine is too far ahead"
        assert slow.trials < fast.trials
    told = world.events[-1].progress
    assert told is not None
    assert [task.id for task in told.tasks] == ["t00", "t01", "t02"]
    for task, (slow, fast) in zip(told.tasks, searches.by_task(ledger.tasks), strict=True):
        assert (task.engine, task.best, task.trials) == ("toy", fast.best, slow.trials + fast.trials)
        assert [(each.engine, each.trials, each.best) for each in task.searches] == [
            ("mock", slow.trials, slow.best),
            ("toy", fast.trials, fast.best),
        ]
    # The untuned kernel of a task was measured once, and all its searches are assembled with it.
    sent = [each.step for each in world.log if isinstance(each, Dispatch)]
    baselines = [step.task for step in sent if isinstance(step.work, ProfileWork) and step.work.baseline]
    assert sorted(baselines) == ["t00", "t01", "t02"]
    assert world.assembled_from is not None
    assert [each.untuned for each in world.assembled_from.tasks] == [100.0] * 6


def confirming(world: World) -> list[Step]:
    """Steps that were sent to measure what searches have found."""
    sent = [each.step for each in world.log if isinstance(each, Dispatch)]
    return [step for step in sent if isinstance(step.work, ProfileWork) and step.work.confirm]


def until(world: World, *queues: str) -> list[Step]:
    """Let everything happen but what workers on these queues do. Returns the steps that wait for them."""
    waiting = [worker for worker in world.workers if worker.queue in queues]
    while any([world.deliver(), *(world.work(each) for each in world.workers if each not in waiting)]):
        pass
    return [each.step for each in world.log if isinstance(each, Dispatch) and each.queue in queues]


def test_what_all_searches_of_a_task_have_found_is_measured_in_one_step() -> None:
    world = World(tasks=2, queues=MIXED, rng=random.Random(4))
    world.publish(with_engines(request(trials=32, batch=4), "mock", "toy"))
    world.run("job")
    first, second = confirming(world)
    for step, own in ((first, "t00"), (second, "t01")):
        work = step.work
        assert isinstance(work, ProfileWork)
        assert (step.task, [*work.rivals]) == (own, [f"{own}.toy"])
        assert [len(each) for each in (work.artifacts, *work.rivals.values())] == [2, 2]
    saved = [each.ledger for each in world.log if isinstance(each, Save)]
    for mock, toy in searches.by_task(world.ledger("job").tasks):
        assert {len(each.confirmed) for each in (mock, toy)} == {2}
        assert len({each.turns for each in (*mock.confirmed, *toy.confirmed)}) == 1
        closed = [{mock.spec.id, toy.spec.id} & {t.spec.id for t in each.tasks if t.closed} for each in saved]
        assert {len(each) for each in closed} == {0, 2}  # in one revision


def test_a_search_that_has_built_its_best_waits_for_the_others_of_its_task() -> None:
    world = World(tasks=1, queues=MIXED)
    world.publish(with_engines(request(trials=8, batch=4), "mock", "toy"))
    device = "profile-cpu-0"
    while not any(task.ending for task in (world.ledger("job").tasks if world.core.jobs else [])):
        world.turn()
    before = len(world.log)
    (held,) = [worker for worker in world.workers if worker.queue == "build-cpu.toy"]
    until(world, device, held.queue)
    since = [each for each in world.log[before:] if isinstance(each, Dispatch)]
    assert {each.step.id.rpartition("/")[2] for each in since} == {"model-update", "build"}
    assert {each.queue for each in since if each.step.id.endswith("/build")} == {"build-cpu", held.queue}
    ledger = world.ledger("job")
    before = len(world.log)
    assert world.work(held)
    until(world, device)
    acts = [each for each in world.log[before:] if not isinstance(each, Log | Tell)]
    key = ledger.tasks[0].spec.key[-4:]
    built = [Built(index=n, seconds=0.1, artifact=BLOB, objects=objects_of(f"{key}/{n}")) for n in range(2)]
    (sent,) = acts
    assert isinstance(sent, Dispatch)
    assert isinstance(sent.step.work, ProfileWork)
    assert sent.step.work == ProfileWork(
        task=ledger.tasks[0].spec,
        artifacts=built,
        rivals={"t00.toy": built},
        confirm=True,
        best=sent.step.work.best,
        untuned=100.0,
    )
    assert (sent.queue, sent.step.id) == (device, f"job/t00/{ledger.tasks[0].round}/0/profile")


def test_what_took_turns_says_who_is_ahead_and_by_how_much() -> None:
    world = World(tasks=1, queues=MIXED, slowness={"mock": 1.05}, rng=random.Random(9))
    world.publish(with_engines(request(trials=64, batch=8), "mock", "toy"))
    world.run("job")
    found = progress.progress(world.core.jobs["job"]).tasks[0]
    mock, toy = world.ledger("job").tasks
    best = {each.spec.engine: min(c.latencies[0] for c in each.confirmed) for each in (mock, toy)}
    other = next(engine for engine in best if engine != found.engine)
    behind = {each.engine: each.behind for each in found.searches}
    assert behind == {found.engine: None, other: pytest.approx(best[other] / best[found.engine or ""])}


@pytest.mark.parametrize("strikes", range(6))
def test_whatever_is_killed_while_searches_end_all_take_the_same_turns(strikes: int) -> None:
    """Of every kind of strike, one at each of the turns from the first search that ends to the last."""
    for turns in range(0, 60, 10):
        world = World(tasks=2, queues=MIXED, rng=random.Random(turns))
        world.publish(with_engines(request(trials=16, batch=4), "mock", "toy"))
        while not any(task.ending for task in (world.ledger("job").tasks if world.core.jobs else [])):
            world.turn()
        for _ in range(turns):
            world.turn()
        world.strike(strikes)
        world.run("job")
        ledger = world.ledger("job")
        assert ledger.phase == "done"
        assert sum(task.trials for task in ledger.tasks) == 16
        for found in searches.by_task(ledger.tasks):
            assert [len(search.confirmed) for search in found] == [2, 2]
            assert len({each.turns for search in found for each in search.confirmed}) == 1


@pytest.mark.parametrize(("most", "each"), [(3, [2, 1]), (2, [1, 1]), (1, [1, 0])])
def test_of_too_many_the_best_of_each_search_take_turns(
    most: int, each: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(closing, "MOST", most)
    world = World(tasks=1, queues=MIXED, rng=random.Random(2))
    world.publish(with_engines(request(trials=16, batch=4), "mock", "toy"))
    world.run("job")
    (step,) = confirming(world)
    assert isinstance(step.work, ProfileWork)
    assert [len(step.work.artifacts), len(step.work.rivals["t00.toy"])] == each
    assert [built.index for built in step.work.artifacts] == [*range(each[0])]
    assert [len(task.confirmed) for task in world.ledger("job").tasks] == each
    assert world.ledger("job").phase == "done"


def test_a_search_without_anything_near_the_best_is_not_waited_for() -> None:
    world = World(tasks=1, queues=MIXED, names={"mock": 0}, rng=random.Random(1))
    world.publish(with_engines(request(trials=32, batch=8), "mock", "toy"))
    world.run("job")
    (step,) = confirming(world)
    assert isinstance(step.work, ProfileWork)
    assert (step.task, step.work.rivals) == ("t00.toy", {})
    assert world.ledger("job").phase == "done"


def test_an_answer_for_other_searches_than_were_asked_makes_no_sense() -> None:
    one = Profiled(index=0, seconds=0.1, outcome="measured", latencies=[1.0])
    asked = {"t00.toy": [0]}
    right = ProfileDone(profiled=[one], rivals={"t00.toy": [one]})
    assert right.problem([0], False, asked) == ""
    missing = ProfileDone(profiled=[one])
    assert missing.problem([0], False, asked) == (
        "it answers for the searches none besides, asked were t00.toy"
    )
    assert "asked were none" in right.problem([0], False)
    worse = msgspec.structs.replace(one, latencies=[0.0])
    assert "is not above 0" in ProfileDone(profiled=[one], rivals={"t00.toy": [worse]}).problem(
        [0], False, asked
    )
    assert "asked were" in ProfileDone(profiled=[one], rivals={"t00.toy": []}).problem([0], False, asked)


def test_the_best_few_of_a_search_are_named_in_one_chunk() -> None:
    """What is measured in several steps takes no turns."""
    best = [Candidate(number, f"h{number}", b"") for number in range(2)]
    named = UpdateDone(state=TaskState(search=BLOB), candidates=best, chunk_size=2)
    assert named.problem(0, 3, 2, 8) == ""
    cut = msgspec.structs.replace(named, chunk_size=1)
    assert cut.problem(0, 3, 2, 8) == "it wants 2 candidates that are to take turns in chunks of 1"


def test_the_searches_of_a_task_know_of_each_other() -> None:
    world = World(tasks=1, queues=MIXED, rng=random.Random(3))
    world.publish(with_engines(request(trials=64, batch=8, chunk=8), "mock", "toy"))
    world.run("job")
    mock, toy = world.ledger("job").tasks
    sent = [each.step for each in world.log if isinstance(each, Dispatch)]
    closing = [step for step in sent if isinstance(step.work, UpdateWork) and not step.work.want]
    rivals = {step.task: step.work.rival for step in closing if isinstance(step.work, UpdateWork)}
    assert set(rivals) == {mock.spec.id, toy.spec.id}
    assert all(rival is not None and 1.0 <= rival < 12.0 for rival in rivals.values())
    later = [step.work for step in sent if isinstance(step.work, ProfileWork) and step.round > 0]
    least = {step.task: step.work.best for step in sent if isinstance(step.work, ProfileWork)}
    assert least["t00"] == pytest.approx(least["t00.toy"], rel=1.0)
    assert all(work.untuned == 100.0 for work in later)


def test_a_request_without_engines_has_all_that_are_served() -> None:
    world = World(tasks=1, queues=("model-update", "build-cpu", "profile-cpu-0"))
    asked = with_engines(request(trials=8, batch=4))
    world.publish(asked)
    for _ in range(100):
        world.turn()
    waiting = "waiting for workers on build-cpu and model-update that serve an engine"
    assert world.core.jobs["job"].waiting == waiting
    late = World(queues=("model-update.toy", "build-cpu.other+toy", "build-cpu.toy")).workers
    world.workers += late
    world.run("job")
    ledger = world.ledger("job")
    # ``other`` could build, and nobody could propose.
    assert (ledger.phase, ledger.request.engines) == ("done", ["toy"])
    world.publish(asked)
    world.settle()
    assert [event.kind for event in world.events if event.kind == "rejected"] == []


def test_what_follows_from_a_request_for_all_engines() -> None:
    world = World(tasks=1, queues=MIXED)
    world.settle()
    asked = with_engines(request(trials=8, batch=4))
    save, _ = world.does(Arrived(10**6, asked))
    assert isinstance(save, Save)
    chosen = msgspec.structs.replace(
        save.ledger, revision=2, request=msgspec.structs.replace(asked, engines=["toy"])
    )
    served = msgspec.structs.replace(save.ledger, revision=1)
    assert world.does(Arrived(10**6 + 1, save.ledger)) == [
        Acknowledge(10**6),
        Save(served),
        Save(chosen),
    ]
    assert world.does(Arrived(10**6 + 2, served)) == [Acknowledge(10**6 + 1)]
    acknowledged, sent = world.does(Arrived(10**6 + 3, chosen))
    assert acknowledged == Acknowledge(10**6 + 2)
    assert isinstance(sent, Dispatch)
    assert (sent.queue, sent.step.engines) == ("build-cpu.toy", ["toy"])


def test_both_searches_of_a_task_begin_at_once() -> None:
    world = World(tasks=1, queues=MIXED)
    world.settle()
    world.publish(with_engines(request(trials=8, batch=4), "mock", "toy"))
    while not any(isinstance(each, Dispatch) for each in world.log):
        world.deliver()
    (builder,) = [each for each in world.workers if each.queue == "build-cpu.toy"]
    assert world.work(builder)
    assert world.work(builder)
    world.log.clear()
    while world.deliver():
        pass
    sent = [each for each in world.log if isinstance(each, Dispatch)]
    ledger = world.ledger("job")
    assert [(each.queue, each.step.id) for each in sent] == [
        ("model-update", "job/t00/0/-/model-update"),
        ("model-update.toy", "job/t00.toy/0/-/model-update"),
    ]
    # As many chunks as workers build for the engine: each has something to do.
    assert [each.step.work for each in sent] == [
        UpdateWork(task=task.spec, want=2, chunk_size=size)
        for task, size in zip(ledger.tasks, (1, 2), strict=True)
    ]


def test_engines_are_chosen_so_that_one_worker_serves_them_all() -> None:
    queues = ("model-update.a+b", "model-update.c", "build-cpu.a", "build-cpu.b+c", "profile-cpu-0")
    world = World(tasks=2, queues=queues)
    world.publish(with_engines(request(trials=12, batch=4)))
    world.run("job")
    assert (world.ledger("job").phase, world.ledger("job").request.engines) == ("done", ["b", "c"])


@pytest.mark.parametrize(("effort", "each"), [("instant", [1, 0]), ("quick", [4, 4])])
def test_with_less_effort_the_engines_share_the_few_trials_of_a_task(effort: str, each: list[int]) -> None:
    world = World(tasks=2, queues=MIXED)
    world.publish(with_engines(request(trials=0, effort=effort), "mock", "toy"))
    world.run("job")
    ledger = world.ledger("job")
    assert [[task.trials for task in found] for found in searches.by_task(ledger.tasks)] == [each, each]
    assert ledger.quote is not None
    assert (ledger.quote.tasks, ledger.quote.trials) == (2, 2 * sum(each))


def test_what_is_known_of_a_task_serves_whichever_engine_made_it() -> None:
    world = World(tasks=2, queues=MIXED)
    world.publish(with_engines(request("first", trials=12), "mock", "toy"))
    world.run("first")
    second = with_engines(request("second", trials=12), "mock", "toy")
    world.publish(msgspec.structs.replace(second, known=["first"]))
    world.run("second")
    ledger = world.ledger("second")
    known, other, *tuned = ledger.tasks
    assert (known.best, known.trials, other.trials, other.best) == (0.25, 0, 0, None)
    assert known.ended == other.ended == "an earlier job has tuned it"
    assert all(task.trials for task in tuned)
    assert ledger.quote is not None
    assert (ledger.quote.tasks, ledger.quote.known) == (2, 1)


def test_jobs_share_the_searches_that_both_have() -> None:
    world = World(tasks=2, queues=MIXED)
    world.publish(with_engines(request("one", trials=40, batch=8, shared=True), "toy"))
    world.publish(with_engines(request("both", trials=40, batch=8, shared=True), "mock", "toy"))
    world.run("one", "both")
    for mock, toy in searches.by_task(world.ledger("both").tasks):
        assert mock.taken is None
        assert mock.trials > 0
        assert toy.taken is not None
        assert toy.taken.job == "one"
    assert world.ledger("both").phase == "done"


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
