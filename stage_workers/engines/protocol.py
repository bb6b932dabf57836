"""The boundary between the mesh and what knows how to tune.

An engine offers plain functions on plain data. The mesh calls them in a sandboxed child process, one
candidate per call, so that a crash or a hang costs one candidate. What goes wrong with a *candidate* is
data in the result (:class:`~shared.messages.Built`, :class:`~shared.messages.Profiled`). What is wrong with
the *input* raises :class:`~shared.errors.BadModel` or :class:`~shared.errors.BadTarget`.
"""

from __future__ import annotations

import math
import statistics
from typing import Protocol

from msgspec import Struct

from tunemesh.shared.messages import Outcome, Settings, Trial

CONFIRMED = 4
"""Candidates of a task that are confirmed at its end, at most."""

CLOSE = 1.1
"""Candidates that took up to so many times as long as the best one are confirmed with it. Between others the
difference is larger than the noise of a measurement."""


class ExtractedTask(Struct, frozen=True, kw_only=True):
    """One distinct workload of a model."""

    name: str
    key: str
    """SHA-256 (hex) over the structural hash of the workload and the target."""
    weight: int
    workload: bytes
    untuned: bytes
    """Linked shared object of the workload without tuning, runnable on the target."""


class Imported(Struct, frozen=True, kw_only=True):
    """A model, and its tasks in order of first use."""

    model: bytes
    """As :meth:`Engine.assemble` takes it."""
    tasks: list[ExtractedTask]
    constants: int = 0
    """Bytes of constants that a run of the model reads."""


class Proposal(Struct, frozen=True, kw_only=True):
    """What one update gives."""

    search: bytes
    """The new search state, compressed; at most 256 KiB after 1,000 trials."""
    schedules: list[tuple[str, bytes]]
    """Structural hash and schedule of each candidate; fewer than wanted when the space is exhausted. After
    ``want=0`` the best of those tried, best first: at most :data:`CONFIRMED`, within :data:`CLOSE` of the
    best."""


def latency(trial: Trial) -> float:
    """The median of the repeats in seconds; infinite when the candidate failed."""
    if trial.outcome != "measured" or not trial.latencies:
        return math.inf
    return statistics.median(trial.latencies)


def estimate(trial: Trial) -> float:
    """What to search by: the :func:`latency` without the drift of the device around it. A good candidate that
    was measured in a bad moment is among those that are confirmed then, and not lost."""
    return latency(trial) / (1 + trial.drift)


def leaders(best: list[tuple[float, str, bytes]]) -> list[tuple[str, bytes]]:
    """What a :class:`Proposal` names after ``want=0``.

    Args:
        best: :func:`estimate` in seconds, hash and schedule of measured candidates, best first.

    Returns:
        Hash and schedule of those between which noise may have decided; none where the first is far ahead.
    """
    close = [each for each in best[:CONFIRMED] if each[0] <= CLOSE * best[0][0]]
    return [(name, schedule) for _, name, schedule in close] if len(close) > 1 else []


class TaskTrials(Struct, frozen=True, kw_only=True):
    """A task at its end, for ``assemble``."""

    workload: bytes
    trials: list[Trial]
    """All of them; those that were confirmed with the latencies of that."""
    apply: bool = True
    """Whether the best of them is to be used: not where it does not beat the untuned kernel."""


class BuildOutcome(Struct, frozen=True, kw_only=True):
    """A linked shared object, or why there is none."""

    artifact: bytes | None = None
    outcome: Outcome | None = None
    error: str = ""


WAITED = 0.02
"""Share of its time that a measurement may have waited for its core without casting doubt on it. An idle
machine shows 0.001 or so."""


class ProfileOutcome(Struct, frozen=True, kw_only=True):
    """Latencies in seconds, one per repeat, or why there are none."""

    outcome: Outcome
    latencies: list[float] = []
    waited: float = 0.0
    """Share of the measuring time in which the process could have run but something else had its core: the
    median over the repeats."""
    cut_short: bool = False
    """``latencies`` are those of the first runs, which were too slow to go on."""
    error: str = ""


class Assembled(Struct, frozen=True, kw_only=True):
    """The finished product."""

    tuned: bytes
    untuned: bytes
    signature: bytes
    """Names, shapes and dtypes of the inputs."""
    files: dict[str, bytes]


class Validated(Struct, frozen=True, kw_only=True):
    """Tuned against untuned, on the device, on the same inputs, in turns."""

    before: list[float]
    """Latencies of the untuned model in seconds, one per turn."""
    after: list[float]
    """Those of the tuned one."""
    largest_difference: float
    equal: bool
    waited: float = 0.0
    """As in :class:`ProfileOutcome`."""


class Engine(Protocol):
    """How to tune. Implementations live in ``stage_workers/engines`` and keep no state between calls that
    is needed for correctness (caches by content are fine)."""

    def preload(self) -> None:
        """Import what is slow to import. Runs once in the process that children are forked from, so it
        must neither start threads nor touch a device."""

    def resolve_target(self, target: str) -> str:
        """The canonical form of ``target`` (JSON with sorted keys). ``native`` is this machine's CPU.

        Raises:
            BadTarget: when it is unknown or incomplete.
        """

    def import_model(self, model: bytes, target: str, settings: Settings) -> Imported:
        """Optimise the graph and extract the distinct tasks.

        Raises:
            BadModel: when it cannot be read, has an unsupported operator (named), or dynamic shapes that
                ``settings.shapes`` does not fix.
        """

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
        """Fit the cost model to ``trials`` and propose ``want`` schedules that were never tried.

        Deterministic: the same arguments give the same proposal. ``search=None`` starts a task;
        ``want=0`` learns and names the best few. Candidates that were proposed and whose trials have not
        come yet (they may come with a later call) are not proposed again.
        """

    def build(self, workload: bytes, target: str, schedule: bytes) -> BuildOutcome:
        """Compile and link one candidate."""

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
        """Measure one candidate on ``device`` (``cpu`` or ``cuda:<n>``) and compare its outputs with those
        of ``untuned`` on the same inputs. Where the first repeat, or less, shows that it takes
        ``settings.cut_short`` times ``best`` (seconds), that is all that is measured. A run that goes on for
        ever may end the process by SIGPROF (``ITIMER_PROF``), which is a limit of time that was exceeded."""

    def profile_untuned(
        self, workload: bytes, target: str, untuned: bytes, device: str, settings: Settings
    ) -> ProfileOutcome:
        """Measure the untuned workload."""

    def confirm(
        self,
        workload: bytes,
        target: str,
        artifacts: list[bytes],
        untuned: bytes,
        device: str,
        settings: Settings,
    ) -> list[ProfileOutcome]:
        """Measure a few candidates that are close to each other, taking turns repeat by repeat, so that
        whatever slows the device down hits all of them. One outcome per artifact, in order."""

    def reference(self, target: str, device: str) -> list[float]:
        """Latencies in seconds of a fixed kernel on ``device``: about 10 ms of work that is the same in every
        call, so that a change shows a change of the device. The first call may take longer."""

    def assemble(self, model: bytes, target: str, tasks: list[TaskTrials], settings: Settings) -> Assembled:
        """Compile the whole model twice: optimised as by ``import_model``, with the best of the trials, and
        as it was given, without any."""

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
        """Run both models on the same random inputs."""
