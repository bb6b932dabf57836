"""Which search gets the next trials of a job.

A task has a search for each engine that takes it, or several in different regions. Every search gets a first
batch. After that trials go where they are expected to shorten the model most: ``weight x expected gain``. The
estimate follows the task scheduler of Ansor (Zheng et al., OSDI 2020, section 6.2): the larger of what the
last round gained per trial and of an optimistic guess that shrinks as trials are spent, so that no task
starves. A search that is behind another one of its task has to catch up first: that is taken off.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

OPTIMISM = 0.2
"""Share of a task's latency that the optimistic guess expects doubled trials to save. Ansor's alpha."""

ATTEMPTS_WITHOUT_SUCCESS = 3
"""Rounds after which a search that could measure nothing gets no more trials."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of one search when trials are given out. Latencies in seconds."""

    search: str
    task: str
    """What it is a search of: the same for all searches of a task."""
    weight: int
    """Of the task."""
    trials: int
    """Tried or under way."""
    rounds: int
    busy: bool
    """A round is under way."""
    best: float | None
    """That it has found itself."""
    lead: float | None
    """The best of the task, whichever search has found it."""
    gain: float
    """Seconds per trial that the last round took off the latency."""
    exhausted: bool
    engine: str = ""
    """Whose search it is: one of those in different regions shows enough to compare engines by."""
    regions: int = 1
    """Into how many the space of its engine is split for the task; 1: it is not."""


PATIENCE = 5e-4
"""Share of the model's latency that one more trial has to be expected to take off, where neither that nor a
number of trials was asked for. It gives a search a first batch, and one with all of the latency 400
trials."""

FIRST = 8
"""Trials of each task in a budget that the model chooses: after so many the best one takes 1.07 to 1.26 times
as long as the best of 30."""


IN_TIME = 4
"""Trials that a search gets first where time, or what a job may take of a device, can end it: every task is
to have something before any has much."""


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


def first_batch(budget: int, searches: int, batch: int) -> int:
    """Trials that each search gets first: half of the budget is spread evenly, the rest goes where it
    pays."""
    return max(1, min(batch, math.ceil(budget / (2 * max(searches, 1)))))


def few(each: int, searches: int, place: int) -> int:
    """Trials of one search, where a task gets ``each`` of them, whatever they bring, and has so many
    searches: as many as others of the task, or one more for those in the first places."""
    return each // searches + (place < each % searches)


def grants(
    standings: Sequence[Standing],
    budget: int,
    left: int,
    batch: int,
    patience: float = 0.0,
    only: int = 0,
    known: float = 0.0,
    first: int | None = None,
) -> list[tuple[str, int]]:
    """The rounds to start now, as (search, trials).

    Args:
        standings: all searches of the job.
        budget: trials of the whole job.
        left: trials not yet granted.
        batch: most trials per round.
        patience: see :func:`pays`.
        only: of each task so many trials, shared out among its searches (:func:`few`), at once, and no more
            unless none of them could be measured: then all its searches try; 0: as many as pay.
        known: seconds of one run of the model that tasks take which are not searched.
        first: most trials of the first round of a search; by default as many as of others.
    """
    model = model_latency(standings) + known
    of_task = Counter(each.task for each in standings)
    given: list[tuple[str, int]] = []
    if only:
        return _few_of_each(standings, only)
    if first is not None:
        # Every task is to have something before any has several searches.
        had = {s.task for s in standings if s.lead is not None or (s.rounds and not s.busy)}
        alone = 2 * len(had) < len(of_task)
    else:
        alone = False
    for place, standing in _fresh(standings):
        if left <= 0 or (alone and place):
            break
        want = min(first_batch(budget, len(standings), batch), left, first or batch)
        given.append((standing.search, want))
        left -= want
    if alone:
        return given
    # The rest waits until every search has shown something: before that there is nothing to compare.
    shown = {(s.task, s.engine) for s in standings if not (s.rounds <= 1 and s.busy)}
    if given or any((s.task, s.engine) not in shown for s in standings):
        return given
    regions = max((s.regions for s in standings), default=1)
    room = rounds_at_once(len(of_task)) * regions - sum(s.busy for s in standings)
    able = [s for s in standings if may_go_on(s) and pays(s, model, patience)]
    # What is too far behind gets something only where nobody else can use it.
    hopeful = [s for s in able if expected_gain(s) > 0] or able
    waiting = sorted((s for s in hopeful if not s.busy), key=lambda s: -expected_gain(s))
    for standing in waiting[: max(room, 0)]:
        if left <= 0:
            break
        want = next_batch(budget, left, len(of_task) * regions, len(standings), batch)
        given.append((standing.search, want))
        left -= want
    return given


