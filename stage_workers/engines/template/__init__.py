"""The engine that fills in templates: kernels in C whose tiles, blocks and orders are knobs, compiled by gcc
or clang. TVM is imported when a method needs it, so that naming the engine costs nothing."""

from __future__ import annotations

from tunemesh.shared.errors import BadInput
from tunemesh.shared.messages import Options
from tunemesh.stage_workers import platforms
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
from tunemesh.stage_workers.engines.template import options


class TemplateEngine:
    """Implements :class:`~stage_workers.engines.protocol.Engine`; what the methods promise is there."""

    name = options.NAME
    format = 4
    """Templates and values of their knobs."""

    def preload(self) -> None:
        from tunemesh.stage_workers.engines.template import tuning  # noqa: F401
        from tunemesh.stage_workers.graph import preloading

        preloading.preload()

    def objection(self, task: TaskRef) -> str:
        if platforms.name_of(task.target) != platforms.TVM:
            return f"the template engine does not tune for {task.target}"
        from tunemesh.stage_workers.engines.template import tuning

        return tuning.objection(task)

    def check_options(self, given: Options) -> None:
        options.read(given)

    def update(self, call: UpdateCall) -> Proposal:
        from tunemesh.stage_workers.engines.template import tuning

        return tuning.update(call, self.format)

    def regions(self, task: TaskRef) -> int:
        from tunemesh.stage_workers.engines.template import tuning

        return tuning.regions(task)

    def placed(self, call: PlacedCall) -> Placed:
        from tunemesh.stage_workers.engines.template import tuning

        return tuning.placed(call)

    def rank(self, call: RankCall) -> Ranking:
        """It knows nothing of tasks that it has not measured."""
        return Ranking(scores=[None] * len(call.schedules))

    def learn(self, call: LearnCall) -> Learned:
        raise BadInput("the template engine learns nothing from the records")

    def build(self, call: BuildCall) -> BuildOutcome:
        from tunemesh.stage_workers.engines.template import tuning

        return tuning.build(call)

    def source(self, call: BuildCall) -> Source:
        """Its program."""
        from tunemesh.stage_workers.engines.template import tuning
        from tunemesh.stage_workers.graph import targets

        language = "CUDA C++" if targets.is_gpu(call.target) else "C"
        return Source(text=tuning.source(call.workload, call.target, call.schedule), language=language)

    def part(self, call: PartCall) -> Part:
        from tunemesh.stage_workers.engines.template import tuning

        return tuning.part(call)

    def export(self, call: ExportCall) -> Exported:
        """The program of the best kernel of each task."""
        from tunemesh.stage_workers.engines.template import exporting

        return Exported(files=exporting.files(call))

    def read(self, call: ReadCall) -> ReadRecords:
        raise BadInput("the template engine reads no records of others")
