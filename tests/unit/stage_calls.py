"""Stages called in this process; engines and platforms are called directly instead of in a sandbox."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from tunemesh.shared.errors import TunemeshError
from tunemesh.shared.messages import (
    Blob,
    BuildDone,
    BuildWork,
    Built,
    Candidate,
    ImportDone,
    ImportWork,
    Result,
    Settings,
    Step,
    TaskSpec,
    Timing,
    Trial,
    UpdateDone,
    UpdateWork,
    Work,
)
from tunemesh.stage_workers import engines, platforms
from tunemesh.stage_workers.platforms.protocol import (
    ConfirmCall,
    ProfileCall,
    ReferenceOutcome,
    UntunedCall,
    ValidateCall,
)
from tunemesh.stage_workers.sandbox import frames
from tunemesh.stage_workers.sandbox.sandbox import CallFailure
from tunemesh.stage_workers.stages import Context, run_stage

C = TypeVar("C")
T = TypeVar("T")
MODEL = b"""
tasks:
  - {name: a, weight: 3, untuned: 0.9, best: 0.1}
  - {name: b, untuned: 0.5}
"""


class FakeSandbox:
    """Calls engines and platforms directly; ``answers`` come first, method by method."""

    def __init__(self) -> None:
        self.answers: dict[str, list[object]] = {}
        self.calls: list[tuple[str, float]] = []
        self.cpu_limits: list[float | None] = []
        self.flushed: dict[str, bool | None] = {}
        """By method: whether the last call was asked to flush the caches."""
        self.records: list[object] = []
        """What the calls were given."""
        self.renewed_before: list[str] = []
        """Methods that were called first in a process."""
        self._renewed = False
        self.validated: list[int] = []
        """Which sets of shapes were."""

    def renew(self) -> None:
        """There is only this process."""
        self._renewed = True

    def call(
        self,
        callee: str,
        method: Callable[[Any, C], T],
        record: C,
        timeout: float,
        cpu_limit: float | None = None,
    ) -> T | CallFailure:
        name = method.__name__
        self.records.append(record)
        if self._renewed:
            self.renewed_before.append(name)
        self._renewed = False
        self.calls.append((name, timeout))
        self.cpu_limits.append(cpu_limit)
        if isinstance(record, ProfileCall | UntunedCall | ConfirmCall):
            self.flushed[name] = record.settings.cache_flush
        if isinstance(record, ValidateCall):
            self.validated.append(record.variant)
        if self.answers.get(name):
            answer = self.answers[name].pop(0)
            if isinstance(answer, TunemeshError):
                raise answer
            return cast(T, answer)
        load = engines.load if frames.protocol_of(method) == "Engine" else platforms.load
        function: Callable[[C], T] = getattr(load(callee), name)
        try:
            return function(record)
        except RuntimeError as error:
            return CallFailure("raised", str(error))


def step(work: Work, number: int = 0, target: str = "mock", settings: Settings | None = None) -> Step:
    return Step(
        id=f"job/t00/{number}/-/x",
        job="job",
        engines=["mock"],
        target=target,
        seed=5,
        settings=settings or Settings(),
        work=work,
        task="t00",
        round=number,
    )


def imported(context: Context, model: bytes = MODEL) -> ImportDone:
    return expect(ImportDone, run_stage(step(ImportWork(model=context.store.put(model))), context))


def proposed(context: Context, task: TaskSpec, want: int = 4) -> UpdateDone:
    return expect(UpdateDone, run_stage(step(UpdateWork(task=task, want=want)), context))


def compiled(context: Context, task: TaskSpec, want: int) -> list[Built]:
    candidates = proposed(context, task, want).candidates
    return expect(BuildDone, run_stage(step(BuildWork(task=task, candidates=candidates)), context)).built


def expect(kind: type[T], result: Result) -> T:
    assert isinstance(result, kind), result
    return result


def missing() -> Blob:
    return Blob("ab" * 32, 10)


def trials_of(candidates: list[Candidate], latency: float = 0.2) -> list[Trial]:
    return [Trial(candidate=each, outcome="measured", latencies=[latency]) for each in candidates]


SLOW, CALM = (ReferenceOutcome(latencies=[seconds] * 5) for seconds in (1.5e-3, 1e-3))
TIMING = Timing(step="s", stage="build", resource="build-cpu", worker="w", started=1.0, finished=2.0)
