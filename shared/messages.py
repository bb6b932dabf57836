"""What travels over the broker: one struct per message, MessagePack on the wire.

The prose version, for clients in other languages, is ``docs/wire-format.md``. Rules that hold for all:

- A message is a MessagePack map with a ``type`` and a ``version``. Unknown fields are skipped.
- Times are seconds since the Unix epoch; durations and latencies are seconds.
- Bytes that may be large are a :class:`Blob`: inline while small, else in the artifact store.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

WIRE_VERSION = 1

JobId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z")]
QueueName = Annotated[str, Meta(pattern=r"^(model-update|build-cpu|profile-[a-z0-9][a-z0-9-]{0,62})\Z")]
StepId = Annotated[str, Meta(pattern=r"^[!-~]{1,200}\Z")]
TaskId = Annotated[str, Meta(pattern=r"^[!-~]{1,40}\Z")]
"""``-`` where a message is not about a task."""
Name = Annotated[str, Meta(max_length=300)]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(ge=0, le=1e9)]
"""A duration or a latency; like the next two neither infinite nor NaN, since sums of them are kept."""
Instant = Annotated[float, Meta(ge=0, le=1e11)]
"""Unix time."""
Drift = Annotated[float, Meta(ge=-1, le=1e9)]
"""How much slower than usual a device was: 0.1 is 10 %."""

Stage = Literal["import", "model-update", "build", "profile", "assemble", "validate"]

EngineName = Literal["metaschedule", "mock"]

Outcome = Literal[
    "measured", "build-failed", "build-timed-out", "run-failed", "run-timed-out", "wrong-result"
]

ERROR_TEXT_LIMIT = 2000
"""Characters of an error text that are kept; the middle of a longer one is cut out."""

NAME_LIMIT = 200
"""Characters of a job's name."""


class Blob(Struct, frozen=True, omit_defaults=True):
    """Bytes by content.

    ``data`` holds them when they are small; without it they lie in the artifact store under
    ``<root>/<first two hex digits>/<sha256>``. Readers check the hash in both cases.
    """

    sha256: Sha256
    size: Count
    data: bytes | None = None


class Message(Struct, frozen=True, kw_only=True, tag_field="type"):
    """What all messages have in common. A reader refuses a ``version`` that it does not know."""

    version: int = WIRE_VERSION


# -- From clients ------------------------------------------------------------------------------------------


