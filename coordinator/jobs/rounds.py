"""What came of the rounds of a task: trials, and the sums over them that the ledger keeps."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

import msgspec

from tunemesh.coordinator.jobs import searches
from tunemesh.coordinator.jobs.job import Job, Round, Task
from tunemesh.coordinator.jobs.ledger import TaskLedger
from tunemesh.coordinator.scheduling.durations import seconds_of
from tunemesh.shared.messages import Confirmed, Timing, Trial, Usage
from tunemesh.shared.messages.basics import MOST_SECONDS
from tunemesh.shared.text import clip

LAST_ERROR = 500
"""Characters of the last error of a task: its ledger has to hold those of all tasks."""


def trials_of(round_: Round) -> list[Trial]:
    """The trials of a round so far, in the order of the batch."""
    return [trial for number in sorted(round_.chunks) for trial in round_.trials(number)]


def fold(task: TaskLedger, number: int, round_: Round) -> TaskLedger:
    """``task`` with what round ``number`` has brought so far."""
    trials = trials_of(round_)
    outcomes = dict(task.outcomes)
    for trial in trials:
        outcomes[trial.outcome] = outcomes.get(trial.outcome, 0) + 1
    measured = [trial for trial in trials if trial.outcome == "measured"]
    latencies = [statistics.median(trial.latencies) for trial in measured]
    best = min(latencies + ([task.best] if task.best is not None else []), default=None)
    saved = task.best - best if task.best is not None and best is not None else 0.0
    profiled = [chunk.profiled for chunk in round_.chunks.values() if chunk.profiled is not None]
    untuned = [each.untuned for each in profiled if each.untuned is not None]
    errors = [each.untuned_error for each in profiled if each.untuned_error]
    errors += [trial.error for trial in trials if trial.error]
    proposal = round_.proposal
    return msgspec.structs.replace(
        task,
        folded=number,
        trials=task.trials + len(trials),
        outcomes=outcomes,
        best=best,
        gain=saved / len(trials) if trials else 0.0,
        untuned=untuned[0] if untuned else task.untuned,
        last_error=clip(errors[-1], LAST_ERROR) if errors else task.last_error,
        remeasured=task.remeasured + sum(trial.attempts > 1 for trial in trials),
        drift=max([task.drift, *(trial.drift for trial in measured)]),
        exhausted=task.exhausted or (proposal is not None and proposal.exhausted),
    )


def confirm(task: TaskLedger, round_: Round) -> TaskLedger:
    """``task`` with the best few as they were measured again in its closing round."""
    built = [
        each for chunk in round_.chunks.values() if chunk.built is not None for each in chunk.built.built
    ]
    objects = {each.index: each.objects for each in built}
    confirmed = [
        Confirmed(
            hash=trial.candidate.hash,
            latencies=trial.latencies,
            objects=objects.get(trial.candidate.index),
            conditions=trial.conditions,
            turns=chunk.turns,
        )
        for number, chunk in sorted(round_.chunks.items())
        for trial in round_.trials(number)
        if trial.outcome == "measured"
    ]
    best = min((statistics.median(each.latencies) for each in confirmed), default=task.best)
    return msgspec.structs.replace(task, confirmed=confirmed, best=best)


def closes(task: TaskLedger, number: int) -> bool:
    """Whether round ``number`` is the one that closes the task: it confirms, and tries nothing new."""
    return task.want == 0 and number == task.round


def current(job: Job, task: TaskLedger) -> TaskLedger:
    """``task`` as it stands now: the ledger plus what is held of the rounds under way."""
    kept = job.task(task.spec.id)
    return kept.derived(task, lambda: _folded(task, kept))


def lead(job: Job, task: TaskLedger, others: bool = False) -> float | None:
    """The best latency of a task so far in seconds, whichever of its searches has found it; ``None`` before
    one has.

    Args:
        others: leave out what ``task``, which is one of its searches, has found itself.
    """
    found = [
        current(job, each).best
        for each in job.searches(task)
        if not (others and each.spec.id == task.spec.id)
    ]
    return min((best for best in found if best is not None), default=None)


def untuned(job: Job, task: TaskLedger) -> float | None:
    """Latency of a task without tuning in seconds; ``None`` before one of its searches has measured it."""
    return searches.untuned(current(job, each) for each in job.searches(task))


def _folded(task: TaskLedger, kept: Task) -> TaskLedger:
    now = task
    for number in open_rounds(task, kept):
        if not closes(task, number):
            now = fold(now, number, kept.rounds[number])
    return now


def open_rounds(task: TaskLedger, kept: Task) -> list[int]:
    """The rounds that are held and not yet part of the ledger's figures, oldest first."""
    return [n for n in range(task.folded + 1, task.round + 1) if n in kept.rounds]


def add_usage(usage: dict[str, Usage], timings: Iterable[Timing]) -> dict[str, Usage]:
    """``usage`` with more steps."""
    total = {name: [each.steps, each.busy] for name, each in usage.items()}
    for timing in timings:
        of_resource = total.setdefault(timing.resource, [0, 0.0])
        of_resource[0] += 1
        of_resource[1] += seconds_of(timing)
    return {
        name: Usage(steps=int(steps), busy=min(busy, MOST_SECONDS)) for name, (steps, busy) in total.items()
    }


def current_usage(job: Job) -> dict[str, Usage]:
    """Usage with the results held for rounds that the ledger does not yet contain."""
    timings: list[Timing] = []
    for task in job.ledger.tasks:
        if not task.closed:
            kept = job.task(task.spec.id)
            for number in open_rounds(task, kept):
                timings += (held.message.timing for held in kept.rounds[number].held())
    return add_usage(job.ledger.usage, timings)
