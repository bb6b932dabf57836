"""Convolutions of any kernel, stride and padding.

With channels last, pixels are numbered through, so that a tile may go on in the next row of an image: for
each pixel and each element of the kernel it is looked up where the channels begin, which are zeros outside of
the image. With channels first, vectors are pixels of a row of an image: what a tile reads of them is copied
before, with the zeros around it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tunemesh.stage_workers.engines.template.contraction import ZEROS, Contraction, Roles, roles_of
from tunemesh.stage_workers.engines.template.machine import Machine
from tunemesh.stage_workers.engines.template.operators import Operator
from tunemesh.stage_workers.engines.template.space import Space
from tunemesh.stage_workers.engines.template.templates import registers


class Convolution:
    name = "convolution"

    def objection(self, operator: Operator) -> str:
        roles = _roles(operator)
        if isinstance(roles, str):
            return roles
        length = 0 if roles.depth is None else operator.axes[roles.depth].extent - 1
        apart = 0 if roles.depth is None else roles.still.form.strides[roles.depth]
        return "" if length * apart < ZEROS or not roles.still.windows else "its channels lie too far apart"

    def space(self, operator: Operator, machine: Machine) -> Space:
        return registers.space(operator, _known(operator), machine)

    def source(self, operator: Operator, values: Sequence[int], symbol: str) -> str:
        return Contraction(operator, _known(operator), registers.shape_of(values)).source(symbol)

    def packs(self, operator: Operator, values: Sequence[int]) -> list[int]:
        return Contraction(operator, _known(operator), registers.shape_of(values)).packs


def _known(operator: Operator) -> Roles:
    roles = _roles(operator)
    assert isinstance(roles, Roles)
    return roles


def _roles(operator: Operator) -> Roles | str:
    """The depth is the longest axis of the sum that no padded dimension depends on: the channels."""
    roles = roles_of(operator)
    if isinstance(roles, str):
        return roles
    windows = roles.still.windows + roles.moving.windows
    free = [axis for axis in roles.taps if not any(window.form.uses(axis) for window in windows)]
    depth = max(free, key=lambda axis: operator.axes[axis].extent, default=None)
    return replace(roles, depth=depth, taps=tuple(axis for axis in roles.taps if axis != depth))
