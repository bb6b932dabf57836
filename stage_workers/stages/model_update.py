"""``model-update``: learn from the last round, propose the next, and keep the finished round's history."""

from __future__ import annotations

import hashlib

import msgspec

from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.messages import Blob, Candidate, History, Step, TaskState, UpdateDone, UpdateWork
from tunemesh.stage_workers.engines.protocol import Proposal
from tunemesh.stage_workers.stages.context import UPDATE_LIMIT, Context, whole

SEARCH_INLINE = 512 * 1024
"""Bytes of search state that travel in the message."""
MESSAGE_ROOM = 700 * 1024
"""Bytes for state and candidates, and for the latencies that the next update brings with them, out of the
1 MiB of a message. The rest is for its error texts and timings."""
LATENCY_BYTES = 9
"""Of a number in MessagePack."""


def update_model(step: Step, work: UpdateWork, context: Context) -> UpdateDone:
    """Give the engine its state and the trials of the last round; take its new state and the next batch.

    Raises:
        TunemeshError: the engine failed twice or refused, or the store fails.
    """
    history = list(work.state.history) if work.state is not None else []
    if work.trials or work.timings:
        history.append(_keep(step, work, context.store))
    args = (
        context.store.get(work.task.workload),
        step.target,
        context.store.get(work.state.search) if work.state is not None else None,
        work.trials,
        work.want,
        step.seed,
        step.settings,
    )
    proposal = whole(step, context, "update", args, Proposal, UPDATE_LIMIT)
    candidates = [
        Candidate(index, name, schedule) for index, (name, schedule) in enumerate(proposal.schedules)
    ]
    taken = len(msgspec.msgpack.encode((candidates, history)))
    coming = len(candidates) * step.settings.repeats * LATENCY_BYTES
    room = min(MESSAGE_ROOM - taken - coming, SEARCH_INLINE)
    search = _search_blob(proposal.search, room, context.store)
    return UpdateDone(
        state=TaskState(search=search, history=history),
        candidates=candidates,
        learned=work.learns,
        chunk_size=work.chunk_size,
        exhausted=len(candidates) < work.want,
    )


def _keep(step: Step, work: UpdateWork, store: ArtifactStore) -> Blob:
    """Write what ``step`` learns from: as a rule the round before."""
    finished = History(task=step.task, round=max(step.round - 1, 0), trials=work.trials, timings=work.timings)
    return store.put(msgspec.msgpack.encode(finished), inline=False)


def _search_blob(search: bytes, room: int, store: ArtifactStore) -> Blob:
    # More than ``put`` keeps inline, on purpose: the state is read by the very next step and by no other.
    if len(search) <= room:
        return Blob(hashlib.sha256(search).hexdigest(), len(search), search)
    return store.put(search, inline=False)
