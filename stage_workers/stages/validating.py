"""``validate``: run the tuned and the untuned model on the same inputs."""

from __future__ import annotations

from shared.engine import Validated
from shared.messages import Step, ValidateDone, ValidateWork
from stage_workers.stages.context import VALIDATE_LIMIT, Context, whole


def validate(step: Step, work: ValidateWork, context: Context) -> ValidateDone:
    """Latency before and after, and whether the outputs agree.

    Raises:
        TunemeshError: the engine failed or refused, the store fails, or this worker has no device.
    """
    device = context.require_device(step)
    args = (
        context.store.get(work.tuned),
        context.store.get(work.untuned),
        context.store.get(work.signature),
        step.target,
        device,
        step.seed,
        step.settings,
    )
    found = whole(step, context, "validate", args, Validated, VALIDATE_LIMIT)
    return ValidateDone(
        latency_before=found.latency_before,
        latency_after=found.latency_after,
        largest_difference=found.largest_difference,
        equal=found.equal,
    )
