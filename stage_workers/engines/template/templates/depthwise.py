"""Depthwise convolutions with channels last, of any kernel, stride and padding."""

from __future__ import annotations

from collections.abc import Sequence

from tunemesh.stage_workers.engines.template.channelwise import Channelwise
from tunemesh.stage_workers.engines.template.contraction import Roles, Shape
from tunemesh.stage_workers.engines.template.machine import Machine
from tunemesh.stage_workers.engines.template.operators import Operator
from tunemesh.stage_workers.engines.template.space import Knob, Space
from tunemesh.stage_workers.engines.template.templates.registers import LANES, up_to

ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14)
VECTORS = (1, 2, 3, 4)
BLOCKS = (0, 1, 2, 4, 8)


class Depthwise:
    name = "depthwise"

    def objection(self, operator: Operator) -> str:
        roles = _roles(operator)
        return roles if isinstance(roles, str) else ""

    def space(self, operator: Operator, machine: Machine) -> Space:
        roles = _known(operator)
        knobs = (
            Knob("lanes", up_to(LANES, machine.lanes)),
            Knob("vectors", VECTORS),
            Knob("rows", up_to(ROWS, operator.axes[roles.rows[-1]].extent)),
            Knob("columns_block", BLOCKS),
        )

        def valid(values: Sequence[int]) -> bool:
            shape = _shape(values)
            used = shape.rows * shape.vectors + 2
            return used <= machine.registers and not Channelwise(operator, roles, shape).objection()

        def promise(values: Sequence[int]) -> float:
            """Results for each load. Weights are loaded once where the registers hold them."""
            kernel = Channelwise(operator, roles, _shape(values))
            return kernel.results_per_load(machine.registers)

        return Space(knobs, valid, promise)

    def source(self, operator: Operator, values: Sequence[int], symbol: str) -> str:
        return Channelwise(operator, _known(operator), _shape(values)).source(symbol)

    def packs(self, operator: Operator, values: Sequence[int]) -> list[int]:
        return []


def _shape(values: Sequence[int]) -> Shape:
    lanes, vectors, rows, block = values
    return Shape(lanes=lanes, vectors=vectors, rows=rows, columns_block=block)


def _known(operator: Operator) -> Roles:
    roles = _roles(operator)
    assert isinstance(roles, Roles)
    return roles


def _roles(operator: Operator) -> Roles | str:
    """Lanes are channels, which both factors have; rows are the pixels, and taps the kernel."""
    lanes = [axis for axis, stride in enumerate(operator.output.strides) if stride == 1]
    if len(lanes) != 1:
        return "its results do not lie side by side"
    (lane,) = lanes
    factors = (operator.left, operator.right)
    if any(each.form.strides[lane] != 1 for each in factors):
        return "channels do not lie side by side"
    spatial = [axis for axis, each in enumerate(operator.axes) if not each.reduced and axis != lane]
    image = max(factors, key=lambda each: sum(each.form.uses(axis) for axis in spatial))
    kernel = operator.right if image is operator.left else operator.left
    rows = tuple(axis for axis in spatial if image.form.uses(axis) and not kernel.form.uses(axis))
    if not rows or kernel.windows or any(window.form.uses(lane) for window in image.windows):
        return "it is no depthwise convolution"
    loads = [step.form for step in operator.epilogue if step.kind == "load"]
    if any(form.strides[lane] not in (0, 1) for form in loads):
        return "what follows reads a tensor in another order"
    return Roles(
        lane=lane,
        rows=rows,
        outer=tuple(axis for axis in spatial if axis not in rows),
        depth=None,
        taps=tuple(axis for axis, each in enumerate(operator.axes) if each.reduced),
        still=image,
        moving=kernel,
    )
