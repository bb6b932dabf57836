"""What clients send."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from tunemesh.shared.messages.basics import (
    NAME_LIMIT,
    Blob,
    Count,
    EngineName,
    Headers,
    Instant,
    JobId,
    Message,
    Options,
    Positive,
    Visibility,
)
from tunemesh.shared.messages.levels import AUTO, CANDIDATES, Level

INLINE_LIMIT = 64 * 1024
"""Bytes up to which a blob travels inside its message. Eight of them, the largest chunk, stay well under the
largest message."""

MOST_ROUNDS = 8_000
"""Of a job: a ledger has 1 MiB, and keeps the address of what was measured in every round, some 80 bytes."""

LARGEST_REQUEST = 128 * 1024
"""Bytes of a request without its model. Every ledger of the job repeats it."""

MOST_FILES = 1_000
"""Files that may come with a model, beside its own."""

MOST_VARIANTS = 64
"""Sets of shapes that one job tunes a model for. Each is compiled, checked and measured by itself."""

MOST_KNOWN = 1000
"""Jobs whose measurements serve one job."""

GRAPH = "graph"
"""Whose options are for the model as a whole, and not for an engine."""


Precision = Literal["f32", "bf16", "fp16"]
"""In which element type products and convolutions may be computed."""


class Settings(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a job is tuned. Every field has a default that suits most models. The options of the command line
    are made from the fields: a ``description`` is the help text."""

    batch: Annotated[int, Meta(ge=1, le=512, description="Candidates proposed per round.")] = 32
    chunk: Annotated[
        int,
        Meta(
            ge=1,
            le=8,
            description="Candidates per build or profile step, at most: a strategy may make smaller chunks.",
        ),
    ] = 8
    lookahead: Annotated[
        int,
        Meta(
            ge=0,
            le=1,
            description="Rounds that a proposal may be behind the measurements, when the device would idle"
            " otherwise. 0: never propose before all of the last round is measured.",
        ),
    ] = 1
    repeats: Annotated[
        int, Meta(ge=1, le=100, description="Timed repeats of a candidate; the median counts.")
    ] = 3
    min_repeat_ms: Annotated[
        int,
        Meta(
            ge=0, le=10_000, description="A repeat runs the kernel as often as this takes, in milliseconds."
        ),
    ] = 50
    cut_short: Annotated[
        Annotated[float, Meta(ge=1, le=1000)] | None,
        Meta(
            description="One repeat is enough of a candidate that takes so many times as long as the best of"
            " its task, and less than one where a few runs show that clearly; of others two that agree within"
            " 2 %. none: all repeats, always."
        ),
    ] = 1.0
    cache_flush: Annotated[
        bool | None,
        Meta(
            description="Flush all tensors but the first from the CPU's caches before every run; by default"
            " where the model's constants do not fit the last-level cache, and so come from memory in every"
            " run."
        ),
    ] = None
    build_timeout: Annotated[
        float, Meta(gt=0, le=600, description="Seconds that one candidate may take to build.")
    ] = 20.0
    profile_timeout: Annotated[
        float, Meta(gt=0, le=600, description="Seconds that one candidate may take to profile.")
    ] = 10.0
    known: Annotated[
        Literal["first", "only", "never"],
        Meta(
            description="What the records know of a task, tuned before on such a device with these versions:"
            " first: it is used, and the task not tuned again; only: what is not known stays untuned; never:"
            " it is not asked for."
        ),
    ] = "first"
    max_age: Annotated[
        float, Meta(gt=0, le=36_500, description="Days up to which what is known may be old.")
    ] = 90.0
    import_timeout: Annotated[
        float,
        Meta(
            gt=0,
            le=14_400,
            description="Seconds that reading the model, optimising its graph and compiling it untuned may"
            " take.",
        ),
    ] = 900.0
    shapes: Annotated[
        dict[str, Annotated[list[list[Positive]], Meta(min_length=1, max_length=MOST_VARIANTS)]],
        Meta(
            description="NAME=1,3,224,224: the shape of an input, for models with dynamic shapes. Given again"
            " for the same input, the model is tuned for each of its shapes."
        ),
    ] = {}
    dims: Annotated[
        dict[str, Annotated[list[Positive], Meta(min_length=1, max_length=MOST_VARIANTS)]],
        Meta(
            description="NAME=1,4,16: the size of a symbolic dimension, wherever it stands. With several"
            " sizes the model is tuned for each of them."
        ),
    ] = {}

    math: Annotated[
        Literal["fast", "exact"],
        Meta(
            description="fast: on a CPU exp, log, tanh, sigmoid, erf and pow are computed for whole vectors,"
            " at most 4 units in the last place off. exact: one by one, by the C library."
        ),
    ] = "fast"

    precision: Annotated[
        Precision,
        Meta(
            description="f32: what the model says. bf16: on a CPU with avx512_bf16, products and convolutions"
            " with constant weights multiply bfloat16 and sum in f32; the report says how far off that is."
            " fp16: no CPU has what it takes yet."
        ),
    ] = "f32"

    ranges: Annotated[
        dict[str, tuple[float, float]],
        Meta(
            description="NAME=0,30000: the values of an input that the model is compared and measured with,"
            " from 0 up to but not including 30000; by default what its uses allow."
        ),
    ] = {}

    @property
    def variants(self) -> int:
        """How many sets of shapes the model is tuned for."""
        return max(self._counts().values(), default=1)

    def problem(self) -> str:
        """Why they contradict each other, in one line; nothing if they do not."""
        for name, (least, above) in self.ranges.items():
            if not -math.inf < least < above < math.inf:
                return (
                    f"--range {name}={least:g},{above:g} has no value: the second has to be above the first"
                )
        for name, count in self._counts().items():
            if count not in (1, self.variants):
                return f"{name} has {count} values, others have {self.variants}: give all the same, or one"
        return ""

    def _counts(self) -> dict[str, int]:
        """How many values each option gives."""
        shapes = {f"--shape {name}": len(values) for name, values in self.shapes.items()}
        return shapes | {f"--dim {name}": len(values) for name, values in self.dims.items()}


