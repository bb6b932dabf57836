"""What a worker made of a step.

Decoding checks the form of a result. Whether it makes sense as the answer to a step is a second check, which
every kind of result has: ``problem`` says in one line why it is no answer, or nothing.

Over 400 lines: one kind of result after the other.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Annotated

from msgspec import Meta, Struct

from tunemesh.shared.messages.basics import (
    Blob,
    Count,
    Drift,
    ErrorText,
    Headers,
    JobId,
    Message,
    Nonce,
    Positive,
    Seconds,
    TaskId,
    step_id,
    tag_of,
)
from tunemesh.shared.messages.requests import INLINE_LIMIT, MOST_VARIANTS
from tunemesh.shared.messages.steps import Step
from tunemesh.shared.messages.tasks import (
    BUILD_FAILURES,
    Built,
    Candidate,
    Conditions,
    Known,
    Profiled,
    TaskSpec,
    TaskState,
    Timing,
)
from tunemesh.shared.text import clip

MOST_TASKS = 10_000
"""Of one job. Real models have up to a few hundred."""
MOST_NOTES = 100
"""Of one job."""
MOST_OF_WAY = 80
"""Characters that say how a kernel computes its task."""

FILE_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
OWN_FILES = frozenset({"model.so", "report.json", "signature.json"})
"""Names in a folder of results that a further file may not have."""


Size = Annotated[float, Meta(ge=0, le=1e300)]

MOST_CHECKED = 100
"""Outputs whose comparison a message tells: those that are furthest off."""


class OutputCheck(Struct, frozen=True, kw_only=True):
    """One output of a model beside what it should be, element by element."""

    name: str
    dtype: str
    elements: Count
    compared: Count
    """Of these, where a finite value was expected, and rounding does not decide whether it is one."""
    units: Size
    """The largest difference, in units of what its element may be off; up to 1 is right."""
    difference: Size
    """That of the same element, absolute."""
    tolerance: Size
    """What that element may be off."""
    largest: Size = 0.0
    """The largest difference of all, absolute."""
    relative: Size = 0.0
    """The root mean square of the differences, as a share of that of the output."""
    choices: Annotated[float, Meta(ge=0, le=1)] | None = None
    """Share of the rows, along the last axis, whose largest element is the same one: of a classifier, how
    often both choose the same class. Nothing where a row has one element, or some are not finite."""
    leeway: Size = 0.0
    """What half of the elements may be off at least, as a share of the root mean square of the output. Where
    that is a large part of one, rounding alone decides much of the output, and agreeing says little."""


def furthest(outputs: Sequence[OutputCheck]) -> list[OutputCheck]:
    """Those that are told: all, or the furthest off."""
    if len(outputs) <= MOST_CHECKED:
        return list(outputs)
    return sorted(outputs, key=lambda each: -each.units)[:MOST_CHECKED]


class Judgement(Struct, frozen=True, kw_only=True):
    """How a model compares with the framework that it comes from."""

    judge: str = ""
    """Whose outputs were taken for right: ``ONNX Runtime 1.31.1``; nothing where there is no judge."""
    reason: str = ""
    """Why there is none."""
    inputs: str = ""
    """What both were run on."""
    outputs: list[OutputCheck] = []


class ImportDone(Struct, frozen=True, kw_only=True, tag="import"):
    model: Blob
    tasks: Annotated[list[TaskSpec], Meta(max_length=MOST_TASKS)]
    sample: Blob | None = None
    """Inputs, and what the model should make of them, in the format of the target's platform: ``validate``
    compares with it."""
    judged: list[Judgement] = []
    """The model without tuning, for each set of shapes, beside the framework that it comes from."""
    objects: Blob | None = None
    """Machine code of the functions that were compiled: ``assemble`` does not compile them again."""
    known: dict[TaskId, Known] = {}
    """By task: what an earlier job has measured of it, so that it is not tuned again."""

    def problem(self, engines: Collection[str]) -> str:
        """Why this is no answer to an ``import`` for a job with these engines."""
        ids = [task.id for task in self.tasks]
        if len(set(ids)) < len(ids) or "-" in ids:
            return "its tasks do not have different names"
        if strange := {task.engine for task in self.tasks} - {None, *engines}:
            return f"a task is for engine {sorted(map(str, strange))[0]}, which the job does not name"
        if split := next((task.id for task in self.tasks if task.region is not None), ""):
            return f"it says in which region {split} is to be searched, which is for the coordinator to say"
        searches: dict[str, list[TaskSpec]] = {}
        for task in self.tasks:
            searches.setdefault(task.key, []).append(task)
        for each in searches.values():
            taken = [task.engine for task in each]
            if len(set(taken)) < len(taken) or (None in taken and len(taken) > 1):
                return f"the searches of {each[0].id} are not all for different engines"
            if len({task.weight for task in each}) > 1:
                return f"the searches of {each[0].id} do not agree on its weight"
        engines_by_id = {task.id: task.engine for task in self.tasks}
        if strange_ids := [each for each in self.known if engines_by_id.get(each) is None]:
            return f"it knows {clip(strange_ids[0], 40)}, which is no task that an engine takes"
        confirmed = [each.latencies for known in self.known.values() for each in known.confirmed]
        if not all(latencies and min(latencies) > 0 for latencies in confirmed):
            return "what it knows was confirmed without a latency, or with one that is not above 0"
        blobs = [blob for task in self.tasks for blob in (task.workload, task.untuned)]
        blobs += [blob for blob in (self.sample, self.objects) if blob is not None]
        return _too_large([self.model, *blobs, *(b for each in self.known.values() for b in each.history)])


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

    def problem(self, want: int, round_: int, chunks: int, largest: int, recalled: int = 0) -> str:
        """Why this is no answer to a ``model-update``.

        Args:
            want: candidates that were asked for; 0 in the update that closes a task.
            round_: number of the update, from 0.
            chunks: chunks of the round before, whose trials it could learn from.
            largest: candidates that a chunk may have.
            recalled: rounds of other jobs that the search began from.
        """
        count = len(self.candidates)
        if count > (want or largest):
            return f"it has {count} candidates, asked were {want or largest} at most"
        if [each.index for each in self.candidates] != list(range(count)):
            return "its candidates are not numbered from 0 on"
        if len({each.hash for each in self.candidates}) < count:
            return "it proposes a candidate twice"
        if self.exhausted != (count < want):
            return f"it has {count} of {want} candidates and says exhausted: {self.exhausted}"
        if len(set(self.learned)) < len(self.learned) or any(each >= chunks for each in self.learned):
            return "it has learned from chunks that there are not"
        if len(self.state.history) > round_ + recalled:
            return f"it has a history of {len(self.state.history)} rounds after {round_ + recalled}"
        if self.chunk_size > largest:
            return f"it wants chunks of {self.chunk_size}, the largest allowed is {largest}"
        if not want and count > self.chunk_size:
            return f"it wants {count} candidates that are to take turns in chunks of {self.chunk_size}"
        return ""


class BuildDone(Struct, frozen=True, kw_only=True, tag="build"):
    built: list[Built]

    def problem(self, asked: Collection[int]) -> str:
        """Why this is no answer to a ``build`` of the candidates with these indices."""
        if why := _not_those([each.index for each in self.built], asked):
            return why
        for each in self.built:
            if (each.artifact is None) == (each.outcome is None):
                return f"candidate {each.index} has not either an artifact or an outcome"
            if each.outcome is not None and each.outcome not in BUILD_FAILURES:
                return f"candidate {each.index} has outcome {each.outcome}, which no build has"
        return _too_large(each.objects for each in self.built if each.objects is not None)


class ProfileDone(Struct, frozen=True, kw_only=True, tag="profile"):
    profiled: list[Profiled]
    rivals: dict[TaskId, list[Profiled]] = {}
    """The same of ``rivals`` of the step."""
    in_turns: bool = False
    """Whether all of them that were measured took turns, so that their latencies can be compared one by
    one."""
    untuned: Seconds | None = None
    """Median latency of the untuned workload in seconds, where asked for."""
    untuned_error: ErrorText = ""
    """Why the untuned workload could not be measured, where it was asked for."""
    drift: Drift = 0.0
    """The largest that was left after measuring again."""
    conditions: Conditions | None = None

    def problem(
        self, asked: Collection[int], baseline: bool, rivals: Mapping[TaskId, Collection[int]] | None = None
    ) -> str:
        """Why this is no answer to a ``profile`` of the candidates with these indices.

        Args:
            baseline: whether the untuned workload was to be measured, too.
            rivals: candidates of other searches that were to be measured with them.
        """
        others = rivals or {}
        if self.rivals.keys() != others.keys():
            named = [", ".join(sorted(each)) or "none" for each in (self.rivals, others)]
            return f"it answers for the searches {clip(named[0], 200)} besides, asked were {named[1]}"
        pairs = [(self.profiled, asked), *((self.rivals[each], others[each]) for each in others)]
        for profiled, those in pairs:
            if why := _not_those([each.index for each in profiled], those) or _not_measured(profiled):
                return why
        if self.untuned is not None and (not baseline or self.untuned <= 0):
            return "it has a latency of the untuned workload that was not asked for, or is not above 0"
        return ""


class AssembleDone(Struct, frozen=True, kw_only=True, tag="assemble"):
    tuned: Blob
    untuned: Blob
    signature: Blob
    files: dict[str, Blob]
    """Further files for the person, by name: the tuning database, for example."""
    records: Blob
    """MessagePack list of :class:`TaskRecords`: every task with everything that was measured."""
    notes: Annotated[list[ErrorText], Meta(max_length=MOST_NOTES)] = []
    """What was not done with the model and why, one sentence each."""
    ways: dict[TaskId, Annotated[str, Meta(max_length=MOST_OF_WAY)]] = {}
    """How the kernel of a task computes it, in a few words, where there are several ways: directly, or by
    Winograd's algorithm."""

    def problem(self) -> str:
        """Why this is no answer to an ``assemble``."""
        for name in self.files:
            if re.fullmatch(FILE_NAME, name) is None or name in OWN_FILES:
                return f"{clip(name, 60)!r} is no name for a further file"
        return _too_large([self.tuned, self.untuned, self.signature, self.records, *self.files.values()])


