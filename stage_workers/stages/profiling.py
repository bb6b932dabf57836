"""``profile``: measure what was built, each candidate in a sandbox call of its own."""

from __future__ import annotations

import math
import statistics
import time

from shared.codec import clip
from shared.engine import ProfileOutcome
from shared.errors import ArtifactError
from shared.messages import Blob, Built, Profiled, ProfileDone, ProfileWork, Step
from stage_workers.sandbox import CallFailure
from stage_workers.stages.context import Context

BASELINE_ALLOWANCE = 10.0
"""Times ``profile_timeout`` that the untuned workload may take: it is measured once, may be a hundred times
slower than a good candidate, and without it there is no baseline at all."""


def profile(step: Step, work: ProfileWork, context: Context) -> ProfileDone:
    """What became of each artifact, in order, and the untuned latency where it is asked for.

    Raises:
        TunemeshError: the target is refused, the store fails, or this worker has no device.
    """
    device = context.require_device(step)
    workload = context.store.get(work.task.workload)
    untuned = context.store.get(work.task.untuned)
    baseline = _baseline(step, workload, untuned, device, context) if work.baseline else None
    profiled = [_profile(step, workload, untuned, each, device, context) for each in work.artifacts]
    return ProfileDone(profiled=profiled, untuned=baseline)


def _profile(
    step: Step, workload: bytes, untuned: bytes, built: Built, device: str, context: Context
) -> Profiled:
    started = time.monotonic()
    if built.artifact is None:
        answer = ProfileOutcome(outcome=built.outcome or "build-failed", error=built.error)
    else:
        answer = _measure(step, workload, untuned, built.artifact, device, context)
    return Profiled(
        index=built.index,
        seconds=time.monotonic() - started,
        outcome=answer.outcome,
        latencies=answer.latencies if answer.outcome == "measured" else [],
        error=clip(answer.error),
    )


def _measure(
    step: Step, workload: bytes, untuned: bytes, artifact: Blob, device: str, context: Context
) -> ProfileOutcome:
    try:
        program = context.store.get(artifact)
    except ArtifactError as error:  # one lost artifact is one lost candidate
        return ProfileOutcome(outcome="run-failed", error=str(error))
    args = (workload, step.target, program, untuned, device, step.settings)
    limit = step.settings.profile_timeout
    return _sound(context.sandbox.call(step.engine, "profile", args, ProfileOutcome, limit))


def _baseline(step: Step, workload: bytes, untuned: bytes, device: str, context: Context) -> float | None:
    args = (workload, step.target, untuned, device, step.settings)
    limit = step.settings.profile_timeout * BASELINE_ALLOWANCE
    answer = _sound(context.sandbox.call(step.engine, "profile_untuned", args, ProfileOutcome, limit))
    return statistics.median(answer.latencies) if answer.outcome == "measured" else None


def _sound(answer: ProfileOutcome | CallFailure) -> ProfileOutcome:
    """``answer`` as an outcome, and only with latencies that can be compared if it is ``measured``."""
    if isinstance(answer, CallFailure):
        return ProfileOutcome(
            outcome="run-timed-out" if answer.kind == "timed-out" else "run-failed", error=answer.text
        )
    if answer.outcome != "measured":
        return answer
    if answer.latencies and all(math.isfinite(each) and each > 0 for each in answer.latencies):
        return answer
    return ProfileOutcome(outcome="run-failed", error=f"measured latencies make no sense: {answer.latencies}")
