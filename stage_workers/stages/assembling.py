"""``assemble``: compile the whole model with the best of everything that was measured, whoever made it."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import msgspec

from tunemesh.shared.errors import ArtifactError
from tunemesh.shared.messages import AssembleDone, AssembleWork, Step, TaskRecords, TaskSpec, Trial
from tunemesh.shared.messages.results import MOST_NOTES, MOST_OF_WAY
from tunemesh.shared.text import clip
from tunemesh.stage_workers import platforms
from tunemesh.stage_workers.engines.protocol import Engine, PartCall
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

log = logging.getLogger(__name__)


def assemble(step: Step, work: AssembleWork, context: Context) -> AssembleDone:
    """Take the part of every tuned task from its engine, let the platform compile the model with them and
    without, and let the engines write down what was measured.

    Raises:
        TunemeshError: an engine or the platform failed or refused, or an artifact is missing or damaged.
    """
    store = context.store
    read = [(records, read_histories(records.history, store)) for records in work.tasks]
    batch = recording.ended(step, read, context)
    ended = [(records, trials_in(records, histories)) for records, histories in read]
    winners = [
        (records, best) for records, trials in ended if (best := _best(trials, records.untuned)) is not None
    ]
    tuned = [_tuned(records.task, best, step, context) for records, best in winners]
    call = AssembleCall(
        model=store.get(work.model),
        target=step.target,
        tasks=tuned,
        objects=_objects(work, winners, step, context),
    )
    platform = platforms.name_of(step.target)
    assembled = whole(context, platform, Platform.assemble, call, ASSEMBLE_LIMIT)
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
        ways={
            records.task.id: clip(each.part.way, MOST_OF_WAY)
            for (records, _), each in zip(winners, tuned, strict=True)
            if each.part.way
        },
    )


def _objects(
    work: AssembleWork, winners: Sequence[tuple[TaskRecords, Trial]], step: Step, context: Context
) -> list[bytes]:
    """What was compiled before, by ``import`` and of candidates that were confirmed. What of it is lost is
    compiled again."""
    kept = [work.objects]
    for records, best in winners:
        kept += [each.objects for each in records.confirmed if each.hash == best.candidate.hash]
    found = []
    for blob in kept:
        try:
            found += [context.store.get(blob)] if blob is not None else []
        except ArtifactError as error:
            log.warning("%s: what was compiled before is compiled again: %s", step.id, error)
    return found


def _best(trials: Sequence[Trial], untuned: float | None) -> Trial | None:
    """The fastest of ``trials``, if it beats the ``untuned`` kernel (latency in seconds, where it is
    known)."""
    best = min(trials, key=lambda trial: trial.latency, default=None)
    limit = math.inf if untuned is None else untuned
    return best if best is not None and best.latency < limit else None


def _tuned(task: TaskSpec, best: Trial, step: Step, context: Context) -> TunedTask:
    workload = context.store.get(task.workload)
    symbol = f"tunemesh_{task.key}"
    call = PartCall(workload=workload, target=step.target, schedule=best.candidate.schedule, symbol=symbol)
    part = whole(context, engine_of(task), Engine.part, call, PART_LIMIT)
    return TunedTask(workload=workload, symbol=symbol, part=part, latency=best.latency)
