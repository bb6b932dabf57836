"""What the records know of the tasks of a model, so that these need not be tuned again.

A result is used as it is where it can be trusted here and now: its task was tuned to its end for a job that
was done, by this mesh's own records, on a device like the one of this job, with the same versions, not too
long ago, and its latency is sound. It is built before it is believed. At the end of the job the whole model
is validated as always.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence

import msgspec

from tunemesh.shared.errors import TunemeshError
from tunemesh.shared.messages import (
    Candidate,
    Conditions,
    Confirmed,
    Device,
    History,
    Known,
    Origin,
    Settings,
    Step,
    TaskSpec,
    Trial,
)
from tunemesh.shared.messages.tasks import HASH_LENGTH
from tunemesh.stage_workers.devices.drift import THRESHOLD
from tunemesh.stage_workers.engines.protocol import BuildCall, Engine
from tunemesh.stage_workers.platforms.protocol import ExtractedTask, Imported
from tunemesh.stage_workers.records.questions import Best, Found
from tunemesh.stage_workers.sandbox.sandbox import CallFailure
from tunemesh.stage_workers.stages.context import Context
from tunemesh.stage_workers.stages.profiling import flushes

log = logging.getLogger(__name__)

DAY = 86_400.0
LEADERS = 4
"""Schedules from elsewhere that a task begins with, at most."""
LARGEST_SCHEDULE = 32 * 1024
"""Bytes; a batch of them goes into one message."""

Answer = tuple[str, Known]
"""By which engine, and what."""


def in_records(
    imported: Imported, devices: Sequence[Device], step: Step, context: Context
) -> Mapping[str, Answer]:
    """By the key of a task: what is known of it that can be used as it is.

    Args:
        devices: those that serve the job's target now. Where they differ nothing is known: a task is
            measured on any of them.
    """
    if context.records is None or step.origin is None or step.settings.known == "never":
        return {}
    conditions = {
        each.id: each
        for each in (_conditions(device, imported.constants, step.settings) for device in devices)
    }
    if len(conditions) != 1:
        return {}
    found: dict[str, Answer] = {}
    asked = [task.key for task in imported.tasks]
    since = time.time() - step.settings.max_age * DAY
    (name,) = conditions
    answers = context.records.best(asked, step.engines, name, since, step.origin.tenant)
    for task in imported.tasks:
        best = answers.get(task.key)
        if best is not None and _sound(best, step.settings) and (known := _known(task, best, step, context)):
            found[task.key] = best.found.trial.engine, known
    if found:
        log.info("%s: %d of %d tasks are known", step.id, len(found), len(imported.tasks))
    return found


def _conditions(device: Device, constants: int, settings: Settings) -> Conditions:
    """Those that this job's kernels would be measured under."""
    flush = flushes(settings, constants, device.cache)
    return msgspec.structs.replace(device.conditions, cache_flush=flush)


def _sound(best: Best, settings: Settings) -> bool:
    """Whether its task was searched, and its latency was measured without disturbance."""
    trial = best.found.trial
    steady = best.found.confirmed is not None or (trial.drift <= THRESHOLD and not trial.cut_short)
    return best.trials >= settings.batch and steady


def _known(task: ExtractedTask, best: Best, step: Step, context: Context) -> Known | None:
    """What is known, where this machine can build it for the task; ``None`` where it cannot, or the store
    fails: then the task is tuned."""
    found, store = best.found, context.store
    trial, job = found.trial, found.job
    call = BuildCall(workload=task.workload, target=step.target, schedule=trial.schedule)
    built = context.sandbox.call(trial.engine, Engine.build, call, step.settings.build_timeout)
    if isinstance(built, CallFailure) or built.artifact is None:
        why = built.text if isinstance(built, CallFailure) else built.error
        log.warning("%s: what is known of %s cannot be built any more: %s", step.id, task.name, why)
        return None
    latencies = found.confirmed.latencies if found.confirmed is not None else trial.latencies
    tried = Trial(
        candidate=Candidate(0, trial.hash, trial.schedule),
        outcome="measured",
        latencies=trial.latencies,
        drift=trial.drift,
        attempts=trial.attempts,
        conditions=trial.conditions,
    )
    history = History(
        task=task.key[:40],
        round=0,
        trials=[tried],
        timings=[],
        origin=Origin(
            job=job.job,
            accepted=job.accepted,
            tenant=job.tenant,
            model=job.model,
            visibility=job.visibility,
        ),
        format=trial.format,
    )
    try:
        objects = store.put(built.objects, inline=False) if built.objects else None
        blob = store.put(msgspec.msgpack.encode(history), inline=False)
    except TunemeshError as error:
        log.warning("%s: %s", step.id, error)
        return None
    confirmed = Confirmed(hash=trial.hash, latencies=latencies, objects=objects, conditions=trial.conditions)
    return Known(history=[blob], confirmed=[confirmed], untuned=best.untuned, best=found.latency or 0.0)


def to_begin_with(task: TaskSpec, want: int, step: Step, context: Context) -> list[Found]:
    """The fastest that was found for a task elsewhere, or without being sure: it is measured here first.

    Args:
        want: candidates of the first round.
    """
    if context.records is None or step.origin is None or step.settings.known == "never":
        return []
    since = time.time() - step.settings.max_age * DAY
    limit = min(LEADERS, want // 2)
    found = context.records.leaders(task.key, str(task.engine), since, step.origin.tenant, limit)
    # What others have written may be anything.
    return [
        each
        for each in found
        if 1 <= len(each.trial.hash) <= HASH_LENGTH and len(each.trial.schedule) <= LARGEST_SCHEDULE
    ]
