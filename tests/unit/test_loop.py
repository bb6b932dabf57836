"""The consumer loop without a broker."""

from __future__ import annotations

import itertools
import logging
import queue
import time
from concurrent.futures import Future
from typing import Any, cast

import msgspec
import pytest

from tunemesh.shared import codec
from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.errors import Unavailable
from tunemesh.shared.messages import (
    Blob,
    Failure,
    ImportDone,
    ImportWork,
    Origin,
    Serves,
    Settings,
    Step,
    StepResult,
    Timing,
    WorkerStatus,
)
from tunemesh.shared.transport.link import Delivery, Link, Outgoing, QueueDepth, Up
from tunemesh.stage_workers import device_guard, loop
from tunemesh.stage_workers.done_before import Memory
from tunemesh.stage_workers.loop import Worker, waited
from tunemesh.stage_workers.platforms.protocol import Platform, ReferenceOutcome
from tunemesh.stage_workers.sandbox.sandbox import CallFailure, Sandbox
from tunemesh.stage_workers.shutdown import Shutdown
from tunemesh.stage_workers.stages import Context, DeviceFault
from tunemesh.stage_workers.stages.context import Learning
from tunemesh.stage_workers.status import StatusSender

STEP = Step(
    id="j/-/0/0/import",
    job="j",
    engines=["mock"],
    target="mock",
    seed=0,
    settings=Settings(),
    work=ImportWork(model=Blob("0" * 64, 0)),
)


class FakeLink:
    """Takes everything; has a queue with one step in it."""

    def __init__(self, body: bytes) -> None:
        self.events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.events.put(Up(1))
        self.published: list[Outgoing] = []
        self.settled: list[str] = []
        self._body = body

    def next(self, timeout: float) -> Any:
        try:
            return self.events.get(timeout=max(timeout, 0.0))
        except queue.Empty:
            return None

    def depth(self, _name: str) -> Future[QueueDepth]:
        return _done(QueueDepth(1, 0))

    def consume(self, _up: Up, _subscription: object) -> None:
        self.events.put(
            Delivery(1, 1, "build-cpu", "x", "build-cpu", self._body, "id", None, None, time.time())
        )

    def publish(self, message: Outgoing) -> Future[None]:
        self.published.append(message)
        return _done(None)

    def ack(self, _delivery: Delivery) -> None:
        self.settled.append("acknowledged")

    def hand_back(self, _delivery: Delivery) -> None:
        self.settled.append("handed back")

    def stop_consuming(self) -> None:
        pass


class ReadySandbox:
    """Measures the reference kernel; before that come ``answers``."""

    renewed = 0

    cage = "namespaces"

    def __init__(self, *answers: CallFailure) -> None:
        self.answers = list(answers)

    def ready(self, _timeout: float) -> bool:
        return True

    def renew(self) -> None:
        self.renewed += 1

    def call(self, _callee: str, method: Any, _record: object, _limit: float) -> Any:
        assert method is Platform.reference
        return self.answers.pop(0) if self.answers else ReferenceOutcome(latencies=[1e-3] * 5)