class VariantLatency(Struct, frozen=True):
    """How long one set of shapes takes, in seconds, before and after tuning."""

    before: Seconds
    after: Seconds


class ValidateDone(Struct, frozen=True, kw_only=True, tag="validate"):
    latency_before: Seconds
    """Of one run with each set of shapes, like the next."""
    latency_after: Seconds
    """Of the job's result: of the untuned model where the tuned one was ``rejected``."""
    largest_difference: Annotated[float, Meta(ge=0)]
    """Largest absolute difference between tuned and untuned outputs."""
    equal: bool
    """Whether all outputs agree, and something was compared in each."""
    wrong: ErrorText = ""
    """What does not agree, in one line."""
    outputs: list[OutputCheck] = []
    """The tuned model beside the untuned one."""
    judged: list[Judgement] = []
    """The tuned model, for each set of shapes, beside the framework that the model comes from."""
    variants: Annotated[list[VariantLatency], Meta(max_length=MOST_VARIANTS)] = []
    """Of each set of shapes, in the order of the request, as they were measured; none where there is only
    one."""
    drift: Drift = 0.0
    """How much slower than usual the device was meanwhile: 0.1 is 10 %."""
    rejected: Seconds | None = None
    """Latency of the tuned model where it is clearly slower than the untuned one, which then is the result:
    said by the coordinator."""

    def problem(self) -> str:
        """Why this is no answer to a ``validate``."""
        if self.rejected is not None:
            return "it says that the model was rejected, which is not for a worker to say"
        latencies = [self.latency_before, self.latency_after]
        latencies += [latency for each in self.variants for latency in (each.before, each.after)]
        if not all(latency > 0 for latency in latencies):
            return "a latency is not above 0"
        return ""


