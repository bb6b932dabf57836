"""Which cell gets a job: one that serves its target and its engines, and has the least predicted work."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from tunemesh.coordinator.cells.messages import CellStatus, Served
from tunemesh.coordinator.jobs.allocation import PATIENCE, automatic
from tunemesh.shared.messages import Request
from tunemesh.shared.messages.levels import CANDIDATES

SILENT = 10.0
"""Seconds without a word after which a cell gets no new jobs: five times the usual interval."""

TOLD_AFTER = 2
"""Statuses of a cell after which what was given to it before is in what it says of itself."""

MOST_CELLS = 1_000
"""That are kept in mind."""


@dataclass(slots=True)
class _Given:
    """A job that a cell has got and has not told of yet."""

    job: str
    target: str
    trials: int
    statuses: int = 0
    """That have come since."""


@dataclass(slots=True)
class Cell:
    """What is known of one."""

    name: str
    since: float
    """When it was first heard of, be it from others. ``now`` of the desk, here and below."""
    seen: float | None = None
    """When it last said something."""
    status: CellStatus | None = None
    given: list[_Given] = field(default_factory=list)

    def silent(self, now: float) -> float:
        """Seconds since it last said something; since one knows of it where it has not."""
        return now - (self.since if self.seen is None else self.seen)

    def serves(self, target: str) -> Served | None:
        """What it has for jobs of a target, whichever of its names is used."""
        served = self.status.served if self.status is not None else []
        return next((each for each in served if target in each.targets), None)


class Cells:
    """All cells that are known."""

    def __init__(self) -> None:
        self._cells: dict[str, Cell] = {}

    def __getitem__(self, name: str) -> Cell:
        return self._cells[name]

    def heard(self, status: CellStatus, now: float) -> None:
        """A cell said how it is."""
        cell = self.known(status.cell, now)
        cell.seen, cell.status = now, status
        for each in cell.given:
            each.statuses += 1
        cell.given = [each for each in cell.given if each.statuses < TOLD_AFTER]

    def known(self, name: str, now: float) -> Cell:
        """A cell, from now on if it was not known. Of too many the one goes that was silent for longest."""
        if name not in self._cells:
            if len(self._cells) >= MOST_CELLS:
                del self._cells[max(self._cells, key=lambda each: self._cells[each].silent(now))]
            self._cells[name] = Cell(name, now)
        return self._cells[name]

    def names(self) -> list[str]:
        """Of all."""
        return sorted(self._cells)

    def alive(self, now: float) -> list[str]:
        """Those that have said something lately."""
        return [name for name in self.names() if self.is_alive(name, now)]

    def is_alive(self, name: str, now: float) -> bool:
        """Whether a cell has said something lately."""
        cell = self._cells.get(name)
        return cell is not None and cell.seen is not None and cell.silent(now) <= SILENT

    def dead(self, now: float, limit: float) -> list[str]:
        """Those that have said nothing for ``limit`` seconds."""
        return [name for name in self.names() if self._cells[name].silent(now) > limit]

    def choose(
        self,
        request: Request,
        now: float,
        *,
        near: Collection[str] = (),
        only_served: bool = False,
    ) -> str | None:
        """The cell for a job; ``None`` where there is none.

        A cell that does not serve the target gets the job where none does: its coordinator says so, and waits
        for a device as on a mesh without cells. Of several that are equal the first by name gets it.

        Args:
            near: cells that have jobs whose measurements are to serve this one; only they can take these.
            only_served: not to cells that do not serve it: it is a job that is somewhere already.
        """
        alive = [self._cells[name] for name in self.alive(now)]
        near_ones = [cell for cell in alive if cell.name in near]
        serving = [(cell, served) for cell in alive if (served := cell.serves(request.target)) is not None]
        fit = [each for each in serving if set(request.engines) <= set(each[1].engines)]
        candidates = fit or serving
        if kept := [each for each in candidates if each[0] in near_ones]:
            candidates = kept
        if candidates:
            work = {cell.name: _seconds(cell, served) for cell, served in candidates}
            return min(work, key=lambda name: (work[name], name))
        if only_served or not alive:
            return None
        fewest = min(near_ones or alive, key=lambda cell: (_jobs(cell), cell.name))
        return fewest.name

    def give(self, name: str, request: Request, now: float) -> None:
        """Note that a cell gets a job, until it tells of it."""
        cell = self.known(name, now)
        if all(each.job != request.job for each in cell.given):
            cell.given.append(_Given(request.job, request.target, trials_of(request)))


def trials_of(request: Request) -> int:
    """How many a job is thought to make, before its model was looked at."""
    level = request.level
    return level.trials or CANDIDATES.get(level.effort, 0) or automatic(1, PATIENCE)


def _seconds(cell: Cell, served: Served) -> float:
    """Of work that it has for the devices of a target, with what was given to it lately."""
    return served.seconds + sum(
        each.trials * served.pace for each in cell.given if each.target in served.targets
    )


def _jobs(cell: Cell) -> int:
    return (cell.status.jobs if cell.status is not None else 0) + len(cell.given)