class Settings(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a job is tuned. Every field has a default that suits most models."""

    batch: Annotated[int, Meta(ge=1, le=512)] = 32
    """Candidates proposed per round."""
    chunk: Annotated[int, Meta(ge=1, le=8)] = 8
    """Candidates per build or profile step, at most: a strategy may make smaller chunks."""
    population: Annotated[int, Meta(ge=1, le=64)] | None = None
    """Schedules that the cost model weighs at a time, per candidate that it proposes. ``None``: 2 while fewer
    than 128 trials of the task are known, then 4."""
    generations: Annotated[int, Meta(ge=0, le=16)] | None = None
    """Times that the search lets them evolve before it proposes. ``None``: once, then twice, likewise."""
    lookahead: Annotated[int, Meta(ge=0, le=1)] = 1
    """Rounds that a proposal may be behind the measurements, when the device would idle otherwise."""
    repeats: Annotated[int, Meta(ge=1, le=100)] = 3
    """Timed repeats of a candidate; the median counts."""
    min_repeat_ms: Annotated[int, Meta(ge=0, le=10_000)] = 50
    """A repeat runs the kernel as often as this takes, in milliseconds."""
    cut_short: Annotated[float, Meta(ge=1, le=1000)] | None = 1.0
    """One repeat is enough of a candidate that takes so many times as long as the best of its task, and less
    than one where a few runs show that clearly; of others two that agree within 2 %. ``None``: all repeats,
    always."""
    cache_flush: bool | None = None
    """Flush all tensors but the first from the CPU's caches before every run; ``None``: where the model's
    constants do not fit the last-level cache, and so come from memory in every run of the model."""
    build_timeout: Annotated[float, Meta(gt=0, le=600)] = 20.0
    """Seconds that one candidate may take to build."""
    profile_timeout: Annotated[float, Meta(gt=0, le=600)] = 10.0
    """Seconds that one candidate may take to profile."""
    convolutions: Literal["winograd", "as-given"] = "winograd"
    """What becomes of convolutions on a CPU: ``winograd`` computes those of 3x3 by Winograd's algorithm where
    that is faster, and the whole model with channels last then."""
    shapes: dict[str, list[Positive]] = {}
    """Input name to shape, for models with dynamic shapes."""


class Request(Message, frozen=True, kw_only=True, tag="request"):
    """Tune this model. Published by a client to ``tunemesh.requests``."""

    job: JobId
    """Chosen by the client, unique; the same request twice is one job."""
    model: Blob
    target: Annotated[str, Meta(min_length=1, max_length=2000)]
    """A TVM target: a tag, a kind, or a JSON object. Must equal the target of a device of the mesh."""
    trials: Annotated[int, Meta(ge=1, le=1_000_000)]
    """Budget of the whole job."""
    engine: EngineName = "metaschedule"
    name: Annotated[str, Meta(max_length=NAME_LIMIT)] = ""
    """For people: usually the model's file name."""
    tenant: Annotated[str, Meta(pattern=r"^([A-Za-z0-9][A-Za-z0-9_-]{0,63})?\Z")] = ""
    """On whose account; the strategy ``fair`` gives each tenant its share."""
    priority: Annotated[int, Meta(ge=1, le=100)] = 10
    """Share among the jobs of the same tenant under the strategy ``fair``: 20 gets twice what 10 gets."""
    seed: Annotated[int, Meta(ge=0, lt=2**31)] = 0
    settings: Settings = Settings()


class Cancel(Message, frozen=True, kw_only=True, tag="cancel"):
    """Stop a job."""

    job: JobId
    keep: bool = False
    """Whether to keep what was found: steps under way are finished, nothing new is tried, and the model is
    made with the best so far. Otherwise, or where nothing was measured yet, all of it is dropped."""


class Query(Message, frozen=True, kw_only=True, tag="query"):
    """Ask for a :class:`Snapshot`, sent to the AMQP ``reply_to`` queue. No ``job`` means all jobs."""

    job: JobId | None = None


class SetStrategy(Message, frozen=True, kw_only=True, tag="set-strategy"):
    """Go on with another strategy. The coordinator holds the newest, so that its successor goes on with it
    too."""

    strategy: Annotated[str, Meta(min_length=1, max_length=500)]
    """As on the command line: a name, and what it takes behind a colon."""
    at: Instant
    """When it was sent; of two the newer one holds."""


# -- Work --------------------------------------------------------------------------------------------------


class TaskSpec(Struct, frozen=True, kw_only=True):
    """One distinct tensor workload of a job for one target."""

    id: TaskId
    """Short and unique within the job: ``t00``, ``t01``, …"""
    name: str
    key: Sha256
    """Hash of workload and target: equal keys are the same task, across jobs too."""
    weight: Positive
    """How often the model runs it."""
    constants: Count = 0
    """Bytes of constants of the whole model."""
    workload: Blob
    """The unscheduled workload, in the engine's own format."""
    untuned: Blob
    """The workload built without tuning: the baseline to beat and the reference for outputs."""


class Candidate(Struct, frozen=True):
    """One schedule in a batch."""

    index: Count
    """Position in the batch of its round."""
    hash: str
    """Structural hash of the scheduled workload; no two trials of a task share one."""
    schedule: bytes
    """The schedule, in the engine's own format."""


class Built(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one candidate in ``build``: an artifact, or an outcome with its error."""

    index: Count
    seconds: Seconds
    artifact: Blob | None = None
    outcome: Outcome | None = None
    error: str = ""


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
    error: str = ""


class Trial(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A candidate that was tried, whatever came of it."""

    candidate: Candidate
    outcome: Outcome
    latencies: list[Seconds] = []
    drift: Drift = 0.0
    attempts: Count = 1
    cut_short: bool = False
    error: str = ""


class Confirmed(Struct, frozen=True, kw_only=True):
    """One of the best few candidates of a task, measured again at its end, taking turns with the others."""

    hash: str
    latencies: list[Seconds]


class Timing(Struct, frozen=True, kw_only=True):
    """When and where a step ran. ``waited`` is its time in the queue, all in seconds."""

    step: StepId
    stage: Stage
    resource: Name
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


class TaskState(Struct, frozen=True, kw_only=True):
    """Everything that a worker needs to go on with a task. Travels inside ``model-update`` messages."""

    search: Blob
    """The engine's own state: best traces, cost model, measured hashes, random state."""
    history: list[Blob] = []
    """One :class:`History` per finished round."""


class ImportWork(Struct, frozen=True, kw_only=True, tag="import"):
    """Turn the model into tasks."""

    model: Blob


class UpdateWork(Struct, frozen=True, kw_only=True, tag="model-update"):
    """Learn from the last round and propose the next. ``want=0`` closes the task: learn, and name the best
    few candidates of all, to be confirmed."""

    task: TaskSpec
    want: Count
    state: TaskState | None = None
    trials: list[Trial] = []
    timings: list[Timing] = []
    learns: list[Count] = []
    """Chunks of the last round whose trials are among ``trials``. The rest comes with the next update."""
    chunk_size: Positive = 8
    """Candidates per chunk that the batch will be cut into."""


class BuildWork(Struct, frozen=True, kw_only=True, tag="build"):
    """Build these candidates."""

    task: TaskSpec
    candidates: list[Candidate]


class ProfileWork(Struct, frozen=True, kw_only=True, tag="profile"):
    """Measure what was built. ``baseline`` asks to measure ``task.untuned`` as well; ``confirm`` to let the
    candidates take turns, repeat by repeat, because they are close to each other."""

    task: TaskSpec
    artifacts: list[Built]
    baseline: bool = False
    confirm: bool = False
    best: Seconds | None = None
    """The lowest latency of the task so far in seconds: what is much slower is cut short."""
    untuned: Seconds | None = None
    """That of ``task.untuned``, once it was measured."""


class TaskRecords(Struct, frozen=True, kw_only=True):
    """A closed task and where its measured schedules lie."""

    task: TaskSpec
    history: list[Blob]
    confirmed: list[Confirmed] = []
    untuned: Seconds | None = None
    """Latency of the untuned workload in seconds: what a schedule has to beat."""


class AssembleWork(Struct, frozen=True, kw_only=True, tag="assemble"):
    """Compile the whole model with the best records."""

    model: Blob
    """The optimised model as ``import`` left it."""
    tasks: list[TaskRecords]


class ValidateWork(Struct, frozen=True, kw_only=True, tag="validate"):
    """Run tuned and untuned model on the same inputs."""

    tuned: Blob
    untuned: Blob
    signature: Blob
    """Names, shapes and dtypes of the inputs, in the engine's own format."""


Work = ImportWork | UpdateWork | BuildWork | ProfileWork | AssembleWork | ValidateWork


class Step(Message, frozen=True, kw_only=True, tag="step"):
    """One stage of one task (or one chunk of its batch) to be done by one worker."""

    id: StepId
    """``job/task/round/chunk/stage``, with ``-`` where a part does not apply."""
    job: JobId
    engine: str
    target: str
    seed: int
    settings: Settings
    work: Work
    task: TaskId = "-"
    round: Count = 0
    chunk: Count = 0
    attempt: Count = 0
    """How often it was sent before. Not part of the id: the same step again gives the same result."""


# -- From workers ------------------------------------------------------------------------------------------


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


class WorkerStatus(Message, frozen=True, kw_only=True, tag="worker-status"):
    """Sent every few seconds by every worker to ``tunemesh.status``; not persistent."""

    worker: Name
    """Unique per worker process: ``<queue>@<host>:<pid>``."""
    queue: QueueName
    host: Name
    slots: Annotated[int, Meta(ge=0, le=1024)]
    """Steps that it does at once; 0 when it is leaving."""
    targets: Annotated[list[Annotated[str, Meta(max_length=2000)]], Meta(max_length=8)] = []
    """Targets that its device profiles; empty for workers without a device."""
    step: StepId | None = None
    """What it is doing now."""
    leaving: bool = False
    cpus: Annotated[list[Count], Meta(max_length=4096)] = []
    """Cores of ``host`` that its work runs on, where that is limited; work on shared cores is shared out."""
    drift: Drift = 0.0
    """How much slower than usual the device's reference kernel ran last."""


# -- The coordinator's own ---------------------------------------------------------------------------------

Phase = Literal["importing", "tuning", "assembling", "validating", "done", "failed", "cancelled"]


class Usage(Struct, frozen=True, kw_only=True):
    """What a job has used of one resource."""

    steps: Count = 0
    busy: Seconds = 0.0


class TaskLedger(Struct, frozen=True, kw_only=True):
    """Where one task stands."""

    spec: TaskSpec
    round: int = -1
    """The last round whose ``model-update`` was decided; -1 before the first."""
    want: Count = 0
    """Trials granted to that round; 0 closes the task."""
    ahead: bool = False
    """That round was decided before the one before was back."""
    rounds_ahead: Count = 0
    """How many rounds were."""
    folded: int = -1
    """The last round that the figures below contain."""
    trials: Count = 0
    """Trials tried."""
    outcomes: dict[str, Count] = {}
    best: Seconds | None = None
    """Best measured latency in seconds."""
    gain: Seconds = 0.0
    """Seconds of latency that the last round took off, per trial."""
    untuned: Seconds | None = None
    last_error: str = ""
    exhausted: bool = False
    """Nothing new can be proposed."""
    remeasured: Count = 0
    """Trials that were measured more than once, because something disturbed the device."""
    drift: Drift = 0.0
    """The largest that is left in a measurement."""
    pace: dict[Stage, Seconds] = {}
    """Learned durations: seconds of one ``model-update``, and per candidate in ``build`` and ``profile``."""
    confirmed: list[Confirmed] = []
    limits: dict[int, Count] = {}
    """Of a job that was stopped early, by round: how many of its chunks are done, the others are left out."""
    history: list[Blob] = []
    """Filled when the task is closed."""
    closed: bool = False


class Ledger(Message, frozen=True, kw_only=True, tag="ledger"):
    """The decisions taken for one job. The coordinator publishes each revision to its own queue *before*
    it acts on it and keeps the newest unacknowledged, so that a successor decides nothing twice."""

    request: Request
    revision: Count
    phase: Phase
    accepted: Instant
    finished: Instant | None = None
    model: Blob | None = None
    tasks: list[TaskLedger] = []
    stopped: bool = False
    """Nothing new is tried any more, whatever the request says."""
    usage: dict[str, Usage] = {}
    timings: list[Timing] = []
    """Steps that are in no history: of the job as a whole, and those that close its tasks."""
    assembled: AssembleDone | None = None
    validated: ValidateDone | None = None
    error: str = ""


class Marker(Message, frozen=True, kw_only=True, tag="marker"):
    """Published by the coordinator to its own queue when it connects. Once it comes back, everything that was
    requeued has been delivered again."""

    coordinator: str
    epoch: int


# -- To clients --------------------------------------------------------------------------------------------


class TaskProgress(Struct, frozen=True, kw_only=True):
    """One task as a client sees it; latencies in seconds."""

    id: str
    name: str
    weight: Positive
    trials: Count
    outcomes: dict[str, Count]
    untuned: Seconds | None
    best: Seconds | None
    last_error: str
    spread: Seconds | None = None
    """(largest - smallest) / median of the repeats in which the best candidate was confirmed."""
    confirmed: Count = 0
    """Candidates that were measured again at the end, taking turns."""
    remeasured: Count = 0
    drift: Drift = 0.0
    rounds_ahead: Count = 0


class JobProgress(Struct, frozen=True, kw_only=True):
    """One job as a client sees it."""

    job: JobId
    name: str
    phase: Phase
    target: str
    trials: Count
    """Tried so far, with those of rounds under way."""
    budget: Count
    accepted: Instant
    finished: Instant | None
    tasks: list[TaskProgress]
    usage: dict[str, Usage]
    tenant: str = ""
    priority: Count = 10
    stopped: bool = False
    """Somebody has asked to stop early, and to keep what was found."""
    timings: list[Timing] = []
    """Once the job has ended: its steps that are in no history."""
    waiting: str = ""
    """Why nothing moves, when nothing can: for example that no device serves the target."""
    error: str = ""


class ResourceProgress(Struct, frozen=True, kw_only=True):
    """One resource as a client sees it."""

    queue: str
    slots: Count
    """Of its live workers."""
    workers: list[str]
    targets: list[str]
    running: list[str]
    """Ids of the steps in flight."""
    busy: Seconds
    """Seconds of work reported since the coordinator started."""
    utilisation: Annotated[float, Meta(ge=0)]
    """``busy`` over slots and elapsed time."""
    drift: Drift = 0.0
    """How much slower than usual the device's reference kernel ran last."""


class Snapshot(Message, frozen=True, kw_only=True, tag="snapshot"):
    """The answer to a :class:`Query`."""

    strategy: str
    jobs: list[JobProgress]
    resources: list[ResourceProgress]
    assembled: AssembleDone | None = None
    """Addresses of the results, when one finished job was asked for."""
    validated: ValidateDone | None = None
    left_out: int = 0
    """Jobs that are not in the list of all, for its size; they can be asked for one by one."""


EventKind = Literal["accepted", "rejected", "progress", "done", "failed", "cancelled"]


class JobEvent(Message, frozen=True, kw_only=True, tag="job-event"):
    """Something happened to a job. Published to ``tunemesh.events`` with key ``job.<id>.<kind>``."""

    job: JobId
    kind: EventKind
    at: Instant
    text: str = ""
    """One line for people."""
    progress: JobProgress | None = None
    resources: list[ResourceProgress] = []
    assembled: AssembleDone | None = None
    validated: ValidateDone | None = None


FINAL_KINDS: tuple[EventKind, ...] = ("rejected", "done", "failed", "cancelled")
