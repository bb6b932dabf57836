"""Sketches: traces without what postprocessors do, in the words of TVM's JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from tunemesh.stage_workers.engines.metaschedule import schedules
from tunemesh.stage_workers.graph.errors import reraise_memory_error

STEPS = frozenset(
    {
        "Split", "Fuse", "Reorder", "SampleCategorical", "SampleComputeLocation", "CacheRead", "CacheWrite",
        "ComputeAt", "ReverseComputeAt", "RFactor", "Tensorize", "DecomposeReduction",
    }
)  # fmt: skip
"""Instructions that make a sketch what it is. The others find blocks and inline them, which depends on what
is fused behind, or mark one loop each, which depends on how many axes there are."""
TILE = "SamplePerfectTile"
"""One for each axis: tasks with more axes have more of them, the innermost last."""
END = "EnterPostproc"


class Sketch(NamedTuple):
    """A trace without what postprocessors do.

    Attributes:
        instructions: each a list of kind, inputs, attributes and outputs, as TVM writes them.
        decisions: by the number of the instruction.
    """

    instructions: list[Any]
    decisions: dict[int, Any]

    @property
    def tiles(self) -> list[int]:
        """Numbers of the instructions that cut an axis into tiles."""
        return [number for number, each in enumerate(self.instructions) if each[0] == TILE]

    @property
    def steps(self) -> list[int]:
        """Numbers of the other instructions that matter."""
        drawn = {str(name) for number in self.tiles for name in self.instructions[number][3]}
        return [
            number
            for number, each in enumerate(self.instructions)
            if each[0] in STEPS and not drawn.intersection(map(str, each[1]))
        ]


def of_trace(trace: Any) -> Sketch:
    """The sketch of a TVM trace."""
    return of_json(schedules.plain(trace.simplified(True).as_json()))


def of_json(trace: Any) -> Sketch:
    """The sketch of a trace in TVM's JSON."""
    instructions, decisions = trace
    kinds = [each[0] for each in instructions]
    end = kinds.index(END) if END in kinds else len(kinds)
    return Sketch(instructions[:end], {number: each for number, each in decisions if number < end})


def made(
    sketch: Sketch,
    decisions: Mapping[int, Any],
    module: Any,
    postprocs: Iterable[Any],
    seed: int | None = None,
) -> Any:
    """The TVM schedule of a sketch; ``None`` where it cannot be applied, or a postprocessor refuses it.

    Args:
        decisions: by the number of the instruction. What is not among them is drawn.
        module: the task.
        postprocs: of the space.
        seed: of what is drawn.
    """
    from tvm.s_tir import Schedule
    from tvm.s_tir.schedule import Trace

    scheduled = Schedule(module, seed=seed)
    trace = [sketch.instructions, [[number, each] for number, each in sorted(decisions.items())]]
    try:
        Trace.apply_json_to_schedule(trace, scheduled)
        scheduled.enter_postproc()
        if not all(each.apply(scheduled) for each in postprocs):
            return None
    except (RuntimeError, ValueError, TypeError) as error:
        reraise_memory_error(error)
        return None  # a place that this task does not have, for example
    return scheduled
