"""Tasks that several jobs have at the same time: who tunes one, who waits for it, and what is taken over.

1. **The same** are tasks of one tenant, of equal workload, target, engine, region, options of that engine,
   seed, and settings but for those that only say how much is tried and in which portions (:data:`OWN`). A job
   that is not ``shared`` has no task in common with any other. What one tenant finds is another's only by the
   records, where it was measured for all.
2. **Who begins, tunes.** A job that has not begun a task waits for the one that has, as long as that has not
   closed it. Who waits holds nothing up: his other tasks are tuned, and closed, all the same. So a task that
   was begun is always closed, whoever waits for whom, and no two jobs can wait for each other for ever.
3. **What is found is taken over** when the task is closed, or its job has ended in whichever way: histories
   and latencies, by the addresses in the ledger. It serves jobs that were accepted before that job ended;
   what was measured for earlier ones is for records to tell.
4. **The trials count** for whoever takes them over as if they were his own, as far as they are his part: see
   :func:`tunemesh.coordinator.jobs.trials.left`. What he still wants goes on from there.

All of it follows from ledgers alone; the index is made from them, and can be made again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

import msgspec

from tunemesh.coordinator.jobs import measured
from tunemesh.coordinator.jobs.job import Job
from tunemesh.coordinator.jobs.ledger import TaskLedger
from tunemesh.shared.messages import Request, Settings, Taken, TaskSpec
from tunemesh.shared.messages.requests import MOST_ROUNDS

OWN = frozenset({"batch", "chunk", "lookahead", "import_timeout", "shapes", "dims", "ranges"})
"""Settings in which jobs may differ that share a task. The others change what is proposed, or how a
candidate is built and measured. Shapes are part of the workload."""


class Same(NamedTuple):
    """What tasks have in common that are the same."""

    key: str
    """Of workload and target."""
    how: bytes
    """Everything else that changes what is searched."""


class Found(NamedTuple):
    """What another job has of a task."""

    job: Job
    task: TaskLedger


def same_of(request: Request, spec: TaskSpec) -> Same | None:
    """What a task of a job has in common with those that are the same; ``None``: it is not to be shared."""
    if not request.level.shared or spec.engine is None:
        return None
    settings = [getattr(request.settings, name) for name in Settings.__struct_fields__ if name not in OWN]
    options = sorted(request.options.get(spec.engine, {}).items())
    search = spec.engine, options, request.seed, settings, request.level.effort, spec.region
    how = request.tenant, request.target, *search
    return Same(spec.key, msgspec.msgpack.encode(how))


def total(task: TaskLedger) -> int:
    """Trials of a task, with those that were taken over."""
    return task.trials + (task.taken.trials if task.taken is not None else 0)


class Sharing:
    """The jobs that have a task, by what makes tasks the same."""

    def __init__(self) -> None:
        self._jobs: dict[Same, dict[str, tuple[Job, str]]] = {}
        self._same: dict[str, dict[str, Same]] = {}

    def note(self, job: Job) -> None:
        """A job has tasks."""
        if job.id in self._same or not job.ledger.tasks:
            return
        found = {task.spec.id: same_of(job.ledger.request, task.spec) for task in job.ledger.tasks}
        self._same[job.id] = {task: same for task, same in found.items() if same is not None}
        for task, same in self._same[job.id].items():
            self._jobs.setdefault(same, {})[job.id] = job, task

    def forget(self, job: str) -> None:
        """A job is not known any more, or can serve no other."""
        for same in self._same.pop(job, {}).values():
            jobs = self._jobs.get(same, {})
            jobs.pop(job, None)
            if not jobs:
                self._jobs.pop(same, None)

    def leader(self, job: Job, task: str, outside: Collection[str] = ()) -> Job | None:
        """Who tunes a task that ``job`` has not begun; ``None``: nobody. Jobs ``outside`` may not yet."""
        for other, its in self._others(job, task):
            begun = its.round >= 0 and not its.closed
            if begun and other.ledger.phase == "tuning" and other.id not in outside:
                return other
        return None

    def source(self, job: Job, task: TaskLedger) -> Found | None:
        """Who has found most of a task and does not go on with it, if that is more than ``job`` has."""
        best: Found | None = None
        most = total(task)
        for other, its in self._others(job, task.spec.id):
            if (its.closed or other.ended) and total(its) > most and (its.history or its.rest):
                best, most = Found(other, its), total(its)
        return best

    def so_far(self, job: Job, task: TaskLedger) -> Found | None:
        """The same where ``job`` cannot wait any more: whoever tunes the task goes on with it."""
        leader = self.leader(job, task.spec.id)
        if leader is None:
            return self.source(job, task)
        its = leader.task_ledger(self._there(job, task.spec.id, leader))
        if its is None:
            return None
        its = measured.so_far(leader, its)
        return Found(leader, its) if its.history or its.rest else None

    def waiting(self, job: Job, task: str, outside: Collection[str] = ()) -> list[Job]:
        """Who waits for ``job`` to tune a task."""
        return [
            other
            for other, its in self._others(job, task)
            if its.round < 0
            and not its.closed
            and other.ledger.phase == "tuning"
            and not other.ledger.stopped
            and self.leader(other, its.spec.id, outside) is job
        ]

    def known(self, job: Job, outside: Collection[str]) -> list[str]:
        """The searches of a job that is not noted yet which another one does, or has just done."""
        found = []
        for task in job.ledger.tasks:
            same = same_of(job.ledger.request, task.spec)
            others = self._jobs.get(same, {}).values() if same is not None else ()
            theirs = [other.task_ledger(name) for other, name in others if other.id not in outside]
            if any(its is not None and (its.round >= 0 or total(its)) for its in theirs):
                found.append(task.spec.id)
        return found

    def partners(self, job: Job) -> list[Job]:
        """All jobs that have a task in common with ``job`` and have not ended."""
        found = {
            other.id: other
            for same in self._same.get(job.id, {}).values()
            for other, _ in self._jobs[same].values()
            if other is not job and not other.ended
        }
        return list(found.values())

    def _there(self, job: Job, task: str, other: Job) -> str:
        """What another job calls the same task."""
        return self._jobs[self._same[job.id][task]][other.id][1]

    def _others(self, job: Job, task: str) -> Iterator[Found]:
        """Other jobs at the same time that have a task, in the order in which they were accepted."""
        same = self._same.get(job.id, {}).get(task)
        if same is None:
            return
        others = [each for each in self._jobs[same].values() if each[0] is not job]
        for other, name in sorted(others, key=lambda each: (each[0].ledger.accepted, each[0].id)):
            its, ledger = other.task_ledger(name), other.ledger
            over = ledger.finished is not None and ledger.finished < job.ledger.accepted
            wrong = ledger.validated is not None and not ledger.validated.equal
            if its is not None and not over and not wrong:
                yield Found(other, its)


def take(job: Job, task: TaskLedger, found: Found) -> TaskLedger:
    """``task``, which ``job`` has not begun, with what another job has found of it."""
    other, its = found
    before = its.taken
    rounds = its.folded + 1 + (before.rounds if before is not None else 0)
    taken = Taken(
        job=other.id,
        trials=total(its),
        rounds=max(rounds, 1),
        seconds=total(its) * its.pace.get("profile", 0.0),
        closed=its.closed,
    )
    return msgspec.structs.replace(
        task,
        taken=taken,
        best=its.best,
        gain=its.gain,
        untuned=its.untuned,
        last_error=its.last_error,
        exhausted=its.exhausted,
        drift=its.drift,
        pace=its.pace,
        confirmed=its.confirmed,
        history=its.history,
        rest=measured.fitting(its.rest, measured.ROOM // len(job.ledger.tasks)),
        rest_of=its.rest_of or other.ledger.origin,
    )


def has_room(job: Job, found: Found) -> bool:
    """Whether the ledger of ``job`` can hold the addresses of all that was measured, too."""
    request = job.ledger.request
    own = -(-request.level.trials // request.settings.batch)
    held = sum(len(task.history) for task in job.ledger.tasks)
    return own + held + len(found.task.history) <= MOST_ROUNDS
