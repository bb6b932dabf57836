"""What a worker made of a step."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from tunemesh.shared.messages.basics import (
    Blob,
    Count,
    Drift,
    Headers,
    JobId,
    Message,
    Positive,
    Seconds,
    TaskId,
    tag_of,
)
from tunemesh.shared.messages.tasks import Built, Candidate, Profiled, TaskSpec, TaskState, Timing


class ImportDone(Struct, frozen=True, kw_only=True, tag="import"):
    model: Blob
    tasks: list[TaskSpec]


class UpdateDone(Struct, frozen=True, kw_only=True, tag="model-update"):
    state: TaskState
    candidates: list[Candidate]
    """The batch; after ``want=0`` the best few of those tried, none if there is nothing to confirm."""
    learned: list[Count] = []
    """``learns`` of the step."""
    chunk_size: Positive = 8
    """That of the step."""
    exhausted: bool = False
    """Fewer than wanted: there is nothing new to propose."""


class BuildDone(Struct, frozen=True, kw_only=True, tag="build"):
    built: list[Built]


class ProfileDone(Struct, frozen=True, kw_only=True, tag="profile"):
    profiled: list[Profiled]
    untuned: Seconds | None = None
    """Median latency of the untuned workload in seconds, where asked for."""
    untuned_error: str = ""
    """Why the untuned workload could not be measured, where it was asked for."""
    drift: Drift = 0.0
    """The largest that was left after measuring again."""


class AssembleDone(Struct, frozen=True, kw_only=True, tag="assemble"):
    tuned: Blob
    untuned: Blob
    signature: Blob
    files: dict[str, Blob]
    """Further files for the person, by name: the tuning database, for example."""
    records: Blob
    """MessagePack list of :class:`TaskRecords`: every task with everything that was measured."""


class ValidateDone(Struct, frozen=True, kw_only=True, tag="validate"):
    latency_before: Seconds
    latency_after: Seconds
    """Of the job's result: of the untuned model where the tuned one was ``rejected``."""
    largest_difference: Annotated[float, Meta(ge=0)]
    """Largest absolute difference between tuned and untuned outputs."""
    equal: bool
    """Whether all outputs agree within the tolerances of their dtypes."""
    drift: Drift = 0.0
    """How much slower than usual the device was meanwhile: 0.1 is 10 %."""
    rejected: Seconds | None = None
    """Latency of the tuned model where it is clearly slower than the untuned one, which then is the result:
    said by the coordinator."""


class Failure(Struct, frozen=True, kw_only=True, tag="failure"):
    """The step as a whole could not be done; trying it again would not help."""

    error: str


Result = ImportDone | UpdateDone | BuildDone | ProfileDone | AssembleDone | ValidateDone | Failure


class StepResult(Message, frozen=True, kw_only=True, tag="step-result"):
    """What a worker made of a step. Published to ``tunemesh.results`` with key ``result.<stage>``."""

    job: JobId
    task: TaskId = "-"
    round: Count = 0
    chunk: Count = 0
    timing: Timing
    result: Result

    def message_id(self) -> str:
        return f"{self.timing.step}/result"

    def headers(self) -> Headers:
        return super().headers() | {
            "stage": self.timing.stage,
            "job": self.job,
            "task": self.task,
            "round": self.round,
            "chunk": self.chunk,
            "result": tag_of(self.result),
            "worker": self.timing.worker,
            "queue-ms": round(self.timing.waited * 1000),
            "busy-ms": round((self.timing.finished - self.timing.started) * 1000),
        }
