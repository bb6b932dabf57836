"""``profile``: measure what was built, each candidate in a sandbox call of its own."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import MutableMapping, Sequence
from functools import partial

import msgspec

from tunemesh.shared.errors import ArtifactError
from tunemesh.shared.messages import (
    Built,
    Conditions,
    Profiled,
    ProfileDone,
    ProfileWork,
    Settings,
    Step,
    TaskSpec,
)
from tunemesh.shared.text import clip
from tunemesh.stage_workers import platforms
from tunemesh.stage_workers.devices.drift import THRESHOLD
from tunemesh.stage_workers.platforms.protocol import (
    ConfirmCall,
    Platform,
    ProfileCall,
    ProfileOutcome,
    UntunedCall,
)
from tunemesh.stage_workers.sandbox.sandbox import CallFailure
from tunemesh.stage_workers.stages.context import Binary, Context, insist, told
from tunemesh.stage_workers.stages.device_test import reference
from tunemesh.stage_workers.stages.trust import Measured, Watch, comparable, spread

BASELINE_ALLOWANCE = 10.0
"""Times ``profile_timeout`` that the untuned workload may take: it is measured once, may be a hundred times
slower than a good candidate, and without it there is no baseline at all."""

CHECK_RUN = 200.0
"""Times the best latency that the single run may take which checks what a candidate computes: it may last for
ever."""
ALLOWANCE = 1.0
"""Seconds on top of that for loading a candidate, many times what that takes."""
MEASURING = 3.0
"""Times the duration of its repeats on top of that for measuring it: how many runs fill one must be found
out, and something else may have the core."""
START = 3.0
"""Seconds on top of that in a sandbox that starts afresh: the device's context, the inputs."""
REFERENCE_RUN = 5.0
"""Times the untuned latency on top of that there: what the workload computes has to be found out, and how far
rounding may move it."""

MATTERS = 1.1
"""Times the best latency up to which it matters exactly how slow a candidate is."""


def as_measured(settings: Settings, task: TaskSpec, cache: int) -> Settings:
    """``settings`` with what they leave open about caches.

    Args:
        cache: bytes of the device's last-level cache; 0 where it has none that can be flushed.
    """
    if settings.cache_flush is not None:
        return settings
    return msgspec.structs.replace(settings, cache_flush=flushes(settings, task.constants, cache))


def flushes(settings: Settings, constants: int, cache: int) -> bool:
    """Whether caches are flushed before the runs of a kernel.

    Args:
        constants: bytes of the whole model's.
        cache: as in :func:`as_measured`.
    """
    return settings.cache_flush if settings.cache_flush is not None else 0 < cache < constants


def profile(step: Step, work: ProfileWork, context: Context) -> ProfileDone:
    """What became of each artifact, in order, and the untuned latency where it is asked for.

    Raises:
        TunemeshError: the target is refused, the store fails, or this worker has no device.
        DeviceFault: the device does not work.
    """
    kernels = _Kernels(step, work, context.require_device(step), context)
    watch = Watch(step, kernels.device, context)
    untuned = kernels.untuned_latency() if work.baseline else None
    if kernels.untuned_error:
        reference(context.sandbox, step.target, kernels.device)
    rivals: dict[str, list[Profiled]] = {}
    if work.confirm:
        profiled, *others = _measure_together([work.artifacts, *work.rivals.values()], kernels, watch)
        rivals = dict(zip(work.rivals, others, strict=True))
    else:
        profiled = _measure_apart(step, work.artifacts, kernels, watch, context.measured)
    everything = itertools.chain(profiled, *rivals.values())
    drift = max((one.drift for one in everything if one.outcome == "measured"), default=0.0)
    return ProfileDone(
        profiled=profiled,
        rivals=rivals,
        in_turns=work.confirm and kernels.in_turns,
        untuned=untuned,
        untuned_error=clip(kernels.untuned_error),
        drift=drift,
        conditions=kernels.conditions,
    )


