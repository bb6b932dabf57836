"""Work for a worker."""

from __future__ import annotations

from msgspec import Struct

from tunemesh.shared.messages.basics import (
    Blob,
    Count,
    EngineName,
    Headers,
    JobId,
    Message,
    Nonce,
    Options,
    Positive,
    Seconds,
    StepId,
    TaskId,
    tag_of,
)
from tunemesh.shared.messages.requests import Settings
from tunemesh.shared.messages.tasks import (
    Built,
    Candidate,
    Conditions,
    Device,
    Origin,
    TaskRecords,
    TaskSpec,
    TaskState,
    Timing,
    Trial,
)


class ImportWork(Struct, frozen=True, kw_only=True, tag="import"):
    """Turn the model into tasks."""

    model: Blob
    samples: Blob | None = None
    """That of the request."""
    known: list[Blob] = []
    """The ``records`` of the jobs whose measurements serve this one."""
    files: dict[str, Blob] = {}
    """What came with it, by name."""
    devices: list[Device] = []
    """Those that serve the target now, each kind once: what was measured on such a one before need not be
    measured again."""
    split: Positive = 1
    """That of the level: regions that the space of each task is to be split into."""


class UpdateWork(Struct, frozen=True, kw_only=True, tag="model-update"):
    """Learn from the last round and propose the next. ``want=0`` closes the task: name the best few
    candidates of all, to be confirmed."""

    task: TaskSpec
    want: Count
    state: TaskState | None = None
    trials: list[Trial] = []
    timings: list[Timing] = []
    learns: list[Count] = []
    """Chunks of the last round whose trials are among ``trials``. The rest comes with the next update."""
    chunk_size: Positive = 8
    """Candidates per chunk that the batch will be cut into."""
    conditions: list[Conditions] = []
    """Those that ``trials`` were measured under."""
    recall: list[Blob] = []
    """Where there is no ``state``: histories of other jobs, from whose trials the search begins."""
    devices: list[Device] = []
    """Where there is no ``state``: those that serve the target now, each kind once. What was tried on such a
    one before is not tried again."""
    origin: Origin | None = None
    """Of ``trials``, where they were made for another job than that of the step."""
    rival: Seconds | None = None
    """Where the task is closed: the lowest latency in seconds that other searches of the same task have
    found. What may be the best of all is confirmed, and what cannot is not."""
    names: Count = 4
    """Where the task is closed: candidates that are named at most."""


class BuildWork(Struct, frozen=True, kw_only=True, tag="build"):
    """Build these candidates."""

    task: TaskSpec
    candidates: list[Candidate]
    keep: bool = False
    """Their machine code is kept: the best of them goes into the model."""


class ProfileWork(Struct, frozen=True, kw_only=True, tag="profile"):
    """Measure what was built. ``baseline`` asks to measure ``task.untuned`` as well; ``confirm`` to let the
    candidates take turns, repeat by repeat, because they are close to each other."""

    task: TaskSpec
    artifacts: list[Built]
    rivals: dict[TaskId, list[Built]] = {}
    """What other searches of the same task have found, by search: it takes turns with ``artifacts``."""
    baseline: bool = False
    confirm: bool = False
    best: Seconds | None = None
    """The lowest latency of the task so far in seconds, whoever found it: what is much slower is cut
    short."""
    untuned: Seconds | None = None
    """That of ``task.untuned``, once it was measured."""


class AssembleWork(Struct, frozen=True, kw_only=True, tag="assemble"):
    """Compile the whole model with the best records."""

    model: Blob
    """The optimised model as ``import`` left it."""
    tasks: list[TaskRecords]
    objects: Blob | None = None
    """As ``import`` left it."""


class ValidateWork(Struct, frozen=True, kw_only=True, tag="validate"):
    """Run tuned and untuned model on the same inputs."""

    tuned: Blob
    untuned: Blob
    signature: Blob
    """Names, shapes and dtypes of the inputs, in the format of the target's platform."""
    sample: Blob | None = None
    """As ``import`` left it."""


class LearnWork(Struct, frozen=True, kw_only=True, tag="learn"):
    """Fit what is known of tasks in general to the records, while there is nothing else to do. Of no job."""

    engine: EngineName
    after: Positive = 1
    """New trials that there must be since the last time."""


Work = ImportWork | UpdateWork | BuildWork | ProfileWork | AssembleWork | ValidateWork | LearnWork


class Step(Message, frozen=True, kw_only=True, tag="step"):
    """One stage of one task (or one chunk of its batch) to be done by one worker."""

    id: StepId
    """``job/task/round/chunk/stage``, with ``-`` where a part does not apply."""
    job: JobId
    engines: list[EngineName]
    """Those that a worker must serve to do it: the search's, or all of the job. None where only the target
    counts: what is measured or compared is the same whoever made it."""
    target: str
    seed: int
    settings: Settings
    work: Work
    task: TaskId = "-"
    round: Count = 0
    chunk: Count = 0
    options: dict[str, Options] = {}
    """Those of the request."""
    origin: Origin | None = None
    """What the records of what is measured say of the job."""
    nonce: Nonce = ""
    """To be given back with the result: nobody else can answer for this step."""
    attempt: Count = 0
    """How often it was sent before. Not part of the id: the same step again gives the same result."""

    def message_id(self) -> str:
        return f"{self.id}#{self.attempt}"

    def headers(self) -> Headers:
        return super().headers() | {
            "stage": tag_of(self.work),
            "job": self.job,
            "task": self.task,
            "round": self.round,
            "chunk": self.chunk,
            "attempt": self.attempt,
            "target": self.target,
        }
