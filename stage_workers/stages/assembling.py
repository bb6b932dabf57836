"""``assemble``: compile the whole model with the best of everything that was measured, whoever made it."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from tunemesh.shared.errors import ArtifactError
from tunemesh.shared.messages import AssembleDone, AssembleWork, Step, TaskRecords, Trial
from tunemesh.shared.messages.results import MOST_NOTES, MOST_OF_WAY
from tunemesh.shared.text import clip
from tunemesh.stage_workers import platforms
from tunemesh.stage_workers.engines.protocol import BuildCall, Engine, PartCall
from tunemesh.stage_workers.platforms.protocol import AssembleCall, Platform, TunedTask
from tunemesh.stage_workers.stages import exporting, recording
from tunemesh.stage_workers.stages.context import (
    ASSEMBLE_LIMIT,
    EXPORT_LIMIT,
    PART_LIMIT,
    Context,
    engine_of,
    whole,
)
from tunemesh.stage_workers.stages.histories import read_histories, trials_in
from tunemesh.stage_workers.stages.kept_imports import Kernel, Untuned, kernel_key, untuned_key

log = logging.getLogger(__name__)

Search = tuple[TaskRecords, list[Trial]]
"""With what it tried; those that were confirmed with the latencies of that."""


def assemble(step: Step, work: AssembleWork, context: Context) -> AssembleDone:
    """Take the part of every tuned task from the engine that made its fastest kernel, let the platform
    compile the model with them and without, and let the engines write down what was measured.

    Raises:
        TunemeshError: an engine or the platform failed or refused, or an artifact is missing or damaged.
    """
    store = context.store
    read = [(records, read_histories(records.history, store)) for records in work.tasks]
    batch = recording.ended(step, read, context)
    ended = [(records, trials_in(records, histories)) for records, histories in read]
    tasks: dict[str, list[Search]] = {}
    for each in ended:
        tasks.setdefault(each[0].task.key, []).append(each)
    winners = {
        searches[0][0].task.id: best for searches in tasks.values() if (best := fastest(searches)) is not None
    }
    tuned = {task: _tuned(best, step, context) for task, best in winners.items()}
    call = AssembleCall(
        model=store.get(work.model),
        target=step.target,
        tasks=list(tuned.values()),
        objects=_objects(work, list(winners.values()), step, context),
    )
    key = untuned_key(work.model.sha256, step.target)
    before = context.kept.get(key, Untuned) if context.kept is not None else None
    if before is not None:
        call = msgspec.structs.replace(call, untuned=before.model)
    platform = platforms.name_of(step.target)
    assembled = whole(context, platform, Platform.assemble, call, ASSEMBLE_LIMIT)
    if before is None and context.kept is not None:
        context.kept.put(key, Untuned(assembled.untuned))
    files = exporting.files(
        ended,
        step.engines,
        step.target,
        store,
        lambda engine, call: whole(context, engine, Engine.export, call, EXPORT_LIMIT),
    )
    notes = [*assembled.notes[: MOST_NOTES - 1]]
    if why := recording.end(batch, context):
        notes.append(f"{why}: {recording.NOT_WRITTEN}")
    return AssembleDone(
        tuned=store.put(assembled.tuned, inline=False),
        untuned=store.put(assembled.untuned, inline=False),
        signature=store.put(assembled.signature, inline=False),
        files={name: store.put(data, inline=False) for name, data in files.items()},
        records=store.put(msgspec.msgpack.encode(work.tasks), inline=False),
        notes=[clip(note) for note in notes],
        ways={task: clip(each.part.way, MOST_OF_WAY) for task, each in tuned.items() if each.part.way},
    )


class Winner(NamedTuple):
    """The fastest kernel of a task."""

    records: TaskRecords
    """Of the search that found it."""
    trial: Trial


def fastest(searches: Sequence[Search]) -> Winner | None:
    """The fastest kernel of a task, whichever engine made it, if it beats the untuned one. Where some were
    confirmed it is one of these: others were measured once, each at another time.

    Args:
        searches: of the task, each with its trials.
    """
    found = [Winner(records, trial) for records, trials in searches for trial in trials]
    sure = {records.task.id: {each.hash for each in records.confirmed} for records, _ in searches}
    confirmed = [each for each in found if each.trial.candidate.hash in sure[each.records.task.id]]
    best = min(confirmed or found, key=lambda each: each.trial.latency, default=None)
    known = [records.untuned for records, _ in searches if records.untuned is not None]
    return best if best is not None and best.trial.latency < min(known, default=math.inf) else None


def _objects(work: AssembleWork, winners: Sequence[Winner], step: Step, context: Context) -> list[bytes]:
    """What was compiled before, by ``import`` and of candidates that were confirmed. What of it is lost is
    compiled again."""
    kept = [work.objects]
    found = []
    for records, best in winners:
        confirmed = [each.objects for each in records.confirmed if each.hash == best.candidate.hash]
        kept += confirmed
        if not any(confirmed) and context.kept is not None:
            key = kernel_key(str(records.task.engine), _built(records, best, step, context))
            kernel = context.kept.get(key, Kernel)
            found += [kernel.objects] if kernel is not None and kernel.objects else []
    for blob in kept:
        try:
            found += [context.store.get(blob)] if blob is not None else []
        except ArtifactError as error:
            log.warning("%s: what was compiled before is compiled again: %s", step.id, error)
    return found


def _built(records: TaskRecords, best: Trial, step: Step, context: Context) -> BuildCall:
    """What was asked of the engine when a kernel was built."""
    workload = context.store.get(records.task.workload)
    return BuildCall(workload=workload, target=step.target, schedule=best.candidate.schedule)


def _tuned(best: Winner, step: Step, context: Context) -> TunedTask:
    task, trial = best.records.task, best.trial
    workload = context.store.get(task.workload)
    symbol = f"tunemesh_{task.key}"
    call = PartCall(workload=workload, target=step.target, schedule=trial.candidate.schedule, symbol=symbol)
    part = whole(context, engine_of(task), Engine.part, call, PART_LIMIT)
    return TunedTask(workload=workload, symbol=symbol, part=part, latency=trial.latency)