def _measure_together(searches: list[list[Built]], kernels: _Kernels, watch: Watch) -> list[list[Profiled]]:
    """Measure all that some searches have found, in turns."""
    artifacts = list(itertools.chain(*searches))
    together = Measured(partial(kernels.take_turns, artifacts))
    watch.measure([together])
    profiled = (_profiled(built, together, number, len(artifacts)) for number, built in enumerate(artifacts))
    return [list(itertools.islice(profiled, len(found))) for found in searches]


def _measure_apart(
    step: Step,
    artifacts: list[Built],
    kernels: _Kernels,
    watch: Watch,
    known: MutableMapping[Binary, Profiled],
) -> list[Profiled]:
    """Measure every binary once. Schedules that differ may compile to the same one."""
    binaries = [_binary(step, built) for built in artifacts]
    twins = {binary: known[binary] for binary in binaries if binary in known}
    new = {
        binary: Measured(partial(kernels.alone, built), kernels.matters)
        for binary, built in zip(binaries, artifacts, strict=True)
        if binary not in twins
    }
    watch.measure(list(new.values()))
    profiled = []
    for binary, built in zip(binaries, artifacts, strict=True):
        if binary in twins:
            one = msgspec.structs.replace(twins[binary], index=built.index, seconds=0.0, attempts=0)
        else:
            one = _profiled(built, new[binary])
            if one.outcome == "measured" and one.drift <= THRESHOLD:
                known[binary] = twins[binary] = one
        profiled.append(one)
    return profiled


def _binary(step: Step, built: Built) -> Binary:
    name = built.artifact.sha256 if built.artifact is not None else f"none of candidate {built.index}"
    return step.job, step.task, name


