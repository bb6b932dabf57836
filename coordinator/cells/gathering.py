"""What is asked of all cells, and what of two of them, and what is made of the answers."""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field

from tunemesh.coordinator.cells import merging
from tunemesh.coordinator.cells.choice import Cells
from tunemesh.coordinator.cells.events import AskCell, DeskInstruction
from tunemesh.coordinator.cells.messages import Handed, Placed
from tunemesh.coordinator.events import Answer, Arrived, Count
from tunemesh.shared.messages import Query, Snapshot
from tunemesh.shared.messages.progress import CellProgress

ANSWER_LIMIT = 3.0
"""Seconds that cells are given to answer."""


@dataclass(slots=True)
class _Gathering:
    """A question to all cells."""

    since: float
    event: Arrived | None
    """What a client has asked; ``None``: the desk itself wants a census."""
    census: bool
    skip: int
    asked: dict[str, str] = field(default_factory=dict)
    """Cell by correlation id."""
    answers: dict[str, Snapshot] = field(default_factory=dict)
    again: bool = False
    """Whether the part of the list was asked for that the client wants."""


@dataclass(slots=True)
class _Doubt:
    """Which of two cells have a job."""

    since: float
    asked: dict[str, str] = field(default_factory=dict)
    """Cell by correlation id."""
    has: dict[str, bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Of a job in doubt."""

    job: str
    asked: frozenset[str]
    """Those that were there to answer."""
    cells: frozenset[str]
    """Those of them that have it."""


class Questions:
    """All that the desk has asked of cells."""

    def __init__(self, cells: Cells) -> None:
        self._cells = cells
        self._numbers = itertools.count(1)
        self._gathering: list[_Gathering] = []
        self._doubts: dict[str, _Doubt] = {}

    def gather(self, event: Arrived | None, now: float) -> Iterator[DeskInstruction]:
        """Ask all cells what a client asks, or for a census of all where nobody does."""
        query = event.message if event is not None else None
        skip = query.skip if isinstance(query, Query) else 0
        census = query.census if isinstance(query, Query) else True
        gathering = _Gathering(now, event, census, skip)
        self._gathering.append(gathering)
        for cell in self._cells.alive(now):
            yield self._ask(gathering, cell, 0)

    def answered(self, correlation_id: str, snapshot: Snapshot, now: float) -> Iterator[DeskInstruction]:
        """A cell has answered what was asked of all."""
        for gathering in list(self._gathering):
            cell = gathering.asked.pop(correlation_id, None)
            if cell is not None:
                gathering.answers[cell] = snapshot
                if not gathering.asked:
                    yield from self._gathered(gathering, now)

    def late(self, now: float) -> Iterator[DeskInstruction]:
        """What follows where cells do not answer."""
        for gathering in list(self._gathering):
            if now - gathering.since > ANSWER_LIMIT:
                yield from self._gathered(gathering, now)

    def progress(self, now: float) -> list[CellProgress]:
        """How all cells are."""
        found = []
        for name in self._cells.names():
            cell = self._cells[name]
            jobs = cell.status.jobs if cell.status is not None else 0
            silent = None if self._cells.is_alive(name, now) else cell.silent(now)
            found.append(CellProgress(cell=name, jobs=jobs, silent=silent))
        return found

    # -- Jobs in doubt --------------------------------------------------------------------------------------

    def resolve(
        self, placed: Mapping[str, Placed], found: Container[str], now: float
    ) -> Iterator[DeskInstruction]:
        """Ask where the jobs are whose former cell is back.

        Args:
            placed: jobs in doubt.
            found: jobs that are being moved at this moment.
        """
        for job in self._doubts.keys() - placed.keys():
            del self._doubts[job]
        for job, each in placed.items():
            if each.source is None or job in found or not self._cells.is_alive(each.source, now):
                continue
            doubt = self._doubts.get(job)
            if doubt is not None and now - doubt.since < 2 * ANSWER_LIMIT:
                continue
            doubt = self._doubts[job] = _Doubt(now)
            for cell in (each.source, each.cell):
                if self._cells.is_alive(cell, now):
                    name = self._name()
                    doubt.asked[name] = cell
                    yield AskCell(cell, Handed(message=Query(job=job)), name)

    def whereabouts(self, correlation_id: str, snapshot: Snapshot) -> Whereabouts | None:
        """Where a job is, if this was the last answer about it."""
        for job, doubt in self._doubts.items():
            cell = doubt.asked.pop(correlation_id, None)
            if cell is not None:
                doubt.has[cell] = bool(snapshot.jobs)
                if doubt.asked:
                    return None
                having = frozenset(name for name, has in doubt.has.items() if has)
                return Whereabouts(job, frozenset(doubt.has), having)
        return None

    # -- What was asked of all ------------------------------------------------------------------------------

    def _name(self) -> str:
        return f"desk-{next(self._numbers)}"

    def _ask(self, gathering: _Gathering, cell: str, skip: int) -> AskCell:
        name = self._name()
        gathering.asked[name] = cell
        query = Query(skip=skip, census=gathering.census)
        if gathering.event is not None and gathering.event.tenant is not None:
            asked = Handed(message=query, user=gathering.event.user, tenant=gathering.event.tenant)
        else:
            asked = Handed(message=query)
        return AskCell(cell, asked, name)

    def _gathered(self, gathering: _Gathering, now: float) -> Iterator[DeskInstruction]:
        """All have answered, or those who have not will not."""
        event, answers = gathering.event, dict(sorted(gathering.answers.items()))
        if gathering.skip and not gathering.again and answers:
            gathering.again, gathering.since = True, now
            totals = {cell: merging.total(answer, 0) for cell, answer in answers.items()}
            gathering.asked.clear()
            for cell, skip in merging.skips(totals, gathering.skip).items():
                if skip:
                    yield self._ask(gathering, cell, skip)
            if gathering.asked:
                return
        self._gathering.remove(gathering)
        snapshot = merging.merged(answers, self.progress(now))
        if gathering.census:
            censuses = [each.census for each in answers.values() if each.census is not None]
            if not censuses:
                return
            # What a cell without a coordinator needs, nobody can say.
            all_of_them = set(self._cells.names()) <= set(answers)
            census = merging.merged_census(censuses, all_have_answered=all_of_them)
            snapshot = Snapshot(strategy="", jobs=[], resources=[], census=census)
            if event is None and census.complete:
                yield Count(census)
        if event is not None and event.reply_to is not None:
            yield Answer(event.reply_to, event.correlation_id, snapshot)
