"""The searches of a task: one for each engine that takes it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from tunemesh.coordinator.jobs.ledger import TaskLedger


def by_task(ledgers: Iterable[TaskLedger]) -> list[list[TaskLedger]]:
    """All searches, those of a task together, in the order of the model."""
    found: dict[str, list[TaskLedger]] = {}
    for each in ledgers:
        found.setdefault(each.spec.key, []).append(each)
    return list(found.values())


def ahead(searches: Sequence[TaskLedger]) -> TaskLedger | None:
    """The search of a task whose best kernel goes into the model, as far as is known: among those that were
    confirmed, if some were. ``None``: nothing was measured."""
    confirmed = [each for each in searches if each.confirmed]
    found = [each for each in confirmed or searches if each.best is not None]
    return min(found, key=lambda each: each.best if each.best is not None else math.inf, default=None)


def untuned(searches: Iterable[TaskLedger]) -> float | None:
    """Latency of the task without tuning in seconds; ``None`` where it was not measured."""
    return next((each.untuned for each in searches if each.untuned is not None), None)
