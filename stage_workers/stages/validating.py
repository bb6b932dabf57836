"""``validate``: run the tuned and the untuned model on the same inputs."""

from __future__ import annotations

import statistics

import msgspec

from tunemesh.shared.messages import Step, ValidateDone, ValidateWork, VariantLatency
from tunemesh.stage_workers import platforms
from tunemesh.stage_workers.platforms.protocol import Platform, ProfileOutcome, ValidateCall, Validated
from tunemesh.stage_workers.stages.context import VALIDATE_LIMIT, Context, StageFailed, whole
from tunemesh.stage_workers.stages.trust import Measured, Watch, comparable


def validate(step: Step, work: ValidateWork, context: Context) -> ValidateDone:
    """Latency before and after, watched like a profile, and whether the outputs agree.

    Raises:
        TunemeshError: the platform failed or refused, the store fails, or this worker has no device.
    """
    device = context.require_device(step)
    platform = platforms.name_of(step.target)
    call = ValidateCall(
        tuned=context.store.get(work.tuned),
        untuned=context.store.get(work.untuned),
        signature=context.store.get(work.signature),
        target=step.target,
        device=device,
        seed=step.seed,
        settings=step.settings,
    )
    found: list[Validated] = []

    def measured(variant: int) -> Measured:
        one = msgspec.structs.replace(call, variant=variant)

        def measure() -> list[ProfileOutcome]:
            found.append(whole(context, platform, Platform.validate, one, VALIDATE_LIMIT))
            if not (comparable(found[-1].before) and comparable(found[-1].after)):
                raise StageFailed(f"platform {platform}, validate: gave no latencies above 0")
            return [
                ProfileOutcome(outcome="measured", latencies=latencies, waited=found[-1].waited)
                for latencies in (found[-1].before, found[-1].after)
            ]

        return Measured(measure)

    variants = [measured(variant) for variant in range(step.settings.variants)]
    Watch(step, device, context).measure(variants)
    latencies = [
        VariantLatency(*(statistics.median(outcome.latencies) for outcome in variant.outcomes))
        for variant in variants
    ]
    return ValidateDone(
        latency_before=sum(each.before for each in latencies),
        latency_after=sum(each.after for each in latencies),
        variants=latencies if len(latencies) > 1 else [],
        largest_difference=max(each.largest_difference for each in found),
        equal=all(each.equal for each in found),
        drift=max(variant.drift for variant in variants),
    )
