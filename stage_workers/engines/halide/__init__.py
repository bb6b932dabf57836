"""The engine that schedules pipelines of Halide: tasks of sums, as the template engine has them, in another
language, whose compiler makes the loops. TVM and Halide are imported when a method needs them, so that naming
the engine costs nothing."""

from __future__ import annotations

from tunemesh.shared.errors import BadInput
from tunemesh.shared.messages import Options
from tunemesh.stage_workers import platforms
from tunemesh.stage_workers.engines.halide import options
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


class HalideEngine:
    """Implements :class:`~stage_workers.engines.protocol.Engine`; what the methods promise is there."""

    name = options.NAME
    format = 1
    """Values of knobs, or an autoscheduler."""

    def preload(self) -> None:
        from tunemesh.stage_workers.engines.halide import tuning  # noqa: F401
        from tunemesh.stage_workers.graph import preloading

        preloading.preload()

    def objection(self, task: TaskRef) -> str:
        if platforms.name_of(task.target) != platforms.TVM:
            return f"the engine halide does not tune for {task.target}"
        from tunemesh.stage_workers.engines.halide import tuning

        return tuning.objection(task)

    def check_options(self, given: Options) -> None:
        options.read(given)

    def update(self, call: UpdateCall) -> Proposal:
        from tunemesh.stage_workers.engines.halide import tuning

        return tuning.update(call, self.format)

    def regions(self, task: TaskRef) -> int:
        from tunemesh.stage_workers.engines.halide import tuning

        return tuning.regions(task)

    def placed(self, call: PlacedCall) -> Placed:
        from tunemesh.stage_workers.engines.halide import tuning

        return tuning.placed(call)

    def rank(self, call: RankCall) -> Ranking:
        """It knows nothing of tasks that it has not measured."""
        return Ranking(scores=[None] * len(call.schedules))

    def learn(self, call: LearnCall) -> Learned:
        raise BadInput("the engine halide learns nothing from the records")

    def build(self, call: BuildCall) -> BuildOutcome:
        from tunemesh.stage_workers.engines.halide import tuning

        return tuning.build(call)

    def source(self, call: BuildCall) -> Source:
        """Its loops."""
        from tunemesh.stage_workers.engines.halide import tuning

        return Source(text=tuning.source(call), language="Halide")

    def part(self, call: PartCall) -> Part:
        from tunemesh.stage_workers.engines.halide import tuning

        return tuning.part(call)

    def export(self, call: ExportCall) -> Exported:
        """Nothing: ``tunemesh records show --source`` prints the loops of a kernel."""
        return Exported()

    def read(self, call: ReadCall) -> ReadRecords:
        raise BadInput("the engine halide reads no records of others")
