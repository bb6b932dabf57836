"""A mesh with cells in virtual time: the real desk, and the real core in each cell."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import perf_counter

import msgspec
import simpy

from tunemesh.coordinator.cells.desk import SETTLE, Desk
from tunemesh.coordinator.cells.events import CellSeen, DeskEvent, Hand, Place, PlaceSaved
from tunemesh.coordinator.cells.load import loads
from tunemesh.coordinator.cells.messages import CellStatus
from tunemesh.coordinator.events import TICK, Arrived, CaughtUp, Connected, Tick
from tunemesh.coordinator.simulation.scenario import Scenario
from tunemesh.coordinator.simulation.world import EPOCH, STATUS, World
from tunemesh.shared.errors import TunemeshError
from tunemesh.shared.messages import Request

MIDDLE = (0.2, 0.8)
"""The part of the time, from the first arrival to the last end, in which devices are looked at: before it
they wait for the first models, after it for the last jobs."""


@dataclass(frozen=True)
class CellsOutcome:
    """What came of it."""

    cells: int
    devices: int
    """Of all cells."""
    makespan: float
    """Virtual seconds from the first arrival to the last end."""
    busy: float
    """Share of the middle of it in which devices measured, over all of them."""
    least: float
    """The same of the cell with the least."""
    whole: float
    """Share of the whole of it, over all of them."""
    jobs: dict[str, int]
    """By cell."""
    ends: dict[str, float]
    """When the last job of each cell had ended, as shares of the makespan."""
    steps: int
    core_us: float
    """Wall time of a core for each step, in microseconds."""
    desk_us: float
    """Wall time of the desk for each job."""


class ManyCells:
    """Cells that are equal, and one list of jobs.

    Args:
        scenario: of one cell; its jobs are those of all of them.
    """

    def __init__(self, scenario: Scenario, cells: int) -> None:
        self.env = simpy.Environment()
        names = [f"c{number}" for number in range(cells)]
        self.worlds = {name: World(scenario, env=self.env) for name in names}
        self._scenario = scenario
        self._desk = Desk()
        self._ids = itertools.count(1)
        self._numbers: dict[str, int] = {}
        self._desk_seconds = 0.0

    def run(self) -> CellsOutcome:
        """Until all jobs have ended.

        Raises:
            TunemeshError: a job failed, or they take longer than the scenario's limit.
        """
        scenario = self._scenario
        self._give(Connected(wall=EPOCH))
        self._give(CaughtUp())
        for world in self.worlds.values():
            world.begin()
        self._every(STATUS, self._report)
        self._every(TICK, lambda: self._give(Tick()))
        for number in range(scenario.jobs):
            self._at(2 * SETTLE + number * scenario.every, partial(self._arrive, number))
        while sum(len(world.ends) for world in self.worlds.values()) < scenario.jobs:
            if self.env.peek() > scenario.limit:
                raise TunemeshError(f"jobs have not ended after {scenario.limit:g} virtual seconds")
            self.env.step()
        return self._outcome()

    def _at(self, delay: float, action: Callable[[], None]) -> None:
        event = self.env.timeout(delay)
        event.callbacks.append(lambda _: action())

    def _every(self, seconds: float, action: Callable[[], None]) -> None:
        def again() -> None:
            action()
            self._at(seconds, again)

        self._at(seconds, again)

    def _arrive(self, number: int) -> None:
        request = next(iter(self.worlds.values())).request(number)
        self._numbers[request.job] = number
        self._give(Arrived(next(self._ids), request))

    def _report(self) -> None:
        for name, world in self.worlds.items():
            if world.core is not None and world.core.settled:
                jobs = sum(not job.ended for job in world.core.jobs.values())
                self._give(CellSeen(CellStatus(cell=name, jobs=jobs, served=loads(world.core.state))))

    def _give(self, event: DeskEvent) -> None:
        began = perf_counter()
        instructions = self._desk.handle(event, EPOCH + self.env.now)
        self._desk_seconds += perf_counter() - began
        for instruction in instructions:
            match instruction:
                case Place(placed):
                    saved = PlaceSaved(next(self._ids), placed)
                    self._at(self._scenario.hop, partial(self._give, saved))
                case Hand(cell, handed):
                    request = handed.message
                    assert isinstance(request, Request)
                    self.worlds[cell].accept(self._numbers[request.job], request)

    def _outcome(self) -> CellsOutcome:
        worlds = self.worlds
        first = min(at for world in worlds.values() for at in world.arrivals.values())
        last = {name: max(world.ends.values(), default=first) for name, world in worlds.items()}
        makespan = max(last.values()) - first
        window = [first + share * makespan for share in MIDDLE]
        shares = {name: _busy(world, *window) for name, world in worlds.items()}
        whole = [_busy(world, first, first + makespan) for world in worlds.values()]
        steps = sum(world.dispatches for world in worlds.values())
        return CellsOutcome(
            cells=len(worlds),
            devices=len(worlds) * self._scenario.devices,
            makespan=makespan,
            busy=sum(shares.values()) / len(shares),
            least=min(shares.values()),
            whole=sum(whole) / len(whole),
            jobs={name: len(world.ends) for name, world in worlds.items()},
            ends={name: (end - first) / makespan for name, end in last.items()},
            steps=steps,
            core_us=1e6 * sum(world.core_seconds for world in worlds.values()) / max(steps, 1),
            desk_us=1e6 * self._desk_seconds / max(self._scenario.jobs, 1),
        )


def _busy(world: World, since: float, until: float) -> float:
    """Share of this time in which its devices were at work."""
    seconds = sum(
        max(min(each.finished, until) - max(each.started, since), 0.0)
        for each in world.executed
        if each.resource.startswith("profile-")
    )
    return seconds / (world.scenario.devices * (until - since))


def simulate_cells(scenario: Scenario, cells: int, **changes: object) -> CellsOutcome:
    """Run ``scenario`` in so many cells, with some of its fields changed.

    Raises:
        TunemeshError: see :meth:`ManyCells.run`.
    """
    return ManyCells(msgspec.structs.replace(scenario, **changes), cells).run()