Location = Annotated[str, Meta(min_length=1, max_length=500)]
"""The name that a model has for a file that came with it."""


class Request(Message, frozen=True, kw_only=True, tag="request"):
    """Tune this model. Published by a client to ``tunemesh.requests``."""

    job: JobId
    """Chosen by the client, unique; the same request twice is one job."""
    model: Blob
    files: Annotated[dict[Location, Blob], Meta(max_length=MOST_FILES)] = {}
    """What the model keeps in other files, by the name that it has for each. A name, never a path: no worker
    opens it."""
    target: Annotated[str, Meta(min_length=1, max_length=2000)]
    """A TVM target: a tag, a kind, or a JSON object. Must equal the target of a device of the mesh."""
    engines: Annotated[list[EngineName], Meta(max_length=8)] = []
    """Who tunes. Each of them searches every task that it takes, and the fastest kernel of a task wins,
    whoever made it; what none takes stays untuned. Empty: all that the workers of the mesh serve, as its
    coordinator finds them."""
    options: Annotated[dict[str, Options], Meta(max_length=9)] = {}
    """By the name of an engine, or ``graph``: what it is told."""
    name: Annotated[str, Meta(max_length=NAME_LIMIT)] = ""
    """For people: usually the model's file name."""
    tenant: Annotated[str, Meta(pattern=r"^([A-Za-z0-9][A-Za-z0-9_-]{0,63})?\Z")] = ""
    """On whose account; the strategy ``fair`` gives each tenant its share."""
    visibility: Visibility = "tenant"
    """Who may use what is measured for it later."""
    priority: Annotated[int, Meta(ge=1, le=100)] = 10
    """Share among the jobs of the same tenant under the strategy ``fair``: 20 gets twice what 10 gets."""
    seed: Annotated[int, Meta(ge=0, lt=2**31)] = 0
    level: Level = Level()
    """What it has to reach, and what it may take."""
    settings: Settings = Settings()
    samples: Blob | None = None
    """An ``npz`` file with an array for each input: what the model is compared and measured with, in place of
    random ones."""

    known: Annotated[list[JobId], Meta(max_length=MOST_KNOWN)] = []
    """Jobs of the same tenant that are done. What they measured serves this one: tasks that are equal to one
    of theirs are not tuned again."""

    @property
    def budget(self) -> str:
        """How many trials, for people."""
        if self.level.effort != "full":
            each = CANDIDATES[self.level.effort]
            return f"{each} trial{'s' if each > 1 else ''} of each task"
        return f"{self.level.trials} trials" if self.level.trials != AUTO else "as many trials as pay"

    def problem(self) -> str:
        """Why the job could not be kept in messages, in one line; nothing if it can."""
        if len(self.model.data or b"") > INLINE_LIMIT:
            return f"a model over {INLINE_LIMIT:,} bytes goes through the artifact store"
        if any(blob.data is not None for blob in self.files.values()):
            return "the files of a model go through the artifact store"
        if why := self.settings.problem() or self.level.problem():
            return why
        if self.samples is not None and self.settings.variants > 1:
            return "--inputs has the inputs of one set of shapes: tune the others in jobs of their own"
        if self.samples is not None and len(self.samples.data or b"") > INLINE_LIMIT:
            return f"inputs over {INLINE_LIMIT:,} bytes go through the artifact store"
        batch, trials = self.settings.batch, self.level.trials
        if trials == AUTO and self.level.patience == 0 and self.level.effort == "full":
            return "without patience there has to be a number of trials"
        if trials > MOST_ROUNDS * batch:
            rounds = f"{trials:,} trials in batches of {batch} are more than {MOST_ROUNDS:,} rounds"
            return f"{rounds}: take larger batches or fewer trials"
        if len(set(self.engines)) < len(self.engines):
            return "it names an engine twice"
        if self.engines and (strange := set(self.options) - {*self.engines, GRAPH}):
            return f"it has options for {min(strange)}, which is none of its engines"
        rest = len(msgspec.msgpack.encode(self)) - len(self.model.data or b"")
        if rest > LARGEST_REQUEST:
            return f"it has {rest:,} bytes beside the model; {LARGEST_REQUEST:,} are allowed"
        return ""

    def message_id(self) -> str:
        return f"{self.job}/request"

    def headers(self) -> Headers:
        return super().headers() | {
            "job": self.job,
            "engines": ",".join(self.engines) or "-",
            "target": self.target,
            "trials": self.level.trials,
        }


