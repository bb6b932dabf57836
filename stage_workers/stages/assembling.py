"""``assemble``: compile the whole model with the best of everything that was measured."""

from __future__ import annotations

import math

import msgspec

from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.errors import ArtifactError
from tunemesh.shared.messages import AssembleDone, AssembleWork, Blob, History, Step, TaskRecords
from tunemesh.stage_workers.engines.protocol import Assembled, TaskTrials, latency
from tunemesh.stage_workers.stages.context import ASSEMBLE_LIMIT, Context, whole

_history_decoder = msgspec.msgpack.Decoder(History)


def assemble(step: Step, work: AssembleWork, context: Context) -> AssembleDone:
    """Read the history of every task, and let the engine compile the model with it and without it.

    Raises:
        TunemeshError: the engine failed or refused, or an artifact is missing or damaged.
    """
    store = context.store
    tasks = [_at_its_end(records, store) for records in work.tasks]
    args = (store.get(work.model), step.target, tasks, step.settings)
    assembled = whole(step, context, "assemble", args, Assembled, ASSEMBLE_LIMIT)
    return AssembleDone(
        tuned=store.put(assembled.tuned, inline=False),
        untuned=store.put(assembled.untuned, inline=False),
        signature=store.put(assembled.signature, inline=False),
        files={name: store.put(data, inline=False) for name, data in assembled.files.items()},
        records=store.put(msgspec.msgpack.encode(work.tasks), inline=False),
    )


def _at_its_end(records: TaskRecords, store: ArtifactStore) -> TaskTrials:
    confirmed = {each.hash: each.latencies for each in records.confirmed}
    trials = [trial for blob in records.history for trial in _read(blob, store).trials]
    trials = [
        msgspec.structs.replace(t, latencies=confirmed[t.candidate.hash])
        if t.candidate.hash in confirmed
        else t
        for t in trials
    ]
    best = min(map(latency, trials), default=math.inf)
    beaten = records.untuned is not None and records.untuned <= best < math.inf
    return TaskTrials(workload=store.get(records.task.workload), trials=trials, apply=not beaten)


def _read(blob: Blob, store: ArtifactStore) -> History:
    try:
        return _history_decoder.decode(store.get(blob))
    except msgspec.DecodeError as error:
        raise ArtifactError(f"artifact {blob.sha256[:12]} is no history of a round: {error}") from None
