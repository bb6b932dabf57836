"""The world of the mock: its models, how fast their candidates are, and which of them fail.

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

The target ``mock broken=1764288000-1764288060`` is a device that does not work, whatever is to run on it,
between two moments in Unix time.
"""

from __future__ import annotations

import ctypes
import hashlib
import subprocess
import time
from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from tunemesh.shared.errors import BadModel, BadTarget
from tunemesh.shared.messages import Stage

BROKEN = " broken="
"""In a target: when its device does not work."""
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


def parse(model: bytes) -> MockModel:
    """A model from its YAML text.

    Raises:
        BadModel: it is none.
    """
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


def read_candidate(workload: bytes, schedule: bytes) -> tuple[Workload, Schedule]:
    """Both from their bytes."""
    return msgspec.msgpack.decode(workload, type=Workload), msgspec.msgpack.decode(schedule, type=Schedule)


def number(*parts: object) -> int:
    """A 64-bit number that depends on ``parts`` and on nothing else."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def fraction(*parts: object) -> float:
    """Like :func:`number`, in [0, 1)."""
    return (number(*parts) >> 11) / 2**53


def latency(work: Workload, point: int) -> float:
    """Of a point of the space, in seconds."""
    best = work.task.best if work.task.best is not None else work.task.untuned / 10
    return best * (1 + work.task.spread * fraction("latency", work.seed, work.task.name, point))


def fails(work: Workload, chosen: Schedule, kind: FailureKind) -> bool:
    """Whether a candidate fails in this way."""
    which = work.task.failures.get(kind)
    return which is not None and which.holds(
        chosen.index, fraction(kind, work.seed, work.task.name, chosen.point)
    )


def trouble_of(work: Workload, chosen: Schedule, kinds: Mapping[FailureKind, Trouble]) -> Trouble | None:
    """The trouble that a candidate gives, of those in ``kinds``."""
    return next((trouble for kind, trouble in kinds.items() if fails(work, chosen, kind)), None)


def spend(durations: Mapping[Stage, Duration], stage: Stage, key: int) -> None:
    """Sleep for as long as the stage takes; ``key`` chooses where that is a range."""
    duration = durations.get(stage, 0.0)
    if isinstance(duration, list):
        low, high = duration
        duration = low + (high - low) * fraction(stage, key)
    time.sleep(duration)


def broken(target: str) -> tuple[float, float]:
    """From when until when the device of a target does not work, in Unix time.

    Raises:
        BadTarget: these are no two numbers.
    """
    _, found, text = target.partition(BROKEN)
    try:
        since, until = map(float, text.split("-")) if found else (0.0, 0.0)
    except ValueError:
        raise BadTarget(f"{text!r} in the target {target!r} is not FROM-UNTIL in Unix time") from None
    return since, until


def need_device(target: str) -> None:
    """Fail as a driver does, while the device of ``target`` does not work."""
    since, until = broken(target)
    if since <= time.time() < until:
        raise RuntimeError("mock device: error 304, it does not work now")


def suffer(trouble: Trouble | None) -> None:
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
