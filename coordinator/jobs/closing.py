"""How the searches of a task end: what they have found is built by each, and measured in one step.

Two kernels that are close to each other can be compared where they take turns on the device, and not where
each is measured at another time. So searches of a task that end in the same revision wait for each other once
they have built their best few, and the first of them that has some has all of them measured. What that step
gives belongs to each of them, and they are closed in one revision.

A search that ends later waits for none that has ended: another job may have had it to the end, and that one
may wait for this job.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from tunemesh.coordinator.jobs.job import Job, StepRef
from tunemesh.coordinator.jobs.ledger import TaskLedger
from tunemesh.shared.messages import Built

MOST = 32
"""Candidates that take turns: each takes two tenths of a second, and a task that is split has many
searches."""


def together(job: Job, task: TaskLedger) -> list[TaskLedger]:
    """The searches that end with one that ends, and are not closed yet; that one is among them."""
    return [
        each
        for each in job.searches(task)
        if each.ending == task.ending and each.round >= 0 and not each.want and not each.closed
    ]


def measured_with(job: Job, task: TaskLedger) -> Mapping[str, list[Built]]:
    """What is measured with what a search that ends has found, by search, in their order; its own is among
    it. Nothing before all of that is built, and where there is nothing to be measured.

    Searches of which nothing is to be measured are left out; where there is too much, the worst of each.
    """
    found: dict[str, list[Built]] = {}
    for each in together(job, task):
        round_ = job.round(each.spec.id, each.round)
        if round_ is None or round_.update is None:
            return {}
        for number in range(round_.chunk_count()):
            chunk = round_.chunks.get(number)
            if chunk is None or chunk.built is None:
                return {}
            if built := [one for one in chunk.built.built if one.artifact is not None]:
                found[each.spec.id] = built
    return _fitting(found)


def _fitting(found: dict[str, list[Built]]) -> dict[str, list[Built]]:
    """The best of each search, as many as may take turns. Each has its best first."""
    ranked = sorted((rank, search) for search, built in found.items() for rank in range(len(built)))
    chosen = set(ranked[:MOST])
    return {
        search: [one for rank, one in enumerate(built) if (rank, search) in chosen]
        for search, built in found.items()
    }


def step_of(job: Job, task: TaskLedger) -> StepRef | None:
    """The step that measures what a search that ends has found; ``None`` before all that it is measured with
    is built, and where nothing is to be measured."""
    first = next(iter(measured_with(job, task)), None)
    host = job.task_ledger(first) if first is not None else None
    return StepRef(job.id, "profile", host.spec.id, host.round, 0) if host is not None else None


def is_vain(job: Job, task: TaskLedger, running: Collection[StepRef]) -> bool:
    """Whether a search that ends could be closed at once, though not all that is to be confirmed is: what it
    has learned is written down, and no device is at it."""
    round_ = job.round(task.spec.id, task.round)
    if round_ is None or round_.update is None:
        return False
    names = {each.spec.id for each in together(job, task)}
    return not any(ref.task in names and ref.stage == "profile" for ref in running)
