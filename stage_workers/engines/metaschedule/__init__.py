"""The engine that tunes with TVM's MetaSchedule. TVM is imported when a method needs it, so that naming the
engine costs nothing."""

from __future__ import annotations

import msgspec

from tunemesh.shared.messages import Options
from tunemesh.shared.messages.basics import MOST_REGIONS
from tunemesh.stage_workers import platforms
from tunemesh.stage_workers.engines.metaschedule import options
from tunemesh.stage_workers.engines.protocol import (
    BuildCall,
    BuildOutcome,
    ExportCall,
    Exported,
    LearnCall,
    Learned,
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
    UpdateCall,
)


class MetaScheduleEngine:
    """Implements :class:`~stage_workers.engines.protocol.Engine`; what the methods promise is there."""

    name = options.NAME
    format = options.FORMAT

    def preload(self) -> None:
        from tunemesh.stage_workers.graph import preloading

        preloading.preload()

    def objection(self, task: TaskRef) -> str:
        if platforms.name_of(task.target) != platforms.TVM:
            return f"MetaSchedule does not tune for {task.target}"
        from tunemesh.stage_workers.engines.metaschedule import probing
        from tunemesh.stage_workers.graph import workloads

        return probing.objection(workloads.load(task.workload), task.target)

    def check_options(self, given: Options) -> None:
        options.read(given)

    def update(self, call: UpdateCall) -> Proposal:
        from tunemesh.stage_workers.engines.metaschedule import updating

        return msgspec.structs.replace(updating.update(call), format=self.format)

    def regions(self, task: TaskRef) -> int:
        return MOST_REGIONS

    def placed(self, call: PlacedCall) -> Placed:
        from tunemesh.stage_workers.engines.metaschedule import regions
        from tunemesh.stage_workers.graph import workloads

        module = workloads.load(call.workload)
        return Placed(numbers=regions.placed(module, call.target, call.schedules, call.regions))

    def rank(self, call: RankCall) -> Ranking:
        from tunemesh.stage_workers.engines.metaschedule import ranking

        return ranking.rank(call)

    def learn(self, call: LearnCall) -> Learned:
        from tunemesh.stage_workers.engines.metaschedule import learning

        return learning.learn(call)

    def build(self, call: BuildCall) -> BuildOutcome:
        from tunemesh.stage_workers.engines.metaschedule import building

        return building.build(call)

    def source(self, call: BuildCall) -> Source:
        """The steps of its schedule, and the workload that they make."""
        from tunemesh.stage_workers.engines.metaschedule import building

        return building.source(call)

    def part(self, call: PartCall) -> Part:
        from tunemesh.stage_workers.engines.metaschedule import building

        return building.part(call)

    def export(self, call: ExportCall) -> Exported:
        from tunemesh.stage_workers.engines.metaschedule import database

        return Exported(files=database.files(call.target, call.tasks))

    def read(self, call: ReadCall) -> ReadRecords:
        from tunemesh.stage_workers.engines.metaschedule import foreign

        return msgspec.structs.replace(foreign.read(call.files), format=self.format)
