"""Products of matrices, plain, batched or transposed, and what is one: convolutions of 1x1 in any layout, and
with strides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tunemesh.stage_workers.engines.template import loops
from tunemesh.stage_workers.engines.template.contraction import Contraction, Roles, roles_of
from tunemesh.stage_workers.engines.template.machine import Machine
from tunemesh.stage_workers.engines.template.operators import Operator
from tunemesh.stage_workers.engines.template.space import Space
from tunemesh.stage_workers.engines.template.templates import registers


class Product:
    name = "product"

    def objection(self, operator: Operator) -> str:
        if any(each.windows for each in operator.factors):
            return "it is padded"
        roles = roles_of(operator)
        if isinstance(roles, str):
            return roles
        return "" if len(roles.taps) <= 1 else "it sums up along several axes"

    def space(self, operator: Operator, machine: Machine) -> Space:
        return registers.space(operator, _roles(operator), machine)

    def source(self, operator: Operator, values: Sequence[int], symbol: str) -> str:
        return loops.source(Contraction(operator, _roles(operator), registers.shape_of(values)), symbol)

    def packs(self, operator: Operator, values: Sequence[int]) -> list[int]:
        return Contraction(operator, _roles(operator), registers.shape_of(values)).packs


def _roles(operator: Operator) -> Roles:
    """Rows lie at equal distances: where there are several axes of them, the longest is theirs, and there are
    loops around for the others."""
    roles = roles_of(operator)
    assert isinstance(roles, Roles)
    rows = max(roles.rows, key=lambda axis: operator.axes[axis].extent, default=None)
    outer = tuple(sorted({*roles.outer, *roles.rows} - {rows}))
    return replace(
        roles,
        rows=() if rows is None else (rows,),
        outer=outer,
        depth=roles.taps,
        taps=(),
    )
