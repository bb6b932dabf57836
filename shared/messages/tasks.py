"""Tasks, their candidates, and what became of them."""

from __future__ import annotations

import hashlib
import math
import statistics
from typing import Annotated, Literal

from msgspec import Meta, Struct

from tunemesh.shared.messages.basics import (
    MOST_REGIONS,
    Blob,
    Count,
    Drift,
    EngineName,
    ErrorText,
    Instant,
    JobId,
    Name,
    Positive,
    QueueName,
    Seconds,
    Sha256,
    Stage,
    StepId,
    TaskId,
    Visibility,
)

Outcome = Literal[
    "measured", "build-failed", "build-timed-out", "run-failed", "run-timed-out", "wrong-result"
]


class Region(Struct, frozen=True):
    """One of the disjoint parts into which the space of a task's schedules is cut."""

    number: Count
    """From 0."""
    of: Annotated[int, Meta(ge=2, le=MOST_REGIONS)]
    """How many there are."""


Operations = Annotated[float, Meta(ge=0, le=1e30)]


class TaskSpec(Struct, frozen=True, kw_only=True):
    """One distinct tensor workload of a job for one target, as one engine tunes it: a search. A task that
    several engines take has a specification for each, and one for each region where it is split: they differ
    in ``id``, ``engine`` and what is said of regions."""

    id: TaskId
    """Of the search, short and unique within the job: ``t00``, ``t01``, …; with its engine where it is not
    the first one of its task, and the number of its region from the second on: ``t00.template.1``."""
    name: str
    key: Sha256
    """Hash of workload and target: equal keys are the same task, in a job and across jobs."""
    weight: Positive
    """How often the model runs the task."""
    engine: EngineName | None = None
    """Which of the job's engines searches; ``None``: none takes the task, and it stays untuned."""
    objection: ErrorText = ""
    """Why none of them does."""
    constants: Count = 0
    """Bytes of constants of the whole model."""
    operations: Operations = 0.0
    """On floats, of one run; 0 where that is not known."""
    workload: Blob
    """The unscheduled workload, in the format of the target's platform: TIR for TVM's targets."""
    untuned: Blob
    """The workload built without tuning: the baseline to beat and the reference for outputs."""
    regions: Annotated[int, Meta(ge=1, le=MOST_REGIONS)] = 1
    """Into how many its engine can cut the space of its schedules, so that searches in them never propose the
    same one; 1: it cannot."""
    region: Region | None = None
    """Where this one search looks, of several that the task has; ``None``: everywhere."""

    @property
    def pace_key(self) -> str:
        """What the durations of its steps are learned by: engines take different times for a task."""
        return f"{self.key} {self.engine}"


BUILD_FAILURES: frozenset[Outcome] = frozenset({"build-failed", "build-timed-out"})