def _done(value: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(value)
    return future


def run(store: ArtifactStore, engines: list[str], learning: Learning | None = None) -> FakeLink:
    """A worker that leaves after its first step."""
    step = msgspec.structs.replace(STEP, work=ImportWork(model=store.put(b"model")))
    link = FakeLink(codec.encode(step))
    sandbox = cast(Sandbox, ReadySandbox())
    shutdown = Shutdown(1.0)
    status = StatusSender(cast(Link, link), "w", "build-cpu", Serves(engines=["mock"]), 60.0)
    context = Context(sandbox, store, learning=learning)
    worker = Worker("build-cpu", engines, cast(Link, link), sandbox, context, status, shutdown)
    settle = link.ack

    def ack(delivery: Delivery) -> None:
        settle(delivery)
        shutdown.asked = True

    link.ack = ack  # type: ignore[method-assign]
    worker.run()
    return link


@pytest.mark.parametrize(("depth", "wanted"), [(0, False), (1, True)])
def test_whoever_learns_knows_whether_a_step_waits(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, depth: int, wanted: bool
) -> None:
    seen: list[bool] = []

    def look(_step: Step, context: Context) -> Failure:
        assert context.learning is not None
        seen.append(context.learning.wanted())
        return Failure(error="it only looked")

    monkeypatch.setattr(FakeLink, "depth", lambda *_: _done(QueueDepth(depth, 0)))
    monkeypatch.setattr(loop, "run_stage", look)
    run(ArtifactStore(str(tmp_path)), ["mock"], Learning("records", lambda _: cast(Sandbox, ReadySandbox())))
    assert seen == [wanted]


def test_want_of_memory_in_the_worker_itself_is_no_failure_of_the_step(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    links: list[FakeLink] = []
    real = FakeLink.__init__

    def keep(self: FakeLink, body: bytes) -> None:
        real(self, body)
        links.append(self)

    def exhausted(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(FakeLink, "__init__", keep)
    monkeypatch.setattr(loop, "run_stage", exhausted)
    with pytest.raises(MemoryError):
        run(ArtifactStore(str(tmp_path)), ["mock"])
    assert links[0].settled == []  # the broker gives it to somebody else
    assert all(message.type == "worker-status" for message in links[0].published)


def test_a_defect_in_a_stage_fails_the_step_and_not_the_worker(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def defect(*_: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr(loop, "run_stage", defect)
    link = run(ArtifactStore(str(tmp_path)), ["mock"])
    assert link.settled == ["acknowledged"]
    assert "step-result" in [message.type for message in link.published]
    failed = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert any(getattr(record, "job", None) == "j" for record in failed)


def test_a_step_for_another_engine_is_put_aside_with_the_reason(tmp_path: Any) -> None:
    link = run(ArtifactStore(str(tmp_path)), ["toy"])
    (letter,) = [message for message in link.published if message.type != "worker-status"]
    assert (letter.exchange, letter.type) == ("tunemesh.dead", "not-served")
    assert letter.headers["reason"] == "w does not serve engine 'mock', only toy"
    assert link.settled == ["acknowledged"]


def test_a_step_that_comes_again_is_answered_and_a_further_attempt_is_done_anew() -> None:
    """The coordinator sends a further attempt where it could make nothing of the first result."""
    memory = Memory()
    timing = Timing(step=STEP.id, stage="import", resource="q", worker="w", started=0.0, finished=1.0)
    done = StepResult(job="j", timing=timing, result=ImportDone(model=Blob("0" * 64, 0), tasks=[]))
    memory.keep(STEP, done)
    assert memory.recall(STEP) is done
    assert memory.recall(msgspec.structs.replace(STEP, attempt=1)) is None


def test_a_worker_that_stands_by_says_that_it_is_not_to_be_counted_on(tmp_path: Any) -> None:
    link = FakeLink(b"")
    link.depth = lambda _: _done(QueueDepth(0, 1))  # type: ignore[method-assign]
    sandbox, shutdown = cast(Sandbox, ReadySandbox()), Shutdown(1.0)
    status = StatusSender(cast(Link, link), "w", "profile-cpu-0", Serves(targets=["mock"]), 60.0)
    status.serving = True  # it was the one, until it lost its connection
    context = Context(sandbox, ArtifactStore(str(tmp_path)), device="cpu")
    worker = Worker("profile-cpu-0", [], cast(Link, link), sandbox, context, status, shutdown)
    worker.begin(Up(2))
    worker.begin(Up(2))
    (said,) = [codec.decode(message.body, WorkerStatus) for message in link.published]
    assert (said.leaving, said.slots, status.serving) == (True, 0, False)


@pytest.mark.parametrize(
    ("sent", "received", "expected"),
    [(None, 5.0, 0.0), (5.0, 7.5, 2.5), (7.5, 5.0, 0.0), (0.001, 1.7e9, 1e6), (1e11, 1.7e9, 0.0)],
)
def test_waiting_is_within_reason_whatever_the_clocks_say(
    sent: float | None, received: float, expected: float
) -> None:
    assert waited(sent, received) == expected


@pytest.mark.parametrize("refusal", [ValueError("locked by another"), PermissionError("no right to read")])
def test_a_queue_that_cannot_be_looked_at_is_looked_at_again(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, refusal: Exception
) -> None:
    refusals = [refusal, refusal]
    real = FakeLink.depth

    def depth(self: FakeLink, name: str) -> Future[QueueDepth]:
        if not refusals:
            return real(self, name)
        failed: Future[QueueDepth] = Future()
        failed.set_exception(refusals.pop())
        return failed

    monkeypatch.setattr(FakeLink, "depth", depth)
    assert run(ArtifactStore(str(tmp_path)), ["mock"]).settled == ["acknowledged"]
    assert f"{refusal}; trying again" in caplog.text


# -- A device that does not work -----------------------------------------------------------------------------

ERROR = CallFailure("raised", "CUDA error 304")
FAULT = (
    "the device does not work: its reference kernel raised: CUDA error 304"
    "; TUNEMESH_CAGE=bare shows whether it is the cage"
)


class Profiling:
    """A worker of a device, on a fake link, which leaves after its first answer."""

    def __init__(self, store: ArtifactStore, sandbox: ReadySandbox, by_hand: bool = False) -> None:
        self.link = FakeLink(codec.encode(STEP))
        self.shutdown = Shutdown(1.0)
        serves = Serves(targets=["mock"])
        status = StatusSender(cast(Link, self.link), "w", "profile-cpu-0", serves, 60.0)
        context = Context(cast(Sandbox, sandbox), store, device="cpu")
        self.worker = Worker(
            "profile-cpu-0",
            ["mock"],
            cast(Link, self.link),
            cast(Sandbox, sandbox),
            context,
            status,
            self.shutdown,
            by_hand=by_hand,
        )
        self.link.stop_consuming = lambda: self.link.settled.append("stopped")  # type: ignore[method-assign]
        self.link.ack = self._ack  # type: ignore[method-assign]

    def _ack(self, _delivery: Delivery) -> None:
        self.link.settled.append("acknowledged")
        self.shutdown.asked = True

    @property
    def said(self) -> list[tuple[int, str]]:
        """Slots and fault, whenever they change."""
        statuses = [each for each in self.link.published if each.type == "worker-status"]
        found = [codec.decode(each.body, WorkerStatus) for each in statuses]
        assert not any(status.problem() for status in found)
        return [said for said, _ in itertools.groupby((status.slots, status.fault) for status in found)]

    @property
    def results(self) -> list[Any]:
        answers = [each for each in self.link.published if each.type == "step-result"]
        return [codec.decode(each.body, StepResult).result for each in answers]


@pytest.fixture
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_guard, "PAUSES", (0.01,))


@pytest.mark.usefixtures("_soon")
def test_a_worker_takes_no_steps_until_its_device_works_and_says_why(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(loop, "run_stage", lambda *_: Failure(error="done"))
    sandbox = ReadySandbox(*[ERROR] * 6)
    profiling = Profiling(ArtifactStore(str(tmp_path)), sandbox)
    profiling.worker.run()
    assert profiling.said == [(0, FAULT), (1, ""), (0, "")]
    assert not sandbox.answers
    assert profiling.link.settled[0] == "acknowledged"
    assert f"w: {FAULT}; trying again" in caplog.text


@pytest.mark.usefixtures("_soon")
def test_a_step_goes_back_when_the_device_stops_working_and_is_done_later(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = [DeviceFault("the device does not work: x")]

    def do(*_: object) -> Failure:
        if faults:
            raise faults.pop()
        return Failure(error="done")

    monkeypatch.setattr(loop, "run_stage", do)
    profiling = Profiling(ArtifactStore(str(tmp_path)), ReadySandbox())
    profiling.worker.run()
    assert profiling.link.settled[:3] == ["stopped", "handed back", "acknowledged"]
    assert [slots for slots, _ in profiling.said] == [1, 0, 1, 0]
    assert profiling.results == [Failure(error="done")]


@pytest.mark.usefixtures("_soon")
def test_a_step_that_stops_a_working_device_again_and_again_fails(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: object) -> None:
        raise DeviceFault("the device does not work: x")

    monkeypatch.setattr(loop, "run_stage", breaks)
    profiling = Profiling(ArtifactStore(str(tmp_path)), ReadySandbox())
    profiling.worker.run()
    assert profiling.link.settled.count("handed back") == device_guard.MOST_FAULTS - 1
    (failure,) = profiling.results
    assert "3 times the device worked before this and not after it" in failure.error


def test_whoever_starts_a_worker_by_hand_is_told_at_once_that_its_device_does_not_work(tmp_path: Any) -> None:
    profiling = Profiling(ArtifactStore(str(tmp_path)), ReadySandbox(ERROR, ERROR), by_hand=True)
    with pytest.raises(Unavailable, match="CUDA error 304"):
        profiling.worker.run()


def test_a_step_runs_in_a_process_of_its_tenant_and_sees_its_artifacts(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, str, int]] = []
    sandbox = ReadySandbox()

    def look(step: Step, context: Context) -> Failure:
        seen.append((step.job, context.store.tenant, sandbox.renewed))
        return Failure(error="it only looked")

    monkeypatch.setattr(loop, "run_stage", look)
    worker = Profiling(ArtifactStore(str(tmp_path)), sandbox).worker
    for job, tenant in (("a", "acme"), ("b", "acme"), ("c", ""), ("d", ""), ("e", "zeta"), ("a", "acme")):
        origin = Origin(job=job, accepted=1.0, tenant=tenant, model="m")
        worker._run(msgspec.structs.replace(STEP, job=job, origin=origin))
    assert seen == [
        ("a", "acme", 0), ("b", "acme", 0), ("c", "", 1), ("d", "", 1), ("e", "zeta", 2), ("a", "acme", 3),
    ]  # fmt: skip
