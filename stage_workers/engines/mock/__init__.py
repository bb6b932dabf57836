"""An engine that sleeps instead of working: for tests, for studying the scheduler, for trying the mesh out.

Its models are described in :mod:`.landscape`. Candidates are proposed in an order that depends on the step's
seed, each once, until the space is exhausted.
"""

from __future__ import annotations

import hashlib
import math

import msgspec
from msgspec import Struct

from tunemesh.shared.errors import BadInput
from tunemesh.shared.messages import Options
from tunemesh.shared.messages.basics import MOST_REGIONS
from tunemesh.stage_workers import options as given
from tunemesh.stage_workers import platforms
from tunemesh.stage_workers.engines.mock import landscape
from tunemesh.stage_workers.engines.mock.landscape import BUILD_TROUBLES, Schedule, Workload
from tunemesh.stage_workers.engines.protocol import (
    BuildCall,
    BuildOutcome,
    ExportCall,
    Exported,
    LearnCall,
    Learned,
    ObjectPart,
    Part,
    PartCall,
    Placed,
    PlacedCall,
    Proposal,
    RankCall,
    Ranking,
    ReadCall,
    ReadRecords,
    Source,
    TaskRef,
    TaskTrials,
    UpdateCall,
)

NAME = "mock"
DIGEST = 8
"""Bytes of a candidate's hash that the search state remembers it by."""


class NoOptions(Struct, frozen=True):
    """There is nothing to choose."""


class Search(Struct, frozen=True):
    """Where the search of a task stands.

    Attributes:
        proposed: candidates so far.
        measured: the first :data:`DIGEST` bytes of the hash of each tried candidate.
    """

    proposed: int
    measured: bytes


class MockEngine:
    """See the module's text. Implements :class:`stage_workers.engines.protocol.Engine`."""

    name = NAME
    format = 1

    def preload(self) -> None:
        """Nothing is slow to import."""

    def objection(self, task: TaskRef) -> str:
        """To the tasks of real targets."""
        mocked = platforms.name_of(task.target) == platforms.MOCK
        return "" if mocked else f"{NAME} does not tune for real targets"

    def check_options(self, options: Options) -> None:
        """There are none."""
        given.read(NAME, options, NoOptions)

    def update(self, call: UpdateCall) -> Proposal:
        """The next candidates of an order that visits each point of the space once."""
        work = msgspec.msgpack.decode(call.workload, type=Workload)
        landscape.suffer(work.update)
        state = Search(0, b"") if call.search is None else msgspec.msgpack.decode(call.search, type=Search)
        landscape.spend(work.task.durations, "model-update", state.proposed)
        tried = [*(trial.candidate.hash for trial in call.trials), *call.seen]
        measured = state.measured + b"".join(map(_digest, tried))
        known = {measured[i : i + DIGEST] for i in range(0, len(measured), DIGEST)}
        schedules: list[tuple[str, bytes]] = []
        proposed = state.proposed
        while len(schedules) < call.want and proposed < work.task.space:
            schedule = Schedule(proposed, _permuted(proposed, work.task.space, call.seed))
            name = _hash(work, schedule.point)
            outside = call.region is not None and (
                _region(schedule.point, work.task.space, call.region.of) != call.region.number
            )
            if not outside and _digest(name) not in known:
                schedules.append((name, msgspec.msgpack.encode(schedule)))
            proposed += 1
        return Proposal(
            search=msgspec.msgpack.encode(Search(proposed, measured)),
            schedules=schedules,
            format=self.format,
        )

    def regions(self, task: TaskRef) -> int:
        """As many as there may be: points are cut into ranges."""
        return MOST_REGIONS

    def placed(self, call: PlacedCall) -> Placed:
        """By their points."""
        found = [landscape.read_candidate(call.workload, each) for each in call.schedules]
        return Placed(
            numbers=[_region(chosen.point, work.task.space, call.regions) for work, chosen in found]
        )

    def rank(self, call: RankCall) -> Ranking:
        """It knows nothing of tasks that it has not measured."""
        return Ranking(scores=[None] * len(call.schedules))

    def learn(self, call: LearnCall) -> Learned:
        """Nor would that help it."""
        raise BadInput(f"{NAME} learns nothing from the records")

    def build(self, call: BuildCall) -> BuildOutcome:
        """Sleeps; the artifact is the schedule itself."""
        work, chosen = landscape.read_candidate(call.workload, call.schedule)
        landscape.spend(work.task.durations, "build", chosen.point)
        landscape.suffer(landscape.trouble_of(work, chosen, BUILD_TROUBLES))
        if landscape.fails(work, chosen, "build-error"):
            error = f"mock compiler: no code for candidate {chosen.index}"
            return BuildOutcome(outcome="build-failed", error=error)
        return BuildOutcome(artifact=call.schedule)

    def source(self, call: BuildCall) -> Source:
        """Which candidate it is."""
        _, chosen = landscape.read_candidate(call.workload, call.schedule)
        return Source(text=f"candidate {chosen.index}, point {chosen.point}", language="mock")

    def part(self, call: PartCall) -> Part:
        """The schedule itself."""
        return ObjectPart(code=call.schedule)

    def export(self, call: ExportCall) -> Exported:
        """One file: what became of each task."""
        records = list(map(_record, call.tasks))
        return Exported(files={"records.json": msgspec.json.format(msgspec.json.encode(records))})

    def read(self, call: ReadCall) -> ReadRecords:
        """Nobody else tunes for it."""
        raise BadInput(f"{NAME} reads no records of others: {', '.join(sorted(call.files))}")


def _record(each: TaskTrials) -> dict[str, object]:
    task = msgspec.msgpack.decode(each.workload, type=Workload).task
    best = min([task.untuned, *(trial.latency for trial in each.trials)])
    return {"task": task.name, "untuned": task.untuned, "best": best, "trials": len(each.trials)}


def _hash(work: Workload, point: int) -> str:
    return hashlib.sha256(f"{work.seed}/{work.task.name}/{point}".encode()).hexdigest()


def _region(point: int, space: int, count: int) -> int:
    """The number of the region, of so many, that has a point."""
    return point * count // space


def _digest(name: str) -> bytes:
    return bytes.fromhex(name[: 2 * DIGEST])


def _permuted(index: int, space: int, seed: int) -> int:
    """The ``index``-th point in an order of the space: an affine map whose factor is coprime to ``space``."""
    factor = landscape.number("factor", seed, space) % space
    while math.gcd(factor, space) != 1:
        factor += 1
    return (factor * index + landscape.number("offset", seed, space)) % space
