"""What was measured for one job serves another."""

from __future__ import annotations

import msgspec
import pytest

from tests.unit.world import BLOB, KNOWN, TUNED, FakeWorker, World, request
from tunemesh.coordinator.events import Acknowledge, Arrived, Dispatch, Tell
from tunemesh.shared.messages import (
    AssembleWork,
    Conditions,
    Confirmed,
    Device,
    ImportDone,
    ImportWork,
    Request,
    Step,
    StepResult,
    TaskSpec,
    UpdateWork,
    WorkerStatus,
)
from tunemesh.shared.messages.levels import AUTO


def after(*known: str, job: str = "second", tenant: str = "") -> Request:
    """A request that takes over what was measured for other jobs."""
    return msgspec.structs.replace(request(job), known=list(known), tenant=tenant)


@pytest.fixture
def world() -> World:
    """One in which a job is done."""
    world = World(tasks=2)
    world.publish(request("first"))
    world.run("first")
    assert world.ledger("first").phase == "done"
    return world


def test_tasks_that_are_known_begin_closed_and_the_others_get_all_trials(world: World) -> None:
    world.publish(after("first"))
    world.run("second")
    ledger = world.ledger("second")
    assert ledger.phase == "done"
    known, tuned = ledger.tasks
    assert (known.trials, known.best, known.untuned, known.history) == (0, 0.25, 0.5, [TUNED])
    assert tuned.trials == ledger.request.level.trials
    assert world.profiled["second/t00"] == []


def with_trials(asked: Request, trials: int, **level: object) -> Request:
    return msgspec.structs.replace(asked, level=msgspec.structs.replace(asked.level, trials=trials, **level))


def test_trials_that_known_tasks_do_not_need_are_only_spent_where_they_pay() -> None:
    world = World(tasks=18)
    world.publish(request("first", 18, batch=1))
    world.run("first")
    world.publish(with_trials(after(*["first"] * 17), 1000))
    world.run("second")
    ledger = world.ledger("second")
    *_, last = ledger.tasks
    assert [task.trials for task in ledger.tasks[:-1]] == [0] * 17
    # An eighteenth of them is its own. A third of the model's latency is, for which 400 trials would pay.
    assert 1000 // 18 <= last.trials <= 200
    assert last.ended == "one more trial is expected to take less than 0.050% off the model's latency"
    assert ledger.quote is not None
    assert ledger.quote.trials == 1000


def test_whoever_asks_for_less_patience_gets_that() -> None:
    world = World(tasks=18)
    world.publish(request("first", 18, batch=1))
    world.run("first")
    world.publish(with_trials(after(*["first"] * 17), 1000, patience=0.01))
    world.run("second")
    assert world.ledger("second").tasks[-1].trials < 50


def test_a_job_that_knows_nothing_spends_all_its_trials() -> None:
    world = World(tasks=2)
    world.publish(request("job", 900))
    world.run("job")
    assert sum(task.trials for task in world.ledger("job").tasks) == 900


def test_a_job_whose_tasks_are_all_known_is_assembled_at_once(world: World) -> None:
    world.publish(after("first", "first"))
    world.run("second")
    ledger = world.ledger("second")
    assert ledger.phase == "done"
    assert [task.trials for task in ledger.tasks] == [0, 0]
    # That is what it was told before, too: only the model is put together and run.
    assert ledger.quote is not None
    assert (ledger.quote.known, ledger.quote.trials) == (2, 0)
    few = ledger.quote.device_seconds
    many = after("first", "first", job="third")
    world.publish(msgspec.structs.replace(many, level=msgspec.structs.replace(many.level, trials=5000)))
    world.run("third")
    quote = world.ledger("third").quote
    assert quote is not None
    assert quote.device_seconds == pytest.approx(few, rel=0.5)


def test_the_records_of_the_other_job_go_to_the_import_and_to_nobody_else(world: World) -> None:
    world.publish(after("first"))
    world.run("second")
    sent = [each.step for each in world.log if isinstance(each, Dispatch)]
    seen = [step.work for step in sent if step.job == "second"]
    imports = [work for work in seen if isinstance(work, ImportWork)]
    assert imports[0].known == [BLOB]
    assembled = next(work for work in seen if isinstance(work, AssembleWork))
    assert assembled.tasks[0].history == [TUNED]


