"""``build``: compile the candidates of a chunk, each in a sandbox call of its own. One that takes many times
as long as its siblings is given up (:mod:`stage_workers.stages.build_limits`)."""

from __future__ import annotations

import time

from tunemesh.shared.messages import BuildDone, BuildWork, Built, Candidate, Step
from tunemesh.shared.text import clip
from tunemesh.stage_workers.engines.protocol import BuildOutcome
from tunemesh.stage_workers.sandbox.sandbox import CallFailure
from tunemesh.stage_workers.stages.context import Context


def build(step: Step, work: BuildWork, context: Context) -> BuildDone:
    """What became of each candidate, in order.

    Raises:
        TunemeshError: the target is refused, or the store fails.
    """
    workload = context.store.get(work.task.workload)
    task = work.task.workload.sha256
    return BuildDone(built=[_build(step, task, workload, each, context) for each in work.candidates])


def _build(step: Step, task: str, workload: bytes, candidate: Candidate, context: Context) -> Built:
    started = time.monotonic()
    args = (workload, step.target, candidate.schedule)
    limit, patience = step.settings.build_timeout, context.patience.limit(task)
    answer = context.sandbox.call(step.engines[0], "build", args, BuildOutcome, limit, patience)
    seconds = time.monotonic() - started
    context.patience.took(task, seconds)
    if isinstance(answer, CallFailure):
        return Built(
            index=candidate.index,
            seconds=seconds,
            outcome="build-timed-out" if answer.kind == "timed-out" else "build-failed",
            error=clip(answer.text),
        )
    if answer.artifact is None:
        return Built(
            index=candidate.index,
            seconds=seconds,
            outcome=answer.outcome or "build-failed",
            error=clip(answer.error or "the engine gave neither artifact nor reason"),
        )
    return Built(index=candidate.index, seconds=seconds, artifact=context.store.put(answer.artifact))
