"""A mesh of many jobs of the mock engine, as a client sees it, without a broker."""

from __future__ import annotations

import queue
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import msgspec

from tunemesh.shared.errors import BrokerRefused, BrokerUnavailable
from tunemesh.shared.messages import (
    JobEvent,
    JobProgress,
    Message,
    ResourceProgress,
    Snapshot,
    TaskProgress,
    Terms,
)

LISTED = 400
"""Jobs in one answer."""


def task(number: int, trials: int = 32, **more: Any) -> TaskProgress:
    usual: dict[str, Any] = {
        "id": f"t{number:02}", "name": f"conv{number}", "weight": 1 + number, "trials": trials,
        "outcomes": {"measured": trials - 2, "run-failed": 2}, "untuned": 4e-3 + number * 1e-3,
        "best": (2e-3 + number * 1e-4) if trials else None, "last_error": "",
    }  # fmt: skip
    return TaskProgress(**usual | more)


def job(number: int, now: float | None = None) -> JobProgress:
    """Every seventh waits, every tenth has failed, every second of the others is done."""
    now = time.time() if now is None else now
    accepted = now - 3600 + number
    phase: Any = "failed" if number % 10 == 0 else "done" if number % 2 else "tuning"
    return JobProgress(
        job=f"net-{number:04}",
        name=f"model{number % 37}.onnx",
        phase=phase,
        target='{"kind": "llvm", "mcpu": "znver5", "num-cores": 1}',
        trials=64 + number % 64,
        budget=128,
        accepted=accepted,
        finished=accepted + 300 if phase != "tuning" else None,
        tasks=[task(each) for each in range(1 + number % 5)],
        usage={},
        tenant=("gold", "", "free")[number % 3],
        waiting="no device serves target nvidia/nvidia-h100" if phase == "tuning" and number % 7 == 0 else "",
        error="import: the model has an operator that is not known: Foo" if phase == "failed" else "",
        asked_by="client",
        terms=Terms(engines=["mock"]) if phase != "tuning" else None,
    )


class FakeMesh:
    """Its ``client`` stands for :class:`tunemesh.client.Client`.

    Args:
        rights: modes that its broker lets pass.
    """

    def __init__(self, jobs: list[JobProgress], resources: int = 4, *, lets: str = "client") -> None:
        self.jobs = {each.job: each for each in jobs}
        self.resources = [
            ResourceProgress(
                queue=f"profile-cpu-{number}" if number else "build-cpu",
                slots=1,
                workers=[f"w{number}"],
                targets=["mock"] if number else [],
                engines=[] if number else ["mock"],
                running=[f"{jobs[number % len(jobs)].job}/t00/1/0/{'profile' if number else 'build'}"]
                if jobs
                else [],
                busy=10.0,
                utilisation=0.25 * (number % 4),
                hosts=["host"],
            )
            for number in range(resources)
        ]
        self.lets = lets
        self.reachable = True
        self.answers = True
        self.stopped: list[tuple[str, bool]] = []
        self.asked = 0
        self._clients: list[FakeClient] = []
        self._lock = threading.Lock()

    def client(self, url: str, everything: bool = False, role: str = "client") -> FakeClient:
        made = FakeClient(self, everything, role)
        with self._lock:
            self._clients.append(made)
        return made

    def change(self, job: str, **changes: Any) -> None:
        """Something happens to a job."""
        changed = self.jobs[job] = msgspec.structs.replace(self.jobs[job], **changes)
        kind: Any = changed.phase if changed.finished is not None else "progress"
        event = JobEvent(job=job, kind=kind, at=time.time(), progress=changed)
        for each in self._clients:
            each.send(event)

    def goes(self, why: str = "connection reset") -> None:
        """The broker goes away."""
        self.reachable = False
        for each in self._clients:
            each.away = why

    def comes(self) -> None:
        """It is there again."""
        self.reachable = True
        for each in self._clients:
            each.away = ""

    def snapshot(self, job: str | None, skip: int) -> Snapshot:
        if job is not None:
            found = [self.jobs[job]] if job in self.jobs else []
            return Snapshot(strategy="interleaved", jobs=found, resources=self.resources)
        ordered = sorted(self.jobs.values(), key=lambda each: (each.finished is not None, -each.accepted))[
            skip:
        ]
        return Snapshot(
            strategy="interleaved",
            jobs=ordered[:LISTED],
            resources=self.resources,
            waiting={"build-cpu": {each.job: 2 for each in ordered[:2]}},
            left_out=max(len(ordered) - LISTED, 0),
        )


class FakeClient:
    """One connection."""

    def __init__(self, mesh: FakeMesh, everything: bool, role: str) -> None:
        self._mesh = mesh
        self._everything = everything
        self._role = role
        self._waiting: queue.SimpleQueue[tuple[Message, str | None]] = queue.SimpleQueue()
        self.away = ""

    def __enter__(self) -> FakeClient:
        mode = self._role if self._role == "monitor" or self._everything else "asking"
        order = ("client", "asking", "monitor", "nothing")
        if order.index(mode) < order.index(self._mesh.lets):
            raise BrokerRefused("cannot use the broker: this user lacks a right")
        if not self._mesh.reachable:
            raise BrokerUnavailable("cannot reach the broker at amqp://x: connection refused")
        return self

    def __exit__(self, *_: object) -> None: ...

    def hear(self, timeout: float) -> tuple[Message | None, str | None]:
        try:
            return self._waiting.get(timeout=timeout)
        except queue.Empty:
            return None, None

    def ask(self, job: str | None = None, skip: int = 0) -> str:
        key = uuid.uuid4().hex
        self._mesh.asked += 1
        if self._mesh.answers:
            self._waiting.put((self._mesh.snapshot(job, skip), key))
        return key

    def cancel(self, job: str, keep: bool) -> None:
        self._mesh.stopped.append((job, keep))

    def send(self, event: JobEvent) -> None:
        if self._everything:
            self._waiting.put((event, None))


def until(condition: Callable[[], object], seconds: float = 10.0) -> bool:
    """Whether it comes true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
