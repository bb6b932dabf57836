"""Depthwise convolutions and pooling with channels last, of any kernel, stride and padding."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from tunemesh.stage_workers.engines.template.channelwise import Channels, Channelwise, Tiling
from tunemesh.stage_workers.engines.template.machine import Machine
from tunemesh.stage_workers.engines.template.operators import Operator
from tunemesh.stage_workers.engines.template.space import Knob, Space, tiles_worth
from tunemesh.stage_workers.engines.template.templates.registers import LANES, up_to

ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14)
VECTORS = (1, 2, 3, 4)
LINES = (1, 2, 3, 4)
BLOCKS = (0, 1, 2, 4, 8)
WORTH = 0.4
"""Of what the best tile promises, others must to be a choice."""


class Channel:
    """What both templates have."""

    def space(self, operator: Operator, machine: Machine) -> Space:
        """What may be chosen."""
        roles = _known(operator)
        rows = operator.axes[roles.rows[-1]].extent if roles.rows else 1
        lines = operator.axes[roles.rows[-2]].extent if len(roles.rows) > 1 else 1
        columns = operator.axes[roles.lane].extent

        def promised(tile: Sequence[int]) -> float:
            """Results for each load. Weights are loaded once where the registers hold them."""
            lanes, vectors, pixels, across = tile
            tiling = Tiling(lanes, vectors, pixels, across, 0)
            if tiling.rows * tiling.lines * tiling.vectors + 2 > machine.registers:
                return 0.0
            kernel = Channelwise(operator, roles, tiling)
            return 0.0 if kernel.objection() else kernel.results_per_load(machine.registers)

        tile: tuple[Knob, ...] = (
            Knob("lanes", up_to(LANES, machine.lanes)),
            Knob("vectors", VECTORS),
            Knob("rows", up_to(ROWS, rows)),
            Knob("lines", up_to(LINES, lines)),
        )
        known = functools.cache(promised)
        tile, worth = tiles_worth(tile, known, WORTH)
        knobs = (*tile, Knob("columns_block", BLOCKS))

        def valid(values: Sequence[int]) -> bool:
            # What a block adds to the objections to a tile: that it is all there is.
            lanes, vectors, *_, block = values
            tile = tuple(values[:4])
            return tile in worth and known(tile) > 0 and block * lanes * vectors < columns

        def promise(values: Sequence[int]) -> float:
            return known(tuple(values[:4]))

        return Space(knobs, valid, promise)

    def source(self, operator: Operator, values: Sequence[int], symbol: str) -> str:
        """The program."""
        return Channelwise(operator, _known(operator), Tiling(*values)).source(symbol)

    def packs(self, operator: Operator, values: Sequence[int]) -> list[int]:
        """None."""
        return []


class Depthwise(Channel):
    name = "depthwise"

    def objection(self, operator: Operator) -> str:
        if operator.right is None:
            return "it multiplies nothing"
        roles = _roles(operator)
        return roles if isinstance(roles, str) else ""


class Pooling(Channel):
    name = "pooling"

    def objection(self, operator: Operator) -> str:
        if operator.right is not None:
            return "it multiplies"
        roles = _roles(operator)
        return roles if isinstance(roles, str) else ""


def _known(operator: Operator) -> Channels:
    roles = _roles(operator)
    assert isinstance(roles, Channels)
    return roles


def _roles(operator: Operator) -> Channels | str:
    """Lanes are channels, which both factors have; rows are the pixels, and taps the kernel."""
    lanes = [axis for axis, stride in enumerate(operator.output.strides) if stride == 1]
    if operator.dot is not None:
        return "it multiplies small numbers"
    if len(lanes) != 1:
        return "its results do not lie side by side"
    (lane,) = lanes
    factors = [each for each in (operator.left, operator.right) if each is not None]
    if any(each.form.strides[lane] != 1 for each in factors):
        return "channels do not lie side by side"
    spatial = [axis for axis, each in enumerate(operator.axes) if not each.reduced and axis != lane]
    image = max(factors, key=lambda each: sum(each.form.uses(axis) for axis in spatial))
    kernel = next((each for each in factors if each is not image), None)
    rows = tuple(
        axis for axis in spatial if image.form.uses(axis) and not (kernel and kernel.form.uses(axis))
    )
    padded = any(window.form.uses(lane) for window in image.windows)
    if padded or (kernel and (kernel.windows or not rows)):
        return "it is no depthwise convolution"
    loads = [step.form for step in operator.epilogue if step.kind == "load"]
    if any(form.strides[lane] not in (0, 1) for form in loads):
        return "what follows reads a tensor in another order"
    return Channels(
        lane=lane,
        rows=rows,
        outer=tuple(axis for axis in spatial if axis not in rows),
        taps=tuple(axis for axis, each in enumerate(operator.axes) if each.reduced),
        image=image,
        kernel=kernel,
    )