class _Kernels:
    """What one step asks of the device."""

    def __init__(self, step: Step, work: ProfileWork, device: str, context: Context) -> None:
        self.device = device
        self.untuned_error = ""
        """Why the untuned workload could not be measured."""
        self.in_turns = True
        """Whether all that could be measured took turns, whenever that was asked for."""
        self._step = step
        self._platform = platforms.name_of(step.target)
        self._settings = as_measured(step.settings, work.task, context.cache)
        self._store = context.store
        self._conditions = context.conditions
        self._drift = context.drift
        self._sandbox = context.sandbox
        self._best = work.best
        self._baseline = work.untuned
        self._warm = False
        """Whether the sandbox has run something of this task, and so knows the right outputs."""
        self._workload = context.store.get(work.task.workload)
        self._untuned = context.store.get(work.task.untuned)

    @property
    def conditions(self) -> Conditions | None:
        """What its latencies depend on."""
        known = self._conditions
        if known is None:
            return None
        flush = bool(self._settings.cache_flush)
        return msgspec.structs.replace(known, cache_flush=flush, reference=self._drift.usual)

    def untuned_latency(self) -> float | None:
        """Median latency of the untuned workload in seconds; ``None`` when it cannot be measured."""
        call = UntunedCall(
            workload=self._workload,
            target=self._step.target,
            untuned=self._untuned,
            device=self.device,
            settings=self._settings,
        )
        limit = self._step.settings.profile_timeout * BASELINE_ALLOWANCE
        answer = _sound(insist(self._sandbox, self._platform, Platform.profile_untuned, call, limit))
        if answer.outcome != "measured":
            self.untuned_error = answer.error or answer.outcome
            return None
        self._baseline = statistics.median(answer.latencies)
        self._best = min(self._baseline, self._best or math.inf)
        self._warm = True
        return self._baseline

    def alone(self, built: Built) -> list[ProfileOutcome]:
        """Measure one candidate; no more than needed to see that it is slower than the best so far."""
        outcome = self._measure(built, self._best)
        if outcome.outcome == "measured":
            self._best = min(statistics.median(outcome.latencies), self._best or math.inf)
        return [outcome]

    def matters(self, outcomes: list[ProfileOutcome], drift: float) -> bool:
        """Whether one of them could be close to the best on a calm device; all of them where every candidate
        gets the same care."""
        if self._step.settings.cut_short is None or self._best is None:
            return True
        limit = MATTERS * (1 + drift) * self._best
        return any(statistics.median(outcome.latencies) <= limit for outcome in outcomes)

    def _measure(self, built: Built, best: float | None) -> ProfileOutcome:
        program = self._program(built)
        if isinstance(program, ProfileOutcome):
            return program
        call = ProfileCall(
            workload=self._workload,
            target=self._step.target,
            artifact=program,
            untuned=self._untuned,
            device=self.device,
            settings=self._settings,
            best=best,
        )
        answer = self._sandbox.call(self._platform, Platform.profile, call, self._limit(best))
        self._warm = not isinstance(answer, CallFailure)
        return _sound(answer)

    def _limit(self, best: float | None) -> float:
        """Seconds for measuring a candidate; less than the timeout where it is known what is hopeless."""
        settings = self._step.settings
        if best is None or settings.cut_short is None or not (self._warm or self._baseline):
            return settings.profile_timeout
        measuring = MEASURING * settings.repeats * settings.min_repeat_ms / 1e3
        limit = ALLOWANCE + measuring + CHECK_RUN * best
        if not self._warm:
            limit += START + REFERENCE_RUN * (self._baseline or 0.0)
        return min(limit, settings.profile_timeout)

    def take_turns(self, artifacts: list[Built]) -> list[ProfileOutcome]:
        """Measure all candidates in one call. If that fails, each alone, and those together again that could
        be measured: one of the others may have ended the call."""
        programs = [self._program(built) for built in artifacts]
        together = self._together(programs)
        if together is None:
            together = [self._measure(built, None) for built in artifacts]
            good = [number for number, each in enumerate(together) if each.outcome == "measured"]
            few = 1 < len(good) < len(artifacts)
            again = self._together([programs[number] for number in good]) if few else None
            self.in_turns = self.in_turns and again is not None
            for number, outcome in zip(good, again or (), strict=False):
                together[number] = outcome
        return together

    def _together(self, programs: Sequence[bytes | ProfileOutcome]) -> list[ProfileOutcome] | None:
        """Outcomes of one call; ``None`` where it fails, or there is nothing to call with."""
        sound = [program for program in programs if isinstance(program, bytes)]
        if len(sound) < len(programs):
            return None
        call = ConfirmCall(
            workload=self._workload,
            target=self._step.target,
            artifacts=sound,
            untuned=self._untuned,
            device=self.device,
            settings=self._settings,
        )
        limit = self._step.settings.profile_timeout * max(len(sound), 1)
        answer = self._sandbox.call(self._platform, Platform.confirm, call, limit)
        if isinstance(answer, CallFailure) or len(answer.outcomes) != len(sound):
            return None
        return [_sound(each) for each in answer.outcomes]

    def _program(self, built: Built) -> bytes | ProfileOutcome:
        if built.artifact is None:
            return ProfileOutcome(outcome=built.outcome or "build-failed", error=built.error)
        try:
            return self._store.get(built.artifact)
        except ArtifactError as error:  # one lost artifact is one lost candidate
            return ProfileOutcome(outcome="run-failed", error=str(error))


def _profiled(built: Built, measured: Measured, number: int = 0, shared_by: int = 1) -> Profiled:
    outcome = measured.outcomes[number]
    good = outcome.outcome == "measured"
    return Profiled(
        index=built.index,
        seconds=measured.seconds / shared_by,
        outcome=outcome.outcome,
        latencies=outcome.latencies if good else [],
        median=statistics.median(outcome.latencies) if good else 0.0,
        spread=spread([outcome]),
        drift=measured.drift if good else 0.0,
        attempts=measured.attempts,
        cut_short=good and outcome.cut_short,
        error=clip(outcome.error),
    )


def _sound(answer: ProfileOutcome | CallFailure) -> ProfileOutcome:
    """``answer`` as an outcome, and only with latencies that can be compared if it is ``measured``."""
    if isinstance(answer, CallFailure):
        return ProfileOutcome(
            outcome="run-timed-out" if answer.kind == "timed-out" else "run-failed", error=told(answer)
        )
    if answer.outcome != "measured":
        return answer
    if comparable(answer.latencies):
        return answer
    return ProfileOutcome(outcome="run-failed", error=f"measured latencies make no sense: {answer.latencies}")