def _few_of_each(standings: Sequence[Standing], only: int) -> list[tuple[str, int]]:
    """See ``only`` of :func:`grants`."""
    of_task = Counter(each.task for each in standings)
    shares = {each.search: few(only, of_task[each.task], place) for place, each in _fresh(standings)}
    given = [(search, share) for search, share in shares.items() if share]
    begun = Counter(each.task for each in standings if each.rounds)
    busy = {each.task for each in standings if each.busy}
    for each in standings:
        if each.lead is None and begun[each.task] and each.task not in busy and may_go_on(each):
            given = [(search, share) for search, share in given if search != each.search]
            given.append((each.search, max(1, only // of_task[each.task])))
    return given


def _fresh(standings: Iterable[Standing]) -> list[tuple[int, Standing]]:
    """The searches that have not begun, each with its place in its task: the heaviest tasks first, and every
    task with one search before any has a second one."""
    place: Counter[str] = Counter()
    found: list[tuple[int, Standing]] = []
    for standing in standings:
        if standing.rounds == 0:
            found.append((place[standing.task], standing))
        place[standing.task] += 1
    return sorted(found, key=lambda each: (each[0], -each[1].weight))


def rounds_at_once(tasks: int) -> int:
    """Rounds of a job that are under way at once after the first ones: half of its tasks, enough to fill the
    gaps, and the later half is chosen with the results of the first."""
    return max(2, (tasks + 1) // 2)


def next_batch(budget: int, left: int, tasks: int, searches: int, batch: int) -> int:
    """Trials of a round after a search's first."""
    fair = max(first_batch(budget, searches, batch), math.ceil(left / max(tasks, 1)))
    return min(batch, fair, left)


def may_go_on(standing: Standing) -> bool:
    """Whether more trials of the search make sense."""
    return not standing.exhausted and not _hopeless(standing)


def model_latency(standings: Iterable[Standing]) -> float:
    """Seconds of one run of the model, as far as its tasks are measured."""
    return sum({s.task: s.weight * s.lead for s in standings if s.lead is not None}.values())


def pays(standing: Standing, model: float, patience: float) -> bool:
    """Whether one more trial of the search is expected to take at least the share ``patience`` off ``model``,
    the latency of the model in seconds. It does as long as nothing of the task was measured."""
    return expected_gain(standing) >= patience * model


def reason(standing: Standing, model: float, patience: float) -> str:
    """Why a search gets no more trials, where nothing is left to grant: one line for people."""
    if standing.exhausted:
        return "there is nothing new to try"
    if _hopeless(standing):
        return f"nothing could be measured in {standing.rounds} rounds"
    if expected_gain(standing) <= 0:
        return f"another {'region' if standing.regions > 1 else 'engine'} is too far ahead"
    if not pays(standing, model, patience):
        return f"one more trial is expected to take less than {patience:.3%} off the model's latency"
    return "the trials are spent"


def expected_gain(standing: Standing) -> float:
    """Seconds that one more trial is expected to take off one run of the model; 0 where the search is not
    expected to pass the best of its task with as many trials again as it has had."""
    if standing.lead is None:
        return math.inf
    # Of a search that has found nothing while another one has it is expected that it may be as good.
    best = standing.best if standing.best is not None else standing.lead
    trials = max(standing.trials, 1)
    optimistic = OPTIMISM * best / trials
    behind = (best - standing.lead) / trials
    return standing.weight * max(max(standing.gain, optimistic) - behind, 0.0)


def _hopeless(standing: Standing) -> bool:
    return standing.best is None and standing.rounds >= ATTEMPTS_WITHOUT_SUCCESS