def test_it_survives_another_coordinator(world: World) -> None:
    world.publish(after("first"))
    for _ in range(3):
        world.deliver()
    world.start_coordinator()
    world.run("second")
    assert world.ledger("second").tasks[0].best == 0.25


@pytest.mark.parametrize(
    ("known", "tenant"),
    [("nobody", ""), ("running", ""), ("first", "gold")],
    ids=["unknown", "open", "foreign"],
)
def test_only_a_job_of_the_same_tenant_that_is_done_serves_another(
    world: World, known: str, tenant: str
) -> None:
    world.publish(request("running"))
    world.deliver()
    acknowledged, told = world.does(Arrived(70_000, after(known, tenant=tenant), "client.x", "c"))
    assert acknowledged == Acknowledge(70_000)
    assert isinstance(told, Tell)
    assert told.event.kind == "rejected"
    assert told.event.text == f"it is to take what job {known} measured, which is not done, or not known here"


def test_a_worker_that_knows_what_is_no_task_of_an_engine_is_not_believed() -> None:
    spec = TaskSpec(id="t00", name="a", key="0" * 64, weight=1, workload=BLOB, untuned=BLOB)
    for known in ("t00", "t01"):
        done = ImportDone(model=BLOB, tasks=[spec], known={known: KNOWN})
        assert done.problem(["mock"]) == f"it knows {known}, which is no task that an engine takes"


@pytest.mark.parametrize("latencies", [[], [0.0], [1.0, 0.0]])
def test_a_worker_that_knows_what_took_no_time_is_not_believed(latencies: list[float]) -> None:
    spec = TaskSpec(id="t00", name="a", key="0" * 64, weight=1, engine="mock", workload=BLOB, untuned=BLOB)
    known = msgspec.structs.replace(KNOWN, confirmed=[Confirmed(hash="h", latencies=latencies)])
    done = ImportDone(model=BLOB, tasks=[spec], known={"t00": known})
    assert "without a latency, or with one that is not above 0" in done.problem(["mock"])


@pytest.mark.parametrize(
    ("searched", "trials", "given", "used"),
    [
        # A job whose tasks get five trials each, on average.
        (5.0, 10, {}, True),
        (4.9, 10, {}, False),
        (4.9, 10, {"known": "only"}, True),
        (None, 10, {}, True),
        # More than a round has is not asked for.
        (32.0, 1000, {}, True),
        (31.0, 1000, {}, False),
        # The model chooses: a few for each, and more where it pays.
        (8.0, AUTO, {}, True),
        (7.5, AUTO, {}, False),
    ],
)
def test_what_is_known_serves_a_job_that_would_not_search_longer(
    searched: float | None, trials: int, given: dict[str, object], used: bool
) -> None:
    world = World(tasks=2)
    found = msgspec.structs.replace(KNOWN, searched=searched)
    original = world.result

    def result(worker: FakeWorker, step: Step) -> StepResult:
        message = original(worker, step)
        if isinstance(message.result, ImportDone):
            told = msgspec.structs.replace(message.result, known={"t00": found})
            return msgspec.structs.replace(message, result=told)
        return message

    world.result = result  # type: ignore[method-assign]
    world.publish(request("job", trials, **given))
    world.run("job")
    first = world.ledger("job").tasks[0]
    assert world.ledger("job").phase == "done"
    assert (first.trials == 0, first.ended == "an earlier job has tuned it") == (used, used)


def test_who_asks_the_records_is_told_of_the_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """The import, and the first update of a task; those after that know what they need."""
    device = Device(conditions=Conditions(device="EPYC", versions="1"), cache=7)
    status = FakeWorker.status

    def announced(worker: FakeWorker, leaving: bool = False) -> WorkerStatus:
        found = status(worker, leaving)
        if not found.serves.targets:
            return found
        return msgspec.structs.replace(found, serves=msgspec.structs.replace(found.serves, device=device))

    monkeypatch.setattr(FakeWorker, "status", announced)
    world = World(tasks=2)
    world.publish(request("job"))
    world.run("job")
    told = [
        (step.round, step.work.devices)
        for step in (each.step for each in world.log if isinstance(each, Dispatch))
        if isinstance(step.work, ImportWork | UpdateWork)
    ]
    assert {number for number, _ in told} > {0}
    assert all(devices == ([device] if number == 0 else []) for number, devices in told)