Asked = Annotated[str, Meta(max_length=200)]
"""The id of a job that somebody asks about. A text that is no id is a job that nobody knows, and no bad
message: people mistype."""


class Cancel(Message, frozen=True, kw_only=True, tag="cancel"):
    """Stop a job."""

    job: Asked
    keep: bool = False
    """Whether to keep what was found: steps under way are finished, nothing new is tried, and the model is
    made with the best so far. Otherwise, or where nothing was measured yet, all of it is dropped."""

    def message_id(self) -> str:
        return f"{self.job}/cancel"

    def headers(self) -> Headers:
        return super().headers() | {"job": self.job}


class Query(Message, frozen=True, kw_only=True, tag="query"):
    """Ask for a :class:`Snapshot`, sent to the AMQP ``reply_to`` queue. No ``job`` means all jobs."""

    job: Asked | None = None
    skip: Count = 0
    """Jobs at the beginning of the list of all that the answer leaves out: whoever got a list that has left
    some out goes on behind it."""
    census: bool = False
    """Instead of jobs: what is needed to remove old artifacts, see :class:`Census`."""

    def headers(self) -> Headers:
        return super().headers() | ({"job": self.job} if self.job else {})


class SetStrategy(Message, frozen=True, kw_only=True, tag="set-strategy"):
    """Go on with another strategy. The coordinator holds the newest, so that its successor goes on with it
    too."""

    strategy: Annotated[str, Meta(min_length=1, max_length=500)]
    """As on the command line: a name, and what it takes behind a colon."""
    at: Instant
    """When it was sent; of two the newer one holds."""

    def message_id(self) -> str:
        return f"set-strategy/{self.at:.6f}"

    def headers(self) -> Headers:
        return super().headers() | {"strategy": self.strategy}


class Learn(Message, frozen=True, kw_only=True, tag="learn"):
    """Let a worker learn from the records, once the mesh has nothing else to do. The coordinator holds it
    until that is done."""

    engine: EngineName
    after: Positive = 1
    """New trials that there must be since the last time."""

    def message_id(self) -> str:
        return f"learn/{self.engine}"

    def headers(self) -> Headers:
        return super().headers() | {"engine": self.engine}
