"""``validate``: run the tuned and the untuned model on the same inputs."""

from __future__ import annotations

import statistics

import msgspec

from tunemesh.shared.messages import Step, ValidateDone, ValidateWork, VariantLatency
from tunemesh.shared.messages.results import furthest
from tunemesh.stage_workers import platforms
from tunemesh.stage_workers.platforms.protocol import Platform, ProfileOutcome, ValidateCall, Validated
from tunemesh.stage_workers.stages import recording
from tunemesh.stage_workers.stages.context import VALIDATE_LIMIT, Context, StageFailed, whole
from tunemesh.stage_workers.stages.device_test import reference
from tunemesh.stage_workers.stages.trust import Measured, Watch, comparable


def validate(step: Step, work: ValidateWork, context: Context) -> ValidateDone:
    """Latency before and after, watched like a profile, and whether the outputs agree.

    Raises:
        TunemeshError: the platform failed or refused, the store fails, or this worker has no device.
        DeviceFault: the device does not work.
    """
    device = context.require_device(step)
    platform = platforms.name_of(step.target)
    call = ValidateCall(
        tuned=context.store.get(work.tuned),
        untuned=context.store.get(work.untuned),
        signature=context.store.get(work.signature),
        target=step.target,
        device=device,
        sample=context.store.get(work.sample) if work.sample is not None else b"",
        settings=step.settings,
    )
    found: dict[int, Validated] = {}
    wrong: list[str] = []

    def measured(variant: int) -> Measured:
        one = msgspec.structs.replace(call, variant=variant)

        def measure() -> list[ProfileOutcome]:
            # A person's program has run no kernels either, and TVM starts no threads before the first.
            context.sandbox.renew()
            try:
                answer = whole(context, platform, Platform.validate, one, VALIDATE_LIMIT)
            except StageFailed:
                reference(context.sandbox, step.target, device)
                raise
            if not (comparable(answer.before) and comparable(answer.after)):
                raise StageFailed(f"platform {platform}, validate: gave no latencies above 0")
            found[variant] = answer
            wrong.append(answer.wrong)
            return [
                ProfileOutcome(outcome="measured", latencies=latencies, waited=answer.waited)
                for latencies in (answer.before, answer.after)
            ]

        return Measured(measure)

    variants = [measured(variant) for variant in range(step.settings.variants)]
    Watch(step, device, context).measure(variants)
    latencies = [
        VariantLatency(*(statistics.median(outcome.latencies) for outcome in variant.outcomes))
        for variant in variants
    ]
    outputs = [each for variant in sorted(found) for each in found[variant].outputs]
    done = ValidateDone(
        latency_before=sum(each.before for each in latencies),
        latency_after=sum(each.after for each in latencies),
        variants=latencies if len(latencies) > 1 else [],
        largest_difference=max(each.difference for each in outputs) if outputs else 0.0,
        equal=not any(wrong),
        wrong=next(filter(None, wrong), ""),
        outputs=furthest(outputs),
        judged=[found[variant].judged for variant in sorted(found)],
        drift=max(variant.drift for variant in variants),
    )
    recording.validated(step, done, context.conditions, context)
    return done
