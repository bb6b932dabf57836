"""An engine that sleeps instead of working: for tests, for studying the scheduler, for trying the mesh out.

A model is a YAML text::

    seed: 0                  # of the landscape: the same seed and candidate have the same latency
    tasks:
      - name: conv1
        weight: 2            # how often the model runs it (1)
        untuned: 0.010       # latency without tuning, seconds (0.01)
        best: 0.001          # latency of the best candidate, seconds (a tenth of untuned)
        spread: 9            # the worst candidate takes best * (1 + spread) seconds (9)
        space: 100000        # number of different candidates (1000000)
        durations: {profile: 0.2}                    # override those below
        failures: {build-crash: {indices: [3]}}      # come on top of those below
    durations:               # seconds that a stage takes, per candidate for build and profile; a number, or
      import: 0              # [low, high] for a deterministic choice between the two
      model-update: 0.01
      build: [0.01, 0.03]
      profile: 0.02
      assemble: 0
      validate: 0
    failures:                # which candidates fail, and how; all kinds are real, not pretended
      build-error: {every: 10}                       # every tenth
      profile-crash: {indices: [0, 7]}               # counted from 0 over all rounds of a task
      wrong-result: {probability: 0.05}              # deterministic in seed and candidate
    stages:                  # whole stages that fail: crash, hang, memory or error
      assemble: error
    equal: true              # whether validation finds the tuned model to compute the same

Kinds of candidate failures: ``build-error``, ``build-crash`` (segmentation fault), ``build-hang`` (waits for
a process that never ends), ``build-memory`` (allocates without end), ``profile-error``, ``profile-crash``,
``profile-hang``, ``profile-memory``, ``wrong-result``.

Candidates are proposed in an order that depends on the step's seed, each once, until the space is exhausted.
Every string that starts with ``mock`` is a target and is its own canonical form.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import subprocess
import time
from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from tunemesh.shared.errors import BadModel, BadTarget
from tunemesh.shared.messages import Settings, Stage, Trial
from tunemesh.stage_workers.engines.protocol import (
    CONFIRMED,
    Assembled,
    BuildOutcome,
    ExtractedTask,
    Imported,
    ProfileOutcome,
    Proposal,
    TaskTrials,
    Validated,
    estimate,
    latency,
    leaders,
)

Trouble = Literal["crash", "hang", "memory", "error"]
FailureKind = Literal[
    "build-error", "build-crash", "build-hang", "build-memory",
    "profile-error", "profile-crash", "profile-hang", "profile-memory",
    "wrong-result",
]  # fmt: skip
BUILD_TROUBLES: Mapping[FailureKind, Trouble] = {
    "build-crash": "crash", "build-hang": "hang", "build-memory": "memory",
}  # fmt: skip
PROFILE_TROUBLES: Mapping[FailureKind, Trouble] = {
    "profile-crash": "crash", "profile-hang": "hang", "profile-memory": "memory",
}  # fmt: skip
Latency = Annotated[float, Meta(gt=0)]
Delay = Annotated[float, Meta(ge=0)]
# Not a tuple: msgspec 0.22 crashes in garbage collection on a constrained number in a union with a tuple.
Duration = Delay | Annotated[list[Delay], Meta(min_length=2, max_length=2)]

DIGEST = 8
"""Bytes of a candidate's hash that the search state remembers it by."""


