"""Softmax, layer normalisation and what else takes sums or maxima of rows and goes
through these once more."""

from __future__ import annotations

from collections.abc import Sequence

from tunemesh.stage_workers.engines.template.machine import Machine
from tunemesh.stage_workers.engines.template.rows import Rows
from tunemesh.stage_workers.engines.template.rowwise import Cut, Rowwise
from tunemesh.stage_workers.engines.template.space import Knob, Space
from tunemesh.stage_workers.engines.template.templates.registers import LANES, up_to

VECTORS = (1, 2, 3, 4)
ROWS = (1, 2, 3, 4, 6, 8)


class RowByRow:
    name = "rowwise"

    def objection(self, operator: Rows) -> str:
        return ""

    def space(self, operator: Rows, machine: Machine) -> Space:
        rows = operator.axes[-2].extent if len(operator.axes) > 1 else 1
        knobs = (
            Knob("lanes", up_to(LANES, machine.lanes)),
            Knob("vectors", VECTORS),
            Knob("rows", up_to(ROWS, rows)),
        )

        def valid(values: Sequence[int]) -> bool:
            cut = Cut(*values)
            return cut.rows * cut.vectors <= machine.registers // 2 and not Rowwise(operator, cut).objection()

        def promise(values: Sequence[int]) -> float:
            """Wide vectors; and as many sums side by side as hide how long one takes, but no more."""
            cut = Cut(*values)
            return cut.lanes / (1.0 + abs(cut.rows * cut.vectors - 4))

        return Space(knobs, valid, promise)

    def source(self, operator: Rows, values: Sequence[int], symbol: str) -> str:
        return Rowwise(operator, Cut(*values)).source(symbol)

    def packs(self, operator: Rows, values: Sequence[int]) -> list[int]:
        return []