MOST_LESSONS = 50
"""Families of devices that a message tells of."""


class LearnDone(Struct, frozen=True, kw_only=True, tag="learn"):
    said: Annotated[list[ErrorText], Meta(max_length=MOST_LESSONS)] = []
    """What came of it, one line for each family of devices."""
    learned: Count = 0
    """Families of which something was."""
    gave_way: bool = False
    """Other work came before it was done: it is to be asked again."""


class Failure(Struct, frozen=True, kw_only=True, tag="failure"):
    """The step as a whole could not be done; trying it again would not help."""

    error: ErrorText


Result = ImportDone | UpdateDone | BuildDone | ProfileDone | AssembleDone | ValidateDone | LearnDone | Failure


class StepResult(Message, frozen=True, kw_only=True, tag="step-result"):
    """What a worker made of a step. Published to ``tunemesh.results`` with key ``result.<stage>``."""

    job: JobId
    task: TaskId = "-"
    round: Count = 0
    chunk: Count = 0
    timing: Timing
    result: Result
    nonce: Nonce = ""
    """That of the step."""

    @classmethod
    def of(cls, step: Step, timing: Timing, result: Result) -> StepResult:
        """The answer to a step."""
        return cls(
            job=step.job,
            task=step.task,
            round=step.round,
            chunk=step.chunk,
            timing=timing,
            result=result,
            nonce=step.nonce,
        )

    def problem(self) -> str:
        """Why it contradicts itself, whatever was asked."""
        stage = self.timing.stage
        with_round = stage in ("model-update", "build", "profile")
        with_chunk = stage in ("build", "profile")
        step = step_id(
            self.job, self.task, self.round if with_round else None, self.chunk if with_chunk else None, stage
        )
        if step != self.timing.step or with_round == (self.task == "-"):
            return f"it is for step {self.timing.step}, but says that it is for {step}"
        if tag_of(self.result) not in (stage, "failure"):
            return f"it answers the stage {stage} with a result of {tag_of(self.result)}"
        if self.timing.finished < self.timing.started:
            return "it was finished before it was started"
        return ""

    def message_id(self) -> str:
        return f"{self.timing.step}/{self.nonce}/result"

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


def _too_large(blobs: Iterable[Blob]) -> str:
    """Why the ledger of a job could not hold these."""
    if any(len(blob.data or b"") > INLINE_LIMIT for blob in blobs):
        return f"it has more than {INLINE_LIMIT:,} bytes in the message that belong into the artifact store"
    return ""


def _not_measured(profiled: Iterable[Profiled]) -> str:
    """Why these cannot be what became of candidates."""
    for each in profiled:
        measured = each.outcome == "measured"
        if measured != bool(each.latencies):
            return f"candidate {each.index} is {each.outcome}, with {len(each.latencies)} latencies"
        if not all(latency > 0 for latency in each.latencies):
            return f"candidate {each.index} has a latency that is not above 0"
    return ""


def _not_those(found: list[int], asked: Collection[int]) -> str:
    """Why these are not the candidates that were asked for, each once."""
    if sorted(found) == sorted(asked):
        return ""
    return f"it answers for candidates {_listed(found)}, asked were {_listed(asked)}"


def _listed(indices: Collection[int]) -> str:
    shown = [str(index) for index in sorted(indices)[:10]]
    return ", ".join(shown) + (", ..." if len(indices) > len(shown) else "") if shown else "none"