class Which(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which candidates something happens to: any that one of the conditions names."""

    indices: list[Annotated[int, Meta(ge=0)]] = []
    every: Annotated[int, Meta(ge=1)] | None = None
    probability: Annotated[float, Meta(ge=0, le=1)] = 0.0

    def holds(self, index: int, chance: float) -> bool:
        """Whether candidate ``index`` is one of them; ``chance`` is its own number in [0, 1)."""
        return (
            index in self.indices
            or (self.every is not None and (index + 1) % self.every == 0)
            or chance < self.probability
        )


class MockTask(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One task of a model."""

    name: str
    weight: Annotated[int, Meta(ge=1)] = 1
    untuned: Latency = 0.01
    best: Latency | None = None
    spread: Delay = 9.0
    space: Annotated[int, Meta(ge=1)] = 1_000_000
    durations: dict[Stage, Duration] = {}
    failures: dict[FailureKind, Which] = {}


class MockModel(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole model, as in the YAML text."""

    tasks: Annotated[list[MockTask], Meta(min_length=1, max_length=1000)]
    seed: Annotated[int, Meta(ge=0)] = 0
    durations: dict[Stage, Duration] = {}
    failures: dict[FailureKind, Which] = {}
    stages: dict[Stage, Trouble] = {}
    equal: bool = True


class Workload(Struct, frozen=True, kw_only=True):
    """What a step needs to know of its task; durations and failures are already merged."""

    seed: int
    task: MockTask
    update: Trouble | None = None


class Schedule(Struct, frozen=True):
    """The ``index``-th proposal of its task is ``point`` of the space."""

    index: int
    point: int


class Search(Struct, frozen=True):
    """Where the search of a task stands."""

    proposed: int
    measured: bytes
    """The first :data:`DIGEST` bytes of the hash of each tried candidate."""
    best: list[tuple[float, str, bytes]] = []
    """Latency, hash and schedule of the best few, best first."""


class MockProgram(Struct, frozen=True, kw_only=True):
    """An assembled model: nothing but its latency in seconds."""

    latency: float
    model: MockModel


class MockEngine:
    """See the module's text. Implements :class:`stage_workers.engines.protocol.Engine`."""

    def preload(self) -> None:
        """Nothing is slow to import."""

    def resolve_target(self, target: str) -> str:
        """``target`` itself, when it starts with ``mock``."""
        if not target.startswith("mock"):
            raise BadTarget(f"unknown target {target!r}: those of the mock engine start with 'mock'")
        return target

    def import_model(self, model: bytes, target: str, settings: Settings) -> Imported:
        """One task per entry of ``tasks``."""
        self.resolve_target(target)
        parsed = _parse(model)
        _suffer(parsed.stages.get("import"))
        _work(parsed.durations, "import", parsed.seed)
        tasks = [_extract(parsed, task, target) for task in parsed.tasks]
        return Imported(model=msgspec.msgpack.encode(parsed), tasks=tasks)

    def update(
        self,
        workload: bytes,
        target: str,
        search: bytes | None,
        trials: list[Trial],
        want: int,
        seed: int,
        settings: Settings,
    ) -> Proposal:
        """The next ``want`` candidates of an order that visits each point of the space once."""
        work = msgspec.msgpack.decode(workload, type=Workload)
        _suffer(work.update)
        state = Search(0, b"") if search is None else msgspec.msgpack.decode(search, type=Search)
        _work(work.task.durations, "model-update", state.proposed)
        measured = state.measured + b"".join(_digest(trial.candidate.hash) for trial in trials)
        known = {measured[i : i + DIGEST] for i in range(0, len(measured), DIGEST)}
        best = state.best + [
            (estimate(trial), trial.candidate.hash, trial.candidate.schedule)
            for trial in trials
            if trial.outcome == "measured"
        ]
        best = sorted(best)[:CONFIRMED]
        schedules = [] if want else leaders(best)
        proposed = state.proposed
        while len(schedules) < want and proposed < work.task.space:
            schedule = Schedule(proposed, _permuted(proposed, work.task.space, seed))
            name = _hash(work, schedule.point)
            if _digest(name) not in known:
                schedules.append((name, msgspec.msgpack.encode(schedule)))
            proposed += 1
        return Proposal(search=msgspec.msgpack.encode(Search(proposed, measured, best)), schedules=schedules)

    def build(self, workload: bytes, target: str, schedule: bytes) -> BuildOutcome:
        """Sleeps; the artifact is the schedule itself."""
        work, chosen = _candidate(workload, schedule)
        _work(work.task.durations, "build", chosen.point)
        _suffer(_trouble(work, chosen, BUILD_TROUBLES))
        if _fails(work, chosen, "build-error"):
            error = f"mock compiler: no code for candidate {chosen.index}"
            return BuildOutcome(outcome="build-failed", error=error)
        return BuildOutcome(artifact=schedule)

    def profile(
        self,
        workload: bytes,
        target: str,
        artifact: bytes,
        untuned: bytes,
        device: str,
        settings: Settings,
        best: float | None,
    ) -> ProfileOutcome:
        """Sleeps; the latency is that of the landscape."""
        work, chosen = _candidate(workload, artifact)
        _work(work.task.durations, "profile", chosen.point)
        _suffer(_trouble(work, chosen, PROFILE_TROUBLES))
        if _fails(work, chosen, "profile-error"):
            error = f"mock device: cannot run candidate {chosen.index}"
            return ProfileOutcome(outcome="run-failed", error=error)
        if _fails(work, chosen, "wrong-result"):
            return ProfileOutcome(outcome="wrong-result", error="output 0 differs by 1.0, allowed is 1e-05")
        took = _latency(work, chosen.point)
        slow = best is not None and settings.cut_short is not None and took >= settings.cut_short * best
        repeats = 1 if slow else settings.repeats
        return ProfileOutcome(outcome="measured", latencies=[took] * repeats, cut_short=slow)

    def profile_untuned(
        self, workload: bytes, target: str, untuned: bytes, device: str, settings: Settings
    ) -> ProfileOutcome:
        """The latency that the model states."""
        work = msgspec.msgpack.decode(workload, type=Workload)
        _work(work.task.durations, "profile", -1)
        return ProfileOutcome(outcome="measured", latencies=[work.task.untuned] * settings.repeats)

    def confirm(
        self,
        workload: bytes,
        target: str,
        artifacts: list[bytes],
        untuned: bytes,
        device: str,
        settings: Settings,
    ) -> list[ProfileOutcome]:
        """As if each was profiled alone."""
        return [self.profile(workload, target, each, untuned, device, settings, None) for each in artifacts]

    def reference(self, target: str, device: str) -> list[float]:
        """A device that is always the same."""
        return [1e-3] * 5

    def assemble(self, model: bytes, target: str, tasks: list[TaskTrials], settings: Settings) -> Assembled:
        """Latencies are weighted sums over the tasks; a task without a better trial keeps its untuned one."""
        parsed = msgspec.msgpack.decode(model, type=MockModel)
        _suffer(parsed.stages.get("assemble"))
        _work(parsed.durations, "assemble", parsed.seed)
        before = sum(task.weight * task.untuned for task in parsed.tasks)
        after, records = before, []
        for each in tasks:
            task = msgspec.msgpack.decode(each.workload, type=Workload).task
            best = min([task.untuned, *map(latency, each.trials)]) if each.apply else task.untuned
            after -= task.weight * (task.untuned - best)
            records.append(
                {"task": task.name, "untuned": task.untuned, "best": best, "trials": len(each.trials)}
            )
        return Assembled(
            tuned=msgspec.msgpack.encode(MockProgram(latency=after, model=parsed)),
            untuned=msgspec.msgpack.encode(MockProgram(latency=before, model=parsed)),
            signature=msgspec.json.encode({"inputs": []}),
            files={"records.json": msgspec.json.format(msgspec.json.encode(records))},
        )

    def validate(
        self,
        tuned: bytes,
        untuned: bytes,
        signature: bytes,
        target: str,
        device: str,
        seed: int,
        settings: Settings,
    ) -> Validated:
        """What ``assemble`` computed."""
        after = msgspec.msgpack.decode(tuned, type=MockProgram)
        before = msgspec.msgpack.decode(untuned, type=MockProgram)
        _suffer(after.model.stages.get("validate"))
        _work(after.model.durations, "validate", seed)
        return Validated(
            before=[before.latency],
            after=[after.latency],
            largest_difference=0.0 if after.model.equal else 1.0,
            equal=after.model.equal,
        )


def _parse(model: bytes) -> MockModel:
    try:
        parsed = msgspec.yaml.decode(model, type=MockModel)
    except msgspec.ValidationError as error:
        raise BadModel(f"not a model of the mock engine: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadModel(f"not a YAML text: {' '.join(str(error).split())[:300]}") from None
    names = [task.name for task in parsed.tasks]
    if doubled := next((name for name in names if names.count(name) > 1), None):
        raise BadModel(f"two tasks are called {doubled!r}; names must differ")
    return parsed


def _extract(model: MockModel, task: MockTask, target: str) -> ExtractedTask:
    merged = msgspec.structs.replace(
        task, durations={**model.durations, **task.durations}, failures={**model.failures, **task.failures}
    )
    workload = msgspec.msgpack.encode(
        Workload(seed=model.seed, task=merged, update=model.stages.get("model-update"))
    )
    return ExtractedTask(
        name=task.name,
        key=hashlib.sha256(workload + target.encode()).hexdigest(),
        weight=task.weight,
        workload=workload,
        untuned=b"untuned " + task.name.encode(),
    )


def _candidate(workload: bytes, schedule: bytes) -> tuple[Workload, Schedule]:
    return msgspec.msgpack.decode(workload, type=Workload), msgspec.msgpack.decode(schedule, type=Schedule)


def _number(*parts: object) -> int:
    """A 64-bit number that depends on ``parts`` and on nothing else."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _fraction(*parts: object) -> float:
    """Like :func:`_number`, in [0, 1)."""
    return (_number(*parts) >> 11) / 2**53


def _hash(work: Workload, point: int) -> str:
    return hashlib.sha256(f"{work.seed}/{work.task.name}/{point}".encode()).hexdigest()


def _digest(name: str) -> bytes:
    return bytes.fromhex(name[: 2 * DIGEST])


def _permuted(index: int, space: int, seed: int) -> int:
    """The ``index``-th point in an order of the space: an affine map whose factor is coprime to ``space``."""
    factor = _number("factor", seed, space) % space
    while math.gcd(factor, space) != 1:
        factor += 1
    return (factor * index + _number("offset", seed, space)) % space


def _latency(work: Workload, point: int) -> float:
    best = work.task.best if work.task.best is not None else work.task.untuned / 10
    return best * (1 + work.task.spread * _fraction("latency", work.seed, work.task.name, point))


def _fails(work: Workload, chosen: Schedule, kind: FailureKind) -> bool:
    which = work.task.failures.get(kind)
    return which is not None and which.holds(
        chosen.index, _fraction(kind, work.seed, work.task.name, chosen.point)
    )


def _trouble(work: Workload, chosen: Schedule, kinds: Mapping[FailureKind, Trouble]) -> Trouble | None:
    return next((trouble for kind, trouble in kinds.items() if _fails(work, chosen, kind)), None)


def _work(durations: Mapping[Stage, Duration], stage: Stage, key: int) -> None:
    duration = durations.get(stage, 0.0)
    if isinstance(duration, list):
        low, high = duration
        duration = low + (high - low) * _fraction(stage, key)
    time.sleep(duration)


def _suffer(trouble: Trouble | None) -> None:
    """Fail as real code does."""
    match trouble:
        case None:
            return
        case "crash":
            ctypes.string_at(0)  # reads address 0: a segmentation fault
        case "hang":
            # As a compiler does whose linker never comes back: both have to be got rid of.
            subprocess.run(["sleep", "infinity"], check=False)
        case "memory":
            hoard = []
            while True:
                hoard.append(b"x" * 2**24)
        case "error":
            raise RuntimeError("mock engine: failing as the model asks")
