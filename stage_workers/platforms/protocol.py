"""What a target is made of: how its models are read, its kernels measured, its finished models put together.

Which platform a job needs follows from its target; it is the same whoever tunes. As with engines, methods
take one record, return one, and are called in a sandboxed child process.
"""

from __future__ import annotations

from typing import Literal, Protocol

from msgspec import Struct, field

from tunemesh.shared.messages import Judgement, Options, Outcome, OutputCheck, Precision, Settings
from tunemesh.stage_workers.engines.protocol import Part
from tunemesh.stage_workers.frontends.shapes import Variant

WAITED = 0.02
"""Share of its time that a measurement may have waited for its core without casting doubt on it. An idle
machine shows 0.001 or so."""


class TargetCall(Struct, frozen=True, kw_only=True):
    """A target as somebody wrote it.

    Attributes:
        target: a tag, a kind, JSON, or ``native`` for this machine's CPU.
        cores: of the device, which a target for CPUs has where it does not say how many.
    """

    target: str
    cores: int = 1


class Target(Struct, frozen=True, kw_only=True):
    """A target that exists.

    Attributes:
        canonical: the same text for all ways to write it.
    """

    canonical: str


class ImportCall(Struct, frozen=True, kw_only=True):
    """A model to read.

    Attributes:
        model: the bytes of its file.
        files: further files that came with it: by the name that the model has for each, where the worker has
            put it. They may be large, so they are not sent along.
        target: canonical form.
        variants: the sets of shapes that the model is to have, one or more.
        options: of the request, for the graph.
        precision: of products and convolutions, see the same.
        math: how exp and the like are computed, see :class:`~shared.messages.Settings`.
        seed: of the inputs that the model is compared on.
        ranges: of these inputs, by name, as far as the person says: from, and up to but not including.
        inputs: an ``npz`` file of real inputs, in place of random ones.
    """

    model: bytes
    files: dict[str, str] = {}
    target: str
    variants: list[Variant] = field(default_factory=lambda: [Variant()])
    options: Options = {}
    precision: Precision = "f32"
    math: Literal["fast", "exact"] = "fast"
    seed: int = 0
    ranges: dict[str, tuple[float, float]] = {}
    inputs: bytes | None = None


class ExtractedTask(Struct, frozen=True, kw_only=True):
    """One distinct workload of a model.

    Attributes:
        name: for people.
        key: SHA-256 (hex) of workload and target.
        weight: how often the model runs it.
        workload: in the platform's own format.
        untuned: the kernel without tuning, which runs on the target.
        operations: on floats, of one run; 0 where that is not known.
    """

    name: str
    key: str
    weight: int
    workload: bytes
    untuned: bytes
    operations: float = 0.0


class Imported(Struct, frozen=True, kw_only=True):
    """A model, and its tasks in order of first use.

    Attributes:
        model: as :class:`AssembleCall` takes it.
        tasks: what can be tuned.
        constants: bytes of constants that a run of the model reads.
        sample: inputs, and what the model should make of them, as :class:`ValidateCall` takes it.
        judged: by whom, for each variant, and how the untuned model compares.
        objects: machine code of its functions, as :class:`AssembleCall` takes it. May be empty.
    """

    model: bytes
    tasks: list[ExtractedTask]
    constants: int = 0
    sample: bytes = b""
    judged: list[Judgement] = []
    objects: bytes = b""


class CompileCall(Struct, frozen=True, kw_only=True):
    """A workload to compile without tuning.

    Attributes:
        workload: what it computes.
        target: canonical form.
    """

    workload: bytes
    target: str


class Compiled(Struct, frozen=True, kw_only=True):
    """A kernel.

    Attributes:
        artifact: as :attr:`ExtractedTask.untuned`.
    """

    artifact: bytes


class ReferenceCall(Struct, frozen=True, kw_only=True):
    """A device whose speed is of interest.

    Attributes:
        target: canonical form.
        device: ``cpu`` or ``cuda:<n>``.
    """

    target: str
    device: str


class ReferenceOutcome(Struct, frozen=True, kw_only=True):
    """How fast a fixed kernel ran.

    Attributes:
        latencies: in seconds, one per repeat.
    """

    latencies: list[float]


class ProfileCall(Struct, frozen=True, kw_only=True):
    """One kernel to measure.

    Attributes:
        workload: what it computes.
        target: canonical form.
        artifact: the kernel.
        untuned: the untuned kernel: both must give the same outputs for the same inputs.
        device: ``cpu`` or ``cuda:<n>``.
        settings: how it is measured.
        best: the lowest latency of the task so far in seconds. A kernel whose first runs show that it takes
            ``settings.cut_short`` times as long is not measured any further.
    """

    workload: bytes
    target: str
    artifact: bytes
    untuned: bytes
    device: str
    settings: Settings
    best: float | None = None


class UntunedCall(Struct, frozen=True, kw_only=True):
    """The untuned kernel of a task, to be measured. Attributes as in :class:`ProfileCall`."""

    workload: bytes
    target: str
    untuned: bytes
    device: str
    settings: Settings


class ConfirmCall(Struct, frozen=True, kw_only=True):
    """A few kernels that are close to each other. ``artifacts`` are the kernels; else as in
    :class:`ProfileCall`."""

    workload: bytes
    target: str
    artifacts: list[bytes]
    untuned: bytes
    device: str
    settings: Settings


