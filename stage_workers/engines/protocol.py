"""What knows how to tune: proposes schedules for a task, and makes kernels of them.

An engine is a class without arguments that is declared as an entry point of the group ``tunemesh.engines``.
Its methods take one record and return one. The mesh calls them in a sandboxed child process, one candidate a
call, so that a crash or a hang costs one candidate. Calls may come to any process in any order: an engine
keeps nothing between them that its results depend on (caches by content are fine).

What goes wrong with a *candidate* is data in the :class:`BuildOutcome`. What is wrong with the *input* raises
:class:`~shared.errors.BadInput`. Any other exception fails the step; ``MemoryError`` must not be caught.

A **kernel** is a shared object that exports one function, ``__tvm_ffi_main``, in TVM-FFI's packed calling
convention (``tvm/ffi/c_api.h``): ``int f(void* self, const TVMFFIAny* args, int32_t count, TVMFFIAny*
result)``. It takes the tensors of the workload, outputs last, as ``DLTensor`` on the target's device, writes
the outputs and returns 0. What made it does not matter to whoever measures, compares or links it.

Some parameters are constant in the model: weights (:func:`stage_workers.graph.workloads.weights_of`). A
kernel may want one in an order of its own. Then it exports ``__tvm_ffi_prepack_<n>`` too, called in the same
way, where n is the number of the parameter from 0: it takes the weight and a tensor with as many elements of
the same dtype, which it writes, and ``main`` takes that in place of the weight. Where that has another number
of elements, at most 16 times as many, the kernel exports ``__tvm_ffi_prepack_<n>_elements``, which takes
nothing and gives that number. Both may run on any machine.

Reading models, measuring, comparing, confirming and assembling are not the engine's: see
:mod:`stage_workers.platforms`.
"""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from tunemesh.shared.messages import Options, Outcome, Region, Trial


def prepack_name(number: int) -> str:
    """What the function of a kernel is called that puts the weight of this number into its order."""
    return f"prepack_{number}"


def elements_name(number: int) -> str:
    """What the function is called that says how many elements a weight has in its order, if not as many as it
    had."""
    return f"{prepack_name(number)}_elements"


class TaskRef(Struct, frozen=True, kw_only=True):
    """A task that somebody may tune.

    Attributes:
        workload: what is to be computed, in the format of the target's platform: for TVM's targets one TIR
            function, as :func:`stage_workers.graph.workloads.load` reads it.
        target: canonical form.
        name: for people, as the model's graph gives it: ``fused_conv2d_add_relu``.
        key: hash of workload and target.
    """

    workload: bytes
    target: str
    name: str
    key: str


class Examples(Struct, frozen=True, kw_only=True):
    """Trials of a task whose latencies can be compared: measured under the same conditions.

    Attributes:
        workload: as in :class:`TaskRef`.
        target: canonical form.
        trials: those that were measured.
        format: :attr:`Engine.format` of their schedules; what is in another one says nothing.
    """

    workload: bytes
    target: str
    trials: list[Trial]
    format: int = 1


class UpdateCall(Struct, frozen=True, kw_only=True):
    """What the next batch is proposed from.

    Attributes:
        workload: as in :class:`TaskRef`.
        target: canonical form.
        search: what the last call returned as :attr:`Proposal.search`; ``None`` starts a task.
        trials: candidates whose outcomes are new. Those of a batch may come with several calls.
        here: trials of the task by earlier jobs, under the conditions that this one is measured under.
        elsewhere: trials of the task under other conditions.
        seen: hashes of all schedules that were tried under these conditions before, whatever came of them:
            they are not proposed.
        want: candidates to propose.
        seed: of all chance.
        options: of the request, for this engine.
        similar: of a task that is new: the best trials of other tasks with the same operator. The engine
            decides which of them are like it.
        prior: what is known of other tasks, as :class:`Learned` has it; ``None`` for what comes with the
            engine.
        region: where to search, if not everywhere: see :meth:`Engine.placed`.
    """

    workload: bytes
    target: str
    search: bytes | None = None
    trials: list[Trial] = []
    here: list[Examples] = []
    elsewhere: list[Examples] = []
    seen: list[str] = []
    want: int
    seed: int
    options: Options = {}
    similar: list[Examples] = []
    prior: bytes | None = None
    region: Region | None = None


class Proposal(Struct, frozen=True, kw_only=True):
    """What one update gives.

    Attributes:
        search: the new search state, compressed; at most 256 KiB after 1,000 trials.
        schedules: hash and schedule of each candidate, most promising first. A hash is any text of 1 to 200
            characters; candidates of a task with the same hash compute the same in the same way. Fewer than
            wanted when there are no others.
        format: :attr:`Engine.format`, which is kept with what is measured.
    """

    search: bytes
    schedules: list[tuple[str, bytes]]
    format: int = 1


