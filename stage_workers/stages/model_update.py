"""``model-update``: learn from the last round, propose the next, and keep the finished round's history."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import msgspec

from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.messages import (
    Blob,
    Candidate,
    History,
    Step,
    TaskState,
    Trial,
    UpdateDone,
    UpdateWork,
)
from tunemesh.shared.messages.tasks import HASH_LENGTH
from tunemesh.stage_workers.devices.drift import THRESHOLD
from tunemesh.stage_workers.engines.protocol import Engine, PlacedCall, Proposal, UpdateCall
from tunemesh.stage_workers.records.questions import Found, family_of
from tunemesh.stage_workers.stages import known, recording
from tunemesh.stage_workers.stages.context import UPDATE_LIMIT, Context, StageFailed, engine_of, whole
from tunemesh.stage_workers.stages.histories import read_trials

SEARCH_INLINE = 512 * 1024
"""Bytes of search state that travel in the message."""
MESSAGE_ROOM = 700 * 1024
"""Bytes for state and candidates, and for the latencies that the next update brings with them, out of the
1 MiB of a message. The rest is for its error texts and timings."""
LATENCY_BYTES = 9
"""Of a number in MessagePack."""
NEAR = 1.1
"""Candidates that took up to so many times as long as the best one are confirmed with it. Between others the
difference is larger than the noise of a measurement."""


def update_model(step: Step, work: UpdateWork, context: Context) -> UpdateDone:
    """Give the engine its state and the trials of the last round; take its new state and the next batch. At
    the end of a search name the best few of all trials.

    Raises:
        TunemeshError: the engine failed twice or refused, or the store fails.
    """
    history = list(work.state.history) if work.state is not None else list(work.recall)
    before = work.state.format if work.state is not None else 1
    batch = None
    if work.trials or work.timings:
        finished = _finished(step, work, before)
        history.append(context.store.put(msgspec.msgpack.encode(finished), inline=False))
        batch = recording.begin(step, work.task, finished, context)
    chosen: list[str] = []
    if work.want:
        proposal, chosen = _propose(step, work, context)
    else:
        search = context.store.get(work.state.search) if work.state is not None else b""
        best = leaders(read_trials(history, context.store), work.names, work.rival)
        proposal = Proposal(search=search, schedules=best, format=before)
    candidates = [
        Candidate(index, name, schedule) for index, (name, schedule) in enumerate(proposal.schedules)
    ]
    taken = len(msgspec.msgpack.encode((candidates, history)))
    coming = len(candidates) * step.settings.repeats * LATENCY_BYTES
    room = min(MESSAGE_ROOM - taken - coming, SEARCH_INLINE)
    kept = _search_blob(proposal.search, room, context.store)
    recording.end(batch, context)
    return UpdateDone(
        state=TaskState(search=kept, history=history, format=proposal.format, chosen=chosen),
        candidates=candidates,
        learned=work.learns,
        chunk_size=work.chunk_size,
        exhausted=len(candidates) < work.want,
    )


def _propose(step: Step, work: UpdateWork, context: Context) -> tuple[Proposal, list[str]]:
    """What is tried next, and the hashes of what the engine does not know of: it was chosen here, now or
    before, and what it brings was not learned yet."""
    engine = engine_of(work.task)
    call = UpdateCall(
        workload=context.store.get(work.task.workload),
        target=step.target,
        search=context.store.get(work.state.search) if work.state is not None else None,
        trials=read_trials(work.recall, context.store) + work.trials,
        want=work.want,
        seed=step.seed,
        options=step.options.get(engine, {}),
        prior=_prior(step, engine, context),
        region=work.task.region,
    )
    begin = known.to_begin_with(work, step, context) if work.state is None else known.Beginning()
    learned = {trial.candidate.hash for trial in call.trials}
    # What was taken over from another job is in the records, too.
    found = _within(call, [each for each in begin.leaders if each.trial.hash not in learned], engine, context)
    before = [name for name in work.state.chosen if name not in learned] if work.state is not None else []
    call = msgspec.structs.replace(
        call,
        want=work.want - len(found),
        here=begin.here,
        elsewhere=begin.elsewhere,
        seen=begin.seen,
        similar=begin.similar,
    )
    proposal = _asked(call, engine, context)
    # A schedule in another format is none to this engine.
    chosen = {each.trial.hash: each.trial.schedule for each in found if each.trial.format == proposal.format}
    unknown = [*before, *chosen]
    while True:
        # The engine may propose what is chosen already.
        chosen |= {name: schedule for name, schedule in proposal.schedules if name not in unknown}
        missing = work.want - len(chosen)
        if missing == 0 or len(proposal.schedules) < call.want:
            return msgspec.structs.replace(proposal, schedules=list(chosen.items())), unknown
        call = msgspec.structs.replace(
            call, search=proposal.search, trials=[], here=[], elsewhere=[], seen=[], similar=[], want=missing
        )
        proposal = _asked(call, engine, context)


def _within(call: UpdateCall, found: list[Found], engine: str, context: Context) -> list[Found]:
    """Those that are in the region of a search: others have what is elsewhere."""
    if call.region is None or not found:
        return found
    asked = PlacedCall(
        workload=call.workload,
        target=call.target,
        schedules=[each.trial.schedule for each in found],
        regions=call.region.of,
    )
    placed = whole(context, engine, Engine.placed, asked, UPDATE_LIMIT)
    if len(placed.numbers) != len(found):
        raise StageFailed(f"engine {engine}, placed: {len(placed.numbers)} of {len(found)} schedules")
    return [each for each, number in zip(found, placed.numbers, strict=True) if number == call.region.number]


def _prior(step: Step, engine: str, context: Context) -> bytes | None:
    """The newest prior that was learned from the records, for the devices of the target."""
    if context.records is None or step.settings.known == "never":
        return None
    return context.records.prior(engine, family_of(step.target))


def _asked(call: UpdateCall, engine: str, context: Context) -> Proposal:
    """What an engine proposes.

    Raises:
        StageFailed: it makes no sense.
        TunemeshError: the engine failed twice, or refused.
    """
    proposal = whole(context, engine, Engine.update, call, UPDATE_LIMIT)
    if why := _problem(proposal, call.want):
        raise StageFailed(f"engine {engine}, update: {why}")
    return proposal


def _problem(proposal: Proposal, want: int) -> str:
    """Why the coordinator would refuse a proposal, or nothing: here its engine can be named."""
    hashes = [name for name, _ in proposal.schedules]
    if len(hashes) > want:
        return f"it proposes {len(hashes)} schedules, asked were {want}"
    if len(set(hashes)) < len(hashes):
        return "it proposes a schedule twice"
    if not all(1 <= len(name) <= HASH_LENGTH for name in hashes):
        return f"the hash of a schedule has 1 to {HASH_LENGTH} characters"
    return ""


def leaders(trials: Sequence[Trial], most: int, rival: float | None = None) -> list[tuple[str, bytes]]:
    """Hash and schedule of those between which noise may have decided, best first; none where the best of
    them is far ahead. Those that only seem to be, because the device was disturbed, are none of the best: the
    one with the lowest latency is always among them, and is confirmed by itself where it was disturbed.

    Args:
        most: how many at most; with a single one there is nothing to decide.
        rival: the lowest latency in seconds that another engine has found of the task. With one the best is
            measured again even where it is far ahead: what is confirmed wins. What is far behind is not.
    """
    measured = {trial.candidate.hash: trial for trial in trials if math.isfinite(trial.estimate)}
    if not measured or not most:
        return []
    best = sorted(measured.values(), key=lambda trial: (trial.estimate, trial.candidate.hash))[:most]
    lead = min([best[0].estimate, *([rival] if rival is not None else [])])
    near = [trial for trial in best if trial.estimate <= NEAR * lead]
    lowest = min(measured.values(), key=lambda trial: (trial.latency, trial.candidate.hash))
    if near and lowest not in near:
        near = [*near[: most - 1], lowest]
    enough = 1 if rival is not None or lowest.drift > THRESHOLD else 2
    return [(each.candidate.hash, each.candidate.schedule) for each in near] if len(near) >= enough else []


def _finished(step: Step, work: UpdateWork, format_: int) -> History:
    """What ``step`` learns from: as a rule the round before."""
    return History(
        task=step.task,
        round=max(step.round - 1, 0),
        trials=work.trials,
        timings=work.timings,
        # Of a trial it is known for ever which job it was made for, whoever learns from it.
        origin=work.origin or step.origin,
        conditions=work.conditions,
        format=format_,
    )


def _search_blob(search: bytes, room: int, store: ArtifactStore) -> Blob:
    # More than ``put`` keeps inline, on purpose: the state is read by the very next step and by no other.
    if len(search) <= room:
        return Blob(hashlib.sha256(search).hexdigest(), len(search), search)
    return store.put(search, inline=False)
