"""Convolutions of 3x3 with stride 1 and channels last by Winograd's algorithm, where the model bears its
rounding, and it does less than computing them as they are defined."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence

from tunemesh.stage_workers.engines.template.machine import Machine
from tunemesh.stage_workers.engines.template.operators import Operator
from tunemesh.stage_workers.engines.template.space import Knob, Space, tiles_worth
from tunemesh.stage_workers.engines.template.templates.registers import LANES, up_to
from tunemesh.stage_workers.engines.template.winograd import Convolved
from tunemesh.stage_workers.engines.template.winograd_cut import NARROW, Cut
from tunemesh.stage_workers.engines.template.winograd_roles import (
    BY_COLUMNS,
    BY_ROWS,
    FUSED,
    PAIR,
    Roles,
    Shape,
    known,
)
from tunemesh.stage_workers.graph import winograd, winograd_costs

VECTORS = (1, 2, 3, 4)
ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14)
GROUPS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64)
UNROLL = (1, 2, 4)
ORDERS = (BY_COLUMNS, BY_ROWS, FUSED)
PER_CYCLE = 32.0
"""Products that a core computes in a cycle, at most."""
LOADED = 0.5
"""Cycles that a weight takes, which is read once."""
GAIN, NARROW_GAIN = 0.9, 0.7
"""Of the time of a convolution as it is defined, Winograd's algorithm must promise to take less; and where
both multiply in bfloat16: its transforms weigh more then."""
WORTH = 0.6
"""Of what the best cut promises, others must to be a choice."""


class Winograd:
    name = "winograd"

    def objection(self, operator: Operator) -> str:
        if not operator.winograd:
            return "it is no convolution that may be computed by Winograd's algorithm"
        found = known(operator)
        if isinstance(found, str):
            return found
        operator, roles = found
        pixels = [operator.axes[axis].extent for axis in roles.spatial]
        group = operator.dot.group if operator.dot else 1
        usual = winograd.TAPS**2 * (math.prod(pixels) / PER_CYCLE + LOADED) / group

        def time(outputs: int) -> float:
            tiles = Cut(operator, roles, Shape(outputs, 4, 1, 1, 1, 0, 1)).tiles
            return winograd.inputs_of(outputs) ** 2 * (tiles / PER_CYCLE + LOADED)

        pays = min(map(time, _sizes(operator))) < GAIN * usual
        pays |= operator.dot is not None and time(NARROW) / PAIR < NARROW_GAIN * usual
        return "" if pays else "Winograd's algorithm has too few pixels to pay"

    def space(self, operator: Operator, machine: Machine) -> Space:
        operator, roles = _known(operator)

        def kernel(values: Sequence[int]) -> Cut:
            return Cut(operator, roles, Shape(*values))

        @functools.cache
        def promised(values: tuple[int, ...]) -> float:
            """By the time that it should take; 0 where it makes no kernel."""
            made = kernel(values)
            held = made.shape.rows * made.shape.vectors
            if held + made.shape.vectors + (made.shape.vectors > 1) > machine.registers or made.objection():
                return 0.0
            return 1e6 / winograd_costs.cycles(made.work, made.shape.knobs, machine.cores)

        narrow = (0, 1) if operator.dot else (0,)

        def of_tile(tile: tuple[int, ...]) -> float:
            ways = itertools.product(GROUPS, narrow)
            return max(promised((*tile, groups, BY_COLUMNS, 1, which)) for groups, which in ways)

        tile: tuple[Knob, ...] = (
            Knob("outputs", _sizes(operator)),
            Knob("lanes", up_to(LANES, machine.lanes)),
            Knob("vectors", VECTORS),
            Knob("rows", up_to(ROWS, kernel((2, 4, 1, 1, 1, 0, 1)).tiles)),
        )
        tile, worth = tiles_worth(tile, of_tile, WORTH)
        least = WORTH * max(map(of_tile, worth), default=0.0)
        knobs = (
            *tile,
            Knob("groups", GROUPS),
            Knob("order", ORDERS),
            Knob("unroll", UNROLL),
            Knob("narrow", narrow),
        )

        def valid(values: Sequence[int]) -> bool:
            return tuple(values[:4]) in worth and promised(tuple(values)) > least

        return Space(knobs, valid, lambda values: promised(tuple(values)))

    def source(self, operator: Operator, values: Sequence[int], symbol: str) -> str:
        return Convolved(*_known(operator), Shape(*values)).source(symbol)

    def packs(self, operator: Operator, values: Sequence[int]) -> list[int]:
        return [_known(operator)[1].weights.parameter]


def _sizes(operator: Operator) -> tuple[int, ...]:
    """Of tiles that the model bears."""
    return tuple(outputs for outputs in sorted(winograd.POINTS) if outputs <= operator.winograd)


def _known(operator: Operator) -> tuple[Operator, Roles]:
    found = known(operator)
    assert not isinstance(found, str)
    return found
