"""The searches of a task: one for each engine that takes it, and for each region where its space is split.

A job that is to end soon, and has several devices, can be *split*: the search of an engine becomes several,
each in a region of the space that the others leave out (:attr:`~shared.messages.TaskSpec.region`). They run
side by side, so that no device waits for an update, and never propose the same candidate. What each has found
counts for the task, like what several engines have found.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from tunemesh.coordinator.jobs.ledger import TaskLedger
from tunemesh.shared.messages import Confirmed, Region

LEAST_TRIALS = 16
"""Of a job for each search that a split makes: with fewer none of them gets far."""

MOST_SEARCHES = 512
"""Of a job that is split: its ledger is a message."""


LONGEST = 50
"""Characters of the name of a search that gets a number."""


class Divided(NamedTuple):
    """The searches of a job that is to be split."""

    ledgers: list[TaskLedger]
    note: str
    """What was not done, and why: one sentence, or nothing."""


def by_task(ledgers: Iterable[TaskLedger]) -> list[list[TaskLedger]]:
    """All searches, those of a task together, in the order of the model."""
    found: dict[str, list[TaskLedger]] = {}
    for each in ledgers:
        found.setdefault(each.spec.key, []).append(each)
    return list(found.values())


def by_engine(found: Iterable[TaskLedger]) -> list[list[TaskLedger]]:
    """The searches of a task, those of an engine together; without those that are nobody's."""
    engines: dict[str, list[TaskLedger]] = {}
    for each in found:
        if each.spec.engine is not None:
            engines.setdefault(each.spec.engine, []).append(each)
    return list(engines.values())


def ahead(searches: Sequence[TaskLedger]) -> TaskLedger | None:
    """The search of a task whose best kernel goes into the model, as far as is known: among those that were
    confirmed, if some were. ``None``: nothing was measured."""
    confirmed = [each for each in searches if each.confirmed]
    found = [each for each in confirmed or searches if each.best is not None]
    return min(found, key=lambda each: each.best if each.best is not None else math.inf, default=None)


def behind(ahead: TaskLedger, regions: Iterable[TaskLedger]) -> float | None:
    """How many times as long the fastest kernel of some searches takes as that of the search ahead, by the
    median over the turns that both took; ``None`` where they took none together."""
    best = min(ahead.confirmed, key=_median, default=None)
    if best is None or not best.turns:
        return None
    same = [each for search in regions for each in search.confirmed if each.turns == best.turns]
    rival = min(same, key=_median, default=None)
    if rival is None or len(rival.latencies) != len(best.latencies):
        return None
    return statistics.median(
        one / other for one, other in zip(rival.latencies, best.latencies, strict=True) if other > 0
    )


def _median(confirmed: Confirmed) -> float:
    return statistics.median(confirmed.latencies)


def untuned(searches: Iterable[TaskLedger]) -> float | None:
    """Latency of the task without tuning in seconds; ``None`` where it was not measured."""
    return next((each.untuned for each in searches if each.untuned is not None), None)


def divided(ledgers: Sequence[TaskLedger], split: int, trials: int, most: int) -> Divided:
    """The searches of a job whose tasks are to be split, with those that are open cut into regions.

    Args:
        ledgers: those of engines.
        split: regions that were asked for.
        trials: of the whole job.
        most: times as many searches as there are open ones that can be dealt with.
    """
    open_ = [each for each in ledgers if not each.closed]
    if split == 1 or not open_:
        return Divided(list(ledgers), "")
    able = [each for each in open_ if each.spec.regions > 1 and len(each.spec.id) <= LONGEST]
    unable = sorted({str(each.spec.engine) for each in open_ if each not in able})
    fitting = min(split, trials // (LEAST_TRIALS * len(open_)), MOST_SEARCHES // len(open_), most)
    notes = []
    if able and fitting < split:
        parts = f"in {fitting} parts instead of {split}" if fitting > 1 else "as a whole"
        notes.append(f"each space is searched {parts}: {trials} trials of {len(open_)} searches give no more")
    if unable:
        count = len(open_) - len(able)
        notes.append(
            f"{count} of {len(open_)} spaces are searched as a whole: {', '.join(unable)} cannot split"
        )
    found = []
    for each in ledgers:
        regions = min(fitting, each.spec.regions) if each in able else 1
        found += [each] if regions < 2 else _regions(each, regions)
    if len({each.spec.id for each in found}) < len(found):
        return Divided(list(ledgers), "no space is split: the names of its searches are others' already")
    return Divided(found, "; ".join(notes))


def _regions(ledger: TaskLedger, count: int) -> list[TaskLedger]:
    """A search that has not begun, once for each region."""
    name = ledger.spec.id
    return [
        msgspec.structs.replace(
            ledger,
            spec=msgspec.structs.replace(
                ledger.spec, id=f"{name}.{number}" if number else name, region=Region(number, count)
            ),
        )
        for number in range(count)
    ]
