"""Convolutions of any kernel, stride and padding.

With channels last, a tile is some pixels of a line of the image, and the sum goes along the line, too, as far
as channels and the pixels of a kernel lie side by side. With channels first, vectors are pixels of a line:
what a tile reads of them is copied before, with the zeros around it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tunemesh.stage_workers.engines.template import loops
from tunemesh.stage_workers.engines.template.contraction import (
    Contraction,
    Roles,
    is_chain,
    padding_objection,
    roles_of,
    segment_of,
)
from tunemesh.stage_workers.engines.template.machine import Machine
from tunemesh.stage_workers.engines.template.operators import Operator
from tunemesh.stage_workers.engines.template.space import Space
from tunemesh.stage_workers.engines.template.templates import registers


class Convolution:
    name = "convolution"

    def objection(self, operator: Operator) -> str:
        roles = _roles(operator)
        return roles if isinstance(roles, str) else padding_objection(roles)

    def space(self, operator: Operator, machine: Machine) -> Space:
        return registers.space(operator, _known(operator), machine)

    def source(self, operator: Operator, values: Sequence[int], symbol: str) -> str:
        return loops.source(Contraction(operator, _known(operator), registers.shape_of(values)), symbol)

    def packs(self, operator: Operator, values: Sequence[int]) -> list[int]:
        return Contraction(operator, _known(operator), registers.shape_of(values)).packs


def _known(operator: Operator) -> Roles:
    roles = _roles(operator)
    assert isinstance(roles, Roles)
    return roles


def _roles(operator: Operator) -> Roles | str:
    """The depth begins with the longest axis of the sum that no padded dimension depends on, the channels, if
    it can. What lies around it without a gap is part of it."""
    roles = roles_of(operator)
    if isinstance(roles, str):
        return roles
    moving = [window.form for window in roles.moving.windows]
    windows = [window.form for window in roles.still.windows] + moving
    inner = [axis for axis in roles.taps if not any(form.uses(axis) for form in moving)]
    # Channels first: pixels may have to do where these lie too far apart.
    inner.sort(key=lambda axis: (any(form.uses(axis) for form in windows), -operator.axes[axis].extent))
    ways = [_deeper(roles, axis) for axis in inner]
    if not ways:
        return roles
    roles = next((way for way in ways if not padding_objection(way)), ways[0])
    while True:
        longer = [_deeper(roles, axis) for axis in roles.taps if _extends(operator, _deeper(roles, axis))]
        if not longer:
            return roles
        roles = longer[0]


def _deeper(roles: Roles, axis: int) -> Roles:
    taps = tuple(each for each in roles.taps if each != axis)
    return replace(roles, depth=(axis, *roles.depth), taps=taps)


def _extends(operator: Operator, roles: Roles) -> bool:
    """Whether the depth is one way through what both factors have; a weight that moves can be put so."""
    if any(window.form.uses(roles.depth[0]) for window in roles.moving.windows):
        return False
    if not is_chain(operator, roles.depth, roles.still.form):
        return False
    if not roles.moving.weight and not is_chain(operator, roles.depth, roles.moving.form):
        return False
    window = segment_of(roles)
    return not padding_objection(roles) and (window is None or is_chain(operator, roles.depth, window.place))
