"""Which task gets the next trials of a job.

Every task gets a first batch. After that trials go where they are expected to shorten the model most:
``weight x expected gain``. The estimate follows the task scheduler of Ansor (Zheng et al., OSDI 2020, section
6.2): the larger of what the last round gained per trial and of an optimistic guess that shrinks as trials
are spent, so that no task starves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

OPTIMISM = 0.2
"""Share of a task's latency that the optimistic guess expects doubled trials to save. Ansor's alpha."""

ATTEMPTS_WITHOUT_SUCCESS = 3
"""Rounds after which a task of which nothing could be measured gets no more trials."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of one task when trials are given out. Latencies in seconds."""

    task: str
    weight: int
    trials: int
    """Tried or under way."""
    rounds: int
    busy: bool
    """A round is under way."""
    best: float | None
    gain: float
    """Seconds per trial that the last round took off the latency."""
    exhausted: bool


PATIENCE = 5e-4
"""Share of the model's latency that one more trial has to be expected to take off, where neither that nor a
number of trials was asked for. It gives a task a first batch, and one with all of the latency 400 trials."""

FIRST = 8
"""Trials of each task in a budget that the model chooses: after so many the best one takes 1.07 to 1.26 times
as long as the best of 30."""


def automatic(tasks: int, patience: float) -> int:
    """Trials for a model with so many tasks: a few for each, and as many more as pay by the optimistic guess,
    whichever tasks they go to."""
    return FIRST * tasks + math.ceil(OPTIMISM / patience)


def enough(budget: int | None, tasks: int, batch: int) -> float:
    """Trials after which a task counts as searched, so that what an earlier job has found serves this one: as
    many as there are for each of its tasks, but no more than a round has.

    Args:
        budget: trials of the whole job; ``None`` where the model chooses.
    """
    return min(FIRST if budget is None else budget / max(tasks, 1), batch)


def first_batch(budget: int, tasks: int, batch: int) -> int:
    """Trials that each task gets first: half of the budget is spread evenly, the rest goes where it pays."""
    return max(1, min(batch, math.ceil(budget / (2 * max(tasks, 1)))))


def grants(
    standings: Sequence[Standing], budget: int, left: int, batch: int, patience: float = 0.0, only: int = 0
) -> list[tuple[str, int]]:
    """The rounds to start now, as (task, trials).

    Args:
        standings: all tasks of the job.
        budget: trials of the whole job.
        left: trials not yet granted.
        batch: most trials per round.
        patience: see :func:`pays`.
        only: of each task so many trials, at once, and no more unless none of them could be measured; 0: as
            many as pay.
    """
    model = model_latency(standings)
    given: list[tuple[str, int]] = []
    first = only or first_batch(budget, len(standings), batch)
    fresh = sorted((s for s in standings if s.rounds == 0), key=lambda s: -s.weight)
    for standing in fresh:
        if left <= 0:
            break
        want = min(first, left)
        given.append((standing.task, want))
        left -= want
    if only:
        return given + [(each.task, only) for each in standings if _has_failed(each)]
    # The rest waits until every task has shown something: before that there is nothing to compare.
    if any(s.rounds <= 1 and s.busy for s in standings) or given:
        return given
    room = rounds_at_once(len(standings)) - sum(s.busy for s in standings)
    open_tasks = [s for s in standings if not s.busy and may_go_on(s) and pays(s, model, patience)]
    for standing in sorted(open_tasks, key=lambda s: -expected_gain(s))[: max(room, 0)]:
        if left <= 0:
            break
        want = next_batch(budget, left, len(standings), batch)
        given.append((standing.task, want))
        left -= want
    return given


def rounds_at_once(tasks: int) -> int:
    """Rounds of a job that are under way at once after the first ones: half of its tasks, enough to fill the
    gaps, and the later half is chosen with the results of the first."""
    return max(2, (tasks + 1) // 2)


def next_batch(budget: int, left: int, tasks: int, batch: int) -> int:
    """Trials of a round after a task's first."""
    fair = max(first_batch(budget, tasks, batch), math.ceil(left / max(tasks, 1)))
    return min(batch, fair, left)


def may_go_on(standing: Standing) -> bool:
    """Whether more trials of the task make sense."""
    return not standing.exhausted and not _hopeless(standing)


def model_latency(standings: Sequence[Standing]) -> float:
    """Seconds of one run of the model, as far as its tasks are measured."""
    return sum(s.weight * s.best for s in standings if s.best is not None)


def pays(standing: Standing, model: float, patience: float) -> bool:
    """Whether one more trial of the task is expected to take at least the share ``patience`` off ``model``,
    the latency of the model in seconds. It does as long as nothing of the task was measured."""
    return expected_gain(standing) >= patience * model


def reason(standing: Standing, model: float, patience: float) -> str:
    """Why a task gets no more trials, where nothing is left to grant: one line for people."""
    if standing.exhausted:
        return "there is nothing new to try"
    if _hopeless(standing):
        return f"nothing could be measured in {standing.rounds} rounds"
    if not pays(standing, model, patience):
        return f"one more trial is expected to take less than {patience:.3%} off the model's latency"
    return "the trials are spent"


def expected_gain(standing: Standing) -> float:
    """Seconds that one more trial is expected to take off one run of the model."""
    if standing.best is None:
        return math.inf
    optimistic = OPTIMISM * standing.best / max(standing.trials, 1)
    return standing.weight * max(standing.gain, optimistic)


def _has_failed(standing: Standing) -> bool:
    """Whether it deserves another attempt."""
    return standing.best is None and standing.rounds > 0 and not standing.busy and may_go_on(standing)


def _hopeless(standing: Standing) -> bool:
    return standing.best is None and standing.rounds >= ATTEMPTS_WITHOUT_SUCCESS
