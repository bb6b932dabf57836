"""The consumer loop without a broker."""

from __future__ import annotations

import logging
import queue
import time
from concurrent.futures import Future
from typing import Any, cast

import msgspec
import pytest

from tunemesh.shared import codec
from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.messages import (
    Blob,
    Failure,
    ImportDone,
    ImportWork,
    Serves,
    Settings,
    Step,
    StepResult,
    Timing,
    WorkerStatus,
)
from tunemesh.shared.transport.link import Delivery, Link, Outgoing, QueueDepth, Up
from tunemesh.stage_workers import loop
from tunemesh.stage_workers.loop import Worker, waited
from tunemesh.stage_workers.sandbox.sandbox import Sandbox
from tunemesh.stage_workers.shutdown import Shutdown
from tunemesh.stage_workers.stages import Context
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
    def ready(self, _timeout: float) -> bool:
        return True


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
    memory = loop.Memory()
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
