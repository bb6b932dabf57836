"""What was measured for a job, wherever it lies: nothing of it is lost when the job fails or is cancelled, or
the whole mesh goes away.

What an update has learned from lies in the artifact store. What came after the last one is in results that
are held, and is given up with them: it goes into the ledger. While a job runs its client is told of it, too.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tunemesh.coordinator.jobs import rounds
from tunemesh.coordinator.jobs.job import Job
from tunemesh.coordinator.jobs.ledger import TaskLedger
from tunemesh.shared.messages import TaskRecords, Trial

ROOM = 320 * 1024
"""Bytes for the trials of all tasks that are in no history, out of the 1 MiB of a message."""
ROOM_TOLD = 480 * 1024
"""Bytes of everything that a client is told of, beside the progress of the job."""
PER_TRIAL = 300
"""Bytes of a trial besides its schedule and its error text, at most."""


def at_the_end(job: Job) -> list[TaskLedger]:
    """The tasks of a job as they are if it ends now, with everything that was measured of them."""
    ledger = job.ledger
    open_ = [task for task in ledger.tasks if not task.closed and task.round >= 0]
    room = ROOM // max(len(open_), 1)
    return [_with_the_rest(job, task, room) if task in open_ else task for task in ledger.tasks]


def so_far(job: Job, task: TaskLedger) -> TaskLedger:
    """One task of a job that goes on, with everything that was measured of it until now."""
    if task.closed or task.round < 0:
        return task
    return _with_the_rest(job, task, ROOM // len(job.ledger.tasks))


def records(tasks: Sequence[TaskLedger]) -> list[TaskRecords]:
    """Where everything lies that was measured of tasks: tasks of which nothing was are left out, and
    those for which a message has no room."""
    found = [
        TaskRecords(
            task=task.spec,
            history=task.history,
            trials=task.rest,
            origin=task.rest_of if task.rest else None,
            confirmed=task.confirmed,
            untuned=task.untuned,
        )
        for task in tasks
        if _has_records(task)
    ]
    room, fitting = ROOM_TOLD, 0
    for each in found:
        room -= len(msgspec.msgpack.encode(each))
        if room < 0:
            break
        fitting += 1
    return found[:fitting]


def has_closed(job: Job) -> bool:
    """Whether a task was closed of which not all is told."""
    return any(
        task.closed and job.delivered.get(task.spec.id) != _amount(task) and job.may_act(task.spec.id)
        for task in job.ledger.tasks
    )


def deliver(job: Job) -> list[TaskRecords]:
    """The tasks of which more was measured than was told, as far as a message has room for them; noted as
    told. What closes a task is told once that is saved."""
    left = [
        task
        for task in at_the_end(job)
        if job.delivered.get(task.spec.id) != _amount(task) and (not task.closed or job.may_act(task.spec.id))
    ]
    found = records(left)
    told = {each.task.id for each in found}
    for task in left:
        if task.spec.id in told or not _has_records(task):
            job.delivered[task.spec.id] = _amount(task)
    return found


def _has_records(task: TaskLedger) -> bool:
    return bool(task.history or task.rest or task.untuned is not None)


def _amount(task: TaskLedger) -> tuple[int, int, bool]:
    return task.trials, len(task.confirmed), task.closed


def _with_the_rest(job: Job, task: TaskLedger, room: int) -> TaskLedger:
    kept = job.task(task.spec.id)
    now = rounds.current(job, task)
    proposals = {number: round_.proposal for number, round_ in kept.rounds.items()}
    newest = max((number for number, proposal in proposals.items() if proposal is not None), default=-1)
    proposal = proposals.get(newest)
    if proposal is None:
        return now
    # What its update has learned from is in the history; with lookahead that is not all of the round before.
    trials: list[Trial] = []
    before = kept.rounds.get(newest - 1)
    if before is not None:
        unlearned = [number for number in sorted(before.chunks) if number not in proposal.learned]
        trials += [trial for number in unlearned for trial in before.trials(number)]
    if rounds.closes(task, newest):
        now = rounds.confirm(now, kept.rounds[newest])
    else:
        trials += rounds.trials_of(kept.rounds[newest])
    rest = fitting(trials, room)
    return msgspec.structs.replace(now, history=proposal.state.history, rest=rest, rest_of=None)


def fitting(trials: Sequence[Trial], room: int) -> list[Trial]:
    """Those that there is room for: the fastest first, failures last."""
    chosen = []
    for trial in sorted(trials, key=lambda trial: trial.latency):
        room -= (
            PER_TRIAL + len(trial.candidate.schedule) + len(trial.error.encode()) + 9 * len(trial.latencies)
        )
        if room < 0:
            break
        chosen.append(trial)
    return chosen