class Origin(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The job that something was measured for. With its time it is told from others of the same name."""

    job: JobId
    accepted: Instant
    tenant: str = ""
    model: Name = ""
    """For people, as the request names it."""
    visibility: Visibility = "tenant"
    """As in the request."""


ConditionsId = Annotated[str, Meta(max_length=16)]
"""Empty where it is not known."""


class Conditions(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a latency depends on besides the kernel. Latencies of equal ones can be compared."""

    device: Annotated[str, Meta(max_length=400)]
    """A CPU's model, instruction sets, caches and number of cores; a GPU's model, memory and driver."""
    versions: Annotated[str, Meta(max_length=200)]
    """Of what builds and measures."""
    cache_flush: bool = False
    """Whether caches were flushed before every run."""
    reference: Seconds = 0.0
    """Latency of the device's reference kernel; 0 where it is not known. It is never twice the same, and so
    does not tell conditions apart."""

    @property
    def id(self) -> str:
        """What tells them from others, in 16 hex digits."""
        said = f"{self.device}\n{self.versions}\n{self.cache_flush}"
        return hashlib.sha256(said.encode()).hexdigest()[:16]


class Device(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What measures for a target."""

    conditions: Conditions
    """Without flushing caches: whether that is done depends on the model."""
    cache: Count = 0
    """Bytes of its last-level cache; 0 where it has none that can be flushed."""


HASH_LENGTH = 200
"""Characters of what tells a schedule from others."""


class Candidate(Struct, frozen=True):
    """One schedule in a batch."""

    index: Count
    """Position in the batch of its round."""
    hash: Annotated[str, Meta(min_length=1, max_length=HASH_LENGTH)]
    """Structural hash of the scheduled workload; no two trials of a task share one."""
    schedule: bytes
    """The schedule, in the engine's own format."""


class Built(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one candidate in ``build``: an artifact, or an outcome with its error."""

    index: Count
    seconds: Seconds
    artifact: Blob | None = None
    objects: Blob | None = None
    """Its machine code as ``assemble`` takes it, where that was to be kept."""
    outcome: Outcome | None = None
    error: ErrorText = ""


class Profiled(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one candidate in ``profile``. ``latencies`` has one entry per repeat, in seconds."""

    index: Count
    seconds: Seconds
    outcome: Outcome
    latencies: list[Seconds] = []
    median: Seconds = 0.0
    """Of ``latencies``."""
    spread: Seconds = 0.0
    """(largest - smallest) / median of ``latencies``."""
    drift: Drift = 0.0
    """How much slower than usual the device's reference kernel ran around this measurement: 0.1 is 10 %."""
    attempts: Count = 1
    """Times it was measured: more than once when the first time was disturbed; 0 when the same binary had
    been measured for the job before, and these are its latencies."""
    cut_short: bool = False
    """Its first runs were so slow that ``latencies`` has only these."""
    error: ErrorText = ""


class Trial(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A candidate that was tried, whatever came of it."""

    candidate: Candidate
    outcome: Outcome
    latencies: list[Seconds] = []
    drift: Drift = 0.0
    attempts: Count = 1
    cut_short: bool = False
    error: ErrorText = ""
    conditions: ConditionsId = ""
    """Id of those it was measured under."""

    @property
    def latency(self) -> float:
        """The median of the repeats in seconds; infinite when the candidate failed."""
        if self.outcome != "measured" or not self.latencies:
            return math.inf
        return statistics.median(self.latencies)

    @property
    def estimate(self) -> float:
        """What to search by: the :attr:`latency` without the drift of the device around it. A good candidate
        that was measured in a bad moment is among those that are confirmed then, and not lost."""
        return self.latency / (1 + self.drift)


class Confirmed(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One of the best few candidates of a task, measured again at its end, taking turns with the others."""

    hash: str
    latencies: list[Seconds]
    """One for each turn."""
    objects: Blob | None = None
    """Its machine code, where it was kept."""
    conditions: ConditionsId = ""
    """As in :class:`Trial`."""
    turns: Annotated[str, Meta(max_length=16)] = ""
    """What tells the measurement from others: what has the same took the same turns, whichever search found
    it. Empty where that is not known."""


class Timing(Struct, frozen=True, kw_only=True):
    """When and where a step ran. ``waited`` is its time in the queue, all in seconds."""

    step: StepId
    stage: Stage
    resource: QueueName
    worker: Name
    started: Instant
    finished: Instant
    waited: Seconds = 0.0
    size: Count = 1
    """Candidates that it dealt with; 1 where it is not about candidates."""


class History(Struct, frozen=True, kw_only=True):
    """What one ``model-update`` of a task has learned from, as kept in the artifact store: usually the round
    before. With lookahead the rest of a round comes with the history of the next."""

    task: TaskId
    round: Count
    trials: list[Trial]
    timings: list[Timing]
    origin: Origin | None = None
    conditions: list[Conditions] = []
    """Those that its trials were measured under."""
    format: Count = 1
    """Of the schedules."""


class TaskState(Struct, frozen=True, kw_only=True):
    """Everything that a worker needs to go on with a task. Travels inside ``model-update`` messages."""

    search: Blob
    """The engine's own state: best traces, cost model, measured hashes, random state."""
    history: list[Blob] = []
    """One :class:`History` per finished round."""
    format: Count = 1
    """Of the engine's schedules."""
    chosen: Annotated[list[str], Meta(max_length=64)] = []
    """Hashes of candidates that were not proposed by the engine, and of which it has not learned yet."""


class Known(Struct, frozen=True, kw_only=True):
    """What an earlier job has measured of a task: the best, whichever of the job's engines made it."""

    history: Annotated[list[Blob], Meta(min_length=1)]
    confirmed: list[Confirmed] = []
    untuned: Seconds | None = None
    """Latency without tuning, in seconds."""
    best: Seconds
    """The lowest latency, in seconds."""
    searched: Annotated[float, Meta(ge=0)] | None = None
    """Trials that were made to find it, of this task, or of a task of the same job on average if that is
    more; nothing where it serves however few there were."""


class Taken(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a job was saved by another one that tuned the same task at the same time."""

    job: Name
    """Which one, of the same tenant."""
    trials: Count
    """That were tried of it, by that job and by those which that one had it from."""
    rounds: Positive
    """The same for rounds."""
    seconds: Seconds = 0.0
    """Of a device that these trials took, about."""
    closed: bool = False
    """Whether that job confirmed the best of them. Otherwise it was left there."""


class TaskRecords(Struct, frozen=True, kw_only=True):
    """A search of a task, and where the schedules lie that it measured."""

    task: TaskSpec
    history: list[Blob]
    trials: list[Trial] = []
    """Those that are in no history: of a job that ended before the task was closed."""
    origin: Origin | None = None
    """Of ``trials``, where they were made for another job than the one whose records these are."""
    confirmed: list[Confirmed] = []
    untuned: Seconds | None = None
    """Latency of the untuned workload in seconds: what a schedule has to beat."""
