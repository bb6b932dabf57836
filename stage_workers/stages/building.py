"""``build``: compile the candidates of a chunk, each in a sandbox call of its own. One that takes many times
as long as its siblings is given up (:mod:`stage_workers.stages.build_limits`)."""

from __future__ import annotations

import time

from tunemesh.shared.messages import BuildDone, BuildWork, Built, Candidate, Step
from tunemesh.shared.messages.tasks import BUILD_FAILURES
from tunemesh.shared.text import clip
from tunemesh.stage_workers.engines.protocol import BuildCall, Engine
from tunemesh.stage_workers.sandbox.sandbox import CallFailure
from tunemesh.stage_workers.stages.context import Context, engine_of, told
from tunemesh.stage_workers.stages.kept_imports import Kernel, kernel_key


def build(step: Step, work: BuildWork, context: Context) -> BuildDone:
    """What became of each candidate, in order.

    Raises:
        TunemeshError: the target is refused, or the store fails.
    """
    workload = context.store.get(work.task.workload)
    engine = engine_of(work.task)
    # Engines take different times for the same workload.
    key = f"{engine} {work.task.workload.sha256}"
    built = [_build(step, engine, key, workload, each, work.keep, context) for each in work.candidates]
    return BuildDone(built=built)


def _build(
    step: Step, engine: str, key: str, workload: bytes, candidate: Candidate, keep: bool, context: Context
) -> Built:
    started = time.monotonic()
    call = BuildCall(workload=workload, target=step.target, schedule=candidate.schedule)
    limit = context.patience.clock(key, step.settings.build_timeout)
    answer = context.sandbox.call(engine, Engine.build, call, limit, context.patience.limit(key))
    seconds = time.monotonic() - started
    if answer.kind == "timed-out" if isinstance(answer, CallFailure) else answer.artifact is not None:
        # What fails, fails early, and says nothing of how long the others take.
        context.patience.took(key, seconds)
    if isinstance(answer, CallFailure):
        return Built(
            index=candidate.index,
            seconds=seconds,
            outcome="build-timed-out" if answer.kind == "timed-out" else "build-failed",
            error=clip(told(answer)),
        )
    if answer.artifact is None:
        return Built(
            index=candidate.index,
            seconds=seconds,
            # An engine that names what is for others to say has failed to build, at any rate.
            outcome=answer.outcome if answer.outcome in BUILD_FAILURES else "build-failed",
            error=clip(answer.error or "the engine gave neither artifact nor reason"),
        )
    if keep and context.kept is not None:
        # One of these is what is known of the task from now on.
        context.kept.put(kernel_key(engine, call), Kernel(answer.objects))
    return Built(
        index=candidate.index,
        seconds=seconds,
        # Not inline: the best few of all searches of a task go into one message, and objects into the ledger.
        artifact=context.store.put(answer.artifact, inline=not keep),
        objects=context.store.put(answer.objects, inline=False) if keep and answer.objects else None,
    )
