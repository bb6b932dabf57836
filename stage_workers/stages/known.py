"""What the records know of the tasks of a model, so that these need not be tuned again.

A result is used as it is where it can be trusted here and now: it was found for a job that was done, by this
mesh's own records, on a device like the one of this job, with the same versions, not too long ago, and its
latency is sound. It is built before it is believed. The coordinator, which knows how much the job would try,
judges whether as much was tried. At the end of the job the whole model is validated as always.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
from msgspec import Struct

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
    Trial,
    UpdateWork,
)
from tunemesh.shared.messages.tasks import HASH_LENGTH
from tunemesh.stage_workers.devices.drift import THRESHOLD
from tunemesh.stage_workers.engines.protocol import BuildCall, Engine, Examples
from tunemesh.stage_workers.platforms.protocol import ExtractedTask, Imported
from tunemesh.stage_workers.records.gathering import operator_of
from tunemesh.stage_workers.records.questions import Best, Found, Similar
from tunemesh.stage_workers.sandbox.sandbox import CallFailure
from tunemesh.stage_workers.stages.context import Context
from tunemesh.stage_workers.stages.kept_imports import Kernel, kernel_key
from tunemesh.stage_workers.stages.profiling import flushes

log = logging.getLogger(__name__)

DAY = 86_400.0
LEADERS = 4
"""Schedules from elsewhere that a task begins with, at most."""
SIMILAR = 64
"""Tasks with the same main operator that an engine may choose from, for a task that is new to the records."""
LARGEST_SCHEDULE = 32 * 1024
"""Bytes; a batch of them goes into one message."""


class Answer(NamedTuple):
    """What is known of a task."""

    engine: str
    """Which made it."""
    known: Known


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
        if best is not None and _sound(best) and (known := _known(task, best, step, context)):
            found[task.key] = Answer(best.found.trial.engine, known)
    if found:
        log.info("%s: %d of %d tasks are known", step.id, len(found), len(imported.tasks))
    return found


def _conditions(device: Device, constants: int, settings: Settings) -> Conditions:
    """Those that this job's kernels would be measured under."""
    flush = flushes(settings, constants, device.cache)
    return msgspec.structs.replace(device.conditions, cache_flush=flush)


def _sound(best: Best) -> bool:
    """Whether its latency was measured without disturbance. One slower than the untuned kernel may have
    been cut short: it is not used, but tells that nothing faster was found."""
    found, trial = best.found, best.found.trial
    slower = found.latency is not None and found.latency > best.untuned
    return found.confirmed is not None or (trial.drift <= THRESHOLD and (slower or not trial.cut_short))


def _known(task: ExtractedTask, best: Best, step: Step, context: Context) -> Known | None:
    """What is known, where this machine can build it for the task; ``None`` where it cannot, or the store
    fails: then the task is tuned."""
    found, store = best.found, context.store
    trial, job = found.trial, found.job
    call = BuildCall(workload=task.workload, target=step.target, schedule=trial.schedule)
    built = _built(trial.engine, call, step, context)
    if isinstance(built, str):
        log.warning("%s: what is known of %s cannot be built any more: %s", step.id, task.name, built)
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
    return Known(
        history=[blob],
        confirmed=[confirmed],
        untuned=best.untuned,
        best=found.latency or 0.0,
        searched=best.searched,
    )


def _built(engine: str, call: BuildCall, step: Step, context: Context) -> Kernel | str:
    """A kernel, as it was built on this machine before, or now; or why it cannot be."""
    key = kernel_key(engine, call)
    kept = context.kept.get(key, Kernel) if context.kept is not None else None
    if kept is not None:
        return kept
    built = context.sandbox.call(engine, Engine.build, call, step.settings.build_timeout)
    if isinstance(built, CallFailure):
        return built.text
    if built.artifact is None:
        return built.error
    kernel = Kernel(built.objects)
    if context.kept is not None:
        context.kept.put(key, kernel)
    return kernel


class Beginning(Struct, frozen=True, kw_only=True):
    """What the search of a task begins with."""

    leaders: list[Found] = []
    """The fastest that were found elsewhere, or without being sure: they are measured here first."""
    here: list[Examples] = []
    elsewhere: list[Examples] = []
    seen: list[str] = []
    similar: list[Examples] = []
    """These four as :class:`.UpdateCall` has them."""


def to_begin_with(work: UpdateWork, step: Step, context: Context) -> Beginning:
    """What the records know of a task that is about to be searched."""
    task = work.task
    if context.records is None or step.origin is None or step.settings.known == "never":
        return Beginning()
    engine, tenant = str(task.engine), step.origin.tenant
    # However old: they are measured again.
    found = context.records.leaders(task.key, engine, tenant, LEADERS)
    conditions = {_conditions(each, task.constants, step.settings).id for each in work.devices}
    known = context.records.memory(task.key, engine, conditions.pop() if len(conditions) == 1 else "", tenant)
    if known.seen:
        log.info("%s: %d schedules of it were tried here before", step.id, len(known.seen))
    similar: list[Similar] = []
    if not known.tried and not work.recall:
        operator = operator_of(task.name)
        similar = context.records.similar(task.key, operator, step.target, engine, tenant, SIMILAR)
    return Beginning(
        leaders=leaders_of(found, work.want),
        here=[examples_of(each) for each in known.here],
        elsewhere=[examples_of(each) for each in known.elsewhere],
        seen=[each for each in known.seen if 1 <= len(each) <= HASH_LENGTH],
        similar=[examples_of(each) for each in similar],
    )


def leaders_of(found: Sequence[Found], want: int) -> list[Found]:
    """Those of the fastest schedules that a first round of ``want`` candidates begins with."""
    return [each for each in found if _sensible(each)][: min(LEADERS, (want + 1) // 2)]


def examples_of(similar: Similar) -> Examples:
    """Trials as an engine takes them."""
    trials = [
        Trial(
            candidate=Candidate(index, each.trial.hash, each.trial.schedule),
            outcome="measured",
            latencies=[each.latency or 0.0],
        )
        for index, each in enumerate(filter(_sensible, similar.found))
    ]
    return Examples(
        workload=similar.workload,
        target=similar.target,
        trials=trials,
        format=similar.found[0].trial.format,
    )


def _sensible(found: Found) -> bool:
    """What others have written may be anything."""
    trial, latency = found.trial, found.latency
    return (
        1 <= len(trial.hash) <= HASH_LENGTH
        and len(trial.schedule) <= LARGEST_SCHEDULE
        and latency is not None
        and 0 < latency < math.inf
    )