class ProfileOutcome(Struct, frozen=True, kw_only=True):
    """How fast a kernel is, or why that is not known.

    Attributes:
        outcome: what became of it.
        latencies: in seconds, one per repeat.
        waited: share of the measuring time in which the process could have run but something else had its
            core: the median over the repeats.
        cut_short: ``latencies`` are those of the first runs, which were too slow to go on.
        error: why there are no latencies.
    """

    outcome: Outcome
    latencies: list[float] = []
    waited: float = 0.0
    cut_short: bool = False
    error: str = ""


class ConfirmOutcome(Struct, frozen=True, kw_only=True):
    """One outcome per kernel, in order."""

    outcomes: list[ProfileOutcome]


class TunedTask(Struct, frozen=True, kw_only=True):
    """A task for which something better than the untuned kernel was found.

    Attributes:
        workload: what it computes.
        symbol: what its function is called, where ``part`` is an object.
        part: what goes into the model.
        latency: that of its kernel, in seconds.
    """

    workload: bytes
    symbol: str
    part: Part
    latency: float


class AssembleCall(Struct, frozen=True, kw_only=True):
    """A model to finish.

    Attributes:
        model: as :class:`Imported` has it.
        target: canonical form.
        tasks: those of its tasks that were tuned, whoever did.
        objects: what was compiled before, so that it need not be compiled again.
        untuned: the same of the model without any of them; empty where it was not.
    """

    model: bytes
    target: str
    tasks: list[TunedTask]
    objects: list[bytes] = []
    untuned: bytes = b""


class Assembled(Struct, frozen=True, kw_only=True):
    """The finished model.

    Attributes:
        tuned: a shared object, optimised as at import, with the parts of the tuned tasks.
        untuned: the model as it was given, without any.
        signature: names, shapes and dtypes of the inputs and outputs of each variant, in JSON.
        notes: what was not done with the model at import and why, one sentence each.
    """

    tuned: bytes
    untuned: bytes
    signature: bytes
    notes: list[str] = []


class ValidateCall(Struct, frozen=True, kw_only=True):
    """Two models to compare.

    Attributes:
        tuned: as :class:`Assembled` has it, like the next two.
        untuned: what it must agree with.
        signature: what both take, for all sets of shapes.
        variant: which of these to run, from 0.
        target: canonical form.
        device: ``cpu`` or ``cuda:<n>``.
        sample: as :class:`Imported` has it; without it inputs are random, integers zero, and nobody judges.
        settings: how they are measured.
    """

    tuned: bytes
    untuned: bytes
    signature: bytes
    target: str
    device: str
    settings: Settings
    sample: bytes = b""
    variant: int = 0


class Validated(Struct, frozen=True, kw_only=True):
    """Tuned against untuned, on the device, on the same inputs, in turns.

    Attributes:
        before: latencies of the untuned model in seconds, one per turn.
        after: those of the tuned one.
        outputs: how each output of the tuned model compares with the untuned model's.
        wrong: what does not agree, in one line; empty where all does.
        judged: how the tuned model compares with the framework that the model comes from.
        waited: as in :class:`ProfileOutcome`.
    """

    before: list[float]
    after: list[float]
    outputs: list[OutputCheck]
    wrong: str
    judged: Judgement = Judgement()
    waited: float = 0.0


class Platform(Protocol):
    """What does not depend on the engine. Implementations keep no state between calls that is needed for
    correctness.

    Attributes:
        name: as :func:`stage_workers.platforms.load` knows it.
    """

    name: str

    def preload(self) -> None:
        """Import what is slow to import; as :meth:`.Engine.preload`."""

    def resolve_target(self, call: TargetCall) -> Target:
        """The canonical form of a target.

        Raises:
            BadTarget: it is unknown or incomplete.
        """

    def import_model(self, call: ImportCall) -> Imported:
        """Optimise the graph and extract the distinct tasks.

        Raises:
            BadModel: it cannot be read, has an unsupported operator (named), or dynamic shapes that
                a variant does not fix; or TVM does not compute what the model's own framework does.
            BadInput: an option is unknown or its value is bad.
        """

    def compile(self, call: CompileCall) -> Compiled:
        """The kernel of a workload without tuning, of one that :meth:`import_model` has extracted."""

    def reference(self, call: ReferenceCall) -> ReferenceOutcome:
        """Measure a fixed kernel: about 10 ms of work that is the same in every call, so that a change shows
        a change of the device. The first call may take longer."""

    def profile(self, call: ProfileCall) -> ProfileOutcome:
        """Measure one kernel and check what it computes. A run that goes on for ever may end the process by
        SIGPROF (``ITIMER_PROF``), which is a limit of time that was exceeded."""

    def profile_untuned(self, call: UntunedCall) -> ProfileOutcome:
        """Measure the untuned kernel."""

    def confirm(self, call: ConfirmCall) -> ConfirmOutcome:
        """Measure kernels that take turns repeat by repeat, so that whatever slows the device down hits all
        of them."""

    def assemble(self, call: AssembleCall) -> Assembled:
        """Compile the whole model, tuned and untuned."""

    def validate(self, call: ValidateCall) -> Validated:
        """Run both models on the same random inputs."""