class PlacedCall(Struct, frozen=True, kw_only=True):
    """Schedules of a task whose space is split.

    Attributes:
        workload: as in :class:`TaskRef`.
        target: canonical form.
        schedules: those of :class:`Proposal`.
        regions: into how many, no more than :meth:`Engine.regions` says.
    """

    workload: bytes
    target: str
    schedules: list[bytes]
    regions: int


class Placed(Struct, frozen=True, kw_only=True):
    """Where schedules are.

    Attributes:
        numbers: of their regions, from 0, in the order of the call.
    """

    numbers: list[int]


class RankCall(Struct, frozen=True, kw_only=True):
    """Candidates of a task, to be compared without measuring them.

    Attributes:
        workload: as in :class:`TaskRef`.
        target: canonical form.
        schedules: those of :class:`Proposal`.
        prior: as in :class:`UpdateCall`.
    """

    workload: bytes
    target: str
    schedules: list[bytes]
    prior: bytes | None = None


class Ranking(Struct, frozen=True, kw_only=True):
    """How fast candidates should be.

    Attributes:
        scores: one per schedule of the call: logarithms of speed, to be compared with each other only.
            ``None`` where nothing can be said of one: it is of another kind, or cannot be replayed.
    """

    scores: list[float | None]


class LearnCall(Struct, frozen=True, kw_only=True):
    """What a prior is fitted to.

    Attributes:
        examples: to learn from.
        held_out: of other tasks, to compare priors on.
        prior: the one so far; ``None`` for what the engine ships itself.
    """

    examples: list[Examples]
    held_out: list[Examples]
    prior: bytes | None = None


class Quality(Struct, frozen=True, kw_only=True):
    """How well a prior ranks candidates that it was not fitted to.

    Attributes:
        tasks: that it was tried on.
        correlation: Spearman's, of expected and measured speed; mean of the tasks, from -1 to 1.
        top1: the best latency of a task over that of the candidate that should be the fastest; geometric
            mean.
        top8: the same for the best of the eight that should be the fastest.
    """

    tasks: int
    correlation: float
    top1: float
    top8: float


class Learned(Struct, frozen=True, kw_only=True):
    """A new prior.

    Attributes:
        prior: as :class:`UpdateCall` takes it.
        trials: that it was fitted to.
        tasks: that these are of.
        before: of the one so far, on what was held out; ``None`` where the engine had none.
        after: of the new one.
    """

    prior: bytes
    trials: int
    tasks: int
    before: Quality | None
    after: Quality


class BuildCall(Struct, frozen=True, kw_only=True):
    """One candidate to build.

    Attributes:
        workload: as in :class:`TaskRef`.
        target: canonical form.
        schedule: one of a :class:`Proposal`.
    """

    workload: bytes
    target: str
    schedule: bytes


class BuildOutcome(Struct, frozen=True, kw_only=True):
    """A kernel, or why there is none.

    Attributes:
        artifact: the bytes of the shared object.
        objects: machine code of the kernel for :class:`.AssembleCall`, where the engine's parts are functions
            of TIR: kept of what is confirmed, so that it is not compiled again.
        outcome: what became of the candidate, where there is no artifact.
        error: and why.
    """

    artifact: bytes | None = None
    objects: bytes = b""
    outcome: Outcome | None = None
    error: str = ""


class Source(Struct, frozen=True, kw_only=True):
    """A candidate as people read it.

    Attributes:
        text: a program or a schedule.
        language: that it is written in: ``C``, ``TIR``.
    """

    text: str
    language: str


class PartCall(Struct, frozen=True, kw_only=True):
    """One schedule that is to go into a model.

    Attributes:
        workload: as in :class:`TaskRef`.
        target: canonical form.
        schedule: one that was built and measured.
        symbol: what the function is to be called, where the part is an object; unique in the model.
    """

    workload: bytes
    target: str
    schedule: bytes
    symbol: str


class TirPart(Struct, frozen=True, kw_only=True, tag="tir"):
    """A scheduled function of TIR, compiled together with the rest of the model.

    Attributes:
        module: as :func:`stage_workers.graph.workloads.pack` writes it. Its ``main`` has the parameters of
            the workload's. A function :func:`prepack_name` for one of them takes a weight, and writes it in
            the order in which ``main`` takes it, and in that one's shape.
        way: how it computes the task, in a few words for people, where there are several ways.
    """

    module: bytes
    way: str = ""


class ObjectPart(Struct, frozen=True, kw_only=True, tag="object"):
    """Machine code, linked into the model.

    Attributes:
        code: a relocatable object of position-independent code that exports ``__tvm_ffi_<symbol>``, called
            like a kernel's ``__tvm_ffi_main``, and nothing else. It may need the C library and its
            mathematics.
        packs: numbers of the weights that it wants in an order of its own: for each it exports
            ``__tvm_ffi_<symbol>_prepack_<n>``, and ``__tvm_ffi_<symbol>_prepack_<n>_elements`` where it must,
            as a kernel does.
        way: as of :class:`TirPart`.
    """

    code: bytes
    packs: list[int] = []
    way: str = ""


Part = TirPart | ObjectPart


class TaskTrials(Struct, frozen=True, kw_only=True):
    """A task at its end.

    Attributes:
        workload: as in :class:`TaskRef`.
        trials: all of them; those that were confirmed with the latencies of that.
    """

    workload: bytes
    trials: list[Trial]


class ExportCall(Struct, frozen=True, kw_only=True):
    """All tasks of a job that this engine has tuned.

    Attributes:
        target: canonical form.
        tasks: in the order of the model.
    """

    target: str
    tasks: list[TaskTrials]


class Exported(Struct, frozen=True, kw_only=True):
    """Files for the person who asked for the job.

    Attributes:
        files: by name, without folders: records in the format that others use, for example. May be empty.
    """

    files: dict[str, bytes] = {}


class ReadCall(Struct, frozen=True, kw_only=True):
    """What another program that tunes has written down.

    Attributes:
        files: by name, without folders.
    """

    files: dict[str, bytes]


class ReadTask(Struct, frozen=True, kw_only=True):
    """A task of such files.

    Attributes:
        name: for people.
        key: as :attr:`TaskRef.key`.
        target: canonical form.
        workload: as in :class:`TaskRef`.
        trials: with schedules in this engine's format.
    """

    name: str
    key: str
    target: str
    workload: bytes
    trials: list[Trial]


class ReadRecords(Struct, frozen=True, kw_only=True):
    """What could be read.

    Attributes:
        tasks: each once.
        format: of their schedules.
        skipped: what could not and why, one sentence each.
    """

    tasks: list[ReadTask]
    format: int = 1
    skipped: list[str] = []


class Engine(Protocol):
    """How to tune.

    Attributes:
        name: that of its entry point.
        format: of its schedules. Schedules of another format are not given to it.
    """

    name: str
    format: int

    def preload(self) -> None:
        """Import what is slow to import. Runs once in the process that children are forked from, so it
        must neither start threads nor touch a device."""

    def objection(self, task: TaskRef) -> str:
        """Why it cannot tune ``task``, in one line for people; empty where it can. What all engines of a job
        object to stays untuned."""

    def check_options(self, options: Options) -> None:
        """Check what a request says to this engine; :func:`stage_workers.options.read` helps.

        Raises:
            BadInput: an option is unknown or its value is bad; one line that says what would be right.
        """

    def update(self, call: UpdateCall) -> Proposal:
        """Learn from the trials and propose schedules that were never proposed for the task before.

        Deterministic: equal calls give equal proposals, in every process.
        """

    def regions(self, task: TaskRef) -> int:
        """Into how many regions the space of a task's schedules can be split; 1 where it cannot."""

    def placed(self, call: PlacedCall) -> Placed:
        """In which region each schedule is. With a :attr:`~UpdateCall.region`, :meth:`update` proposes what
        is in that one, and nothing else: searches of other regions know nothing of it. A schedule is in the
        same region in every process; best is what keeps schedules together that are much alike."""

    def rank(self, call: RankCall) -> Ranking:
        """Say how fast candidates should be, by what is known of other tasks."""

    def learn(self, call: LearnCall) -> Learned:
        """Fit what is known of tasks in general.

        Raises:
            BadInput: it has no use for that, or there is too little to learn from or to compare on.
        """

    def build(self, call: BuildCall) -> BuildOutcome:
        """Make a kernel of one candidate."""

    def source(self, call: BuildCall) -> Source:
        """One candidate, for people to read."""

    def part(self, call: PartCall) -> Part:
        """What goes into the model for one schedule. It computes what the kernel of :meth:`build` computed,
        as fast."""

    def export(self, call: ExportCall) -> Exported:
        """Write down what was measured, in the engine's own formats."""

    def read(self, call: ReadCall) -> ReadRecords:
        """Read what others have measured, in the formats that :meth:`export` writes.

        Raises:
            BadInput: these are no such files.
        """
