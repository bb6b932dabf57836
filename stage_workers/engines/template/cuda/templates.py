"""All templates for GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from tunemesh.stage_workers.engines.template.cuda.gpu import Gpu
from tunemesh.stage_workers.engines.template.cuda.points import Depthwise
from tunemesh.stage_workers.engines.template.cuda.rowwise import RowByRow
from tunemesh.stage_workers.engines.template.cuda.text import Program
from tunemesh.stage_workers.engines.template.cuda.tiles import Product
from tunemesh.stage_workers.engines.template.operators import Operator
from tunemesh.stage_workers.engines.template.rows import Rows
from tunemesh.stage_workers.engines.template.space import Space

Task = TypeVar("Task", contravariant=True)


class GpuTemplate(Protocol[Task]):
    """How kernels for a kind of operators are made for GPUs.

    Attributes:
        name: in schedules.
    """

    name: str

    def objection(self, operator: Task) -> str:
        """Why it cannot compute an operator; empty where it can."""

    def space(self, operator: Task, gpu: Gpu) -> Space:
        """What may be chosen; every genome that is valid makes a kernel."""

    def program(self, operator: Task, values: Sequence[int]) -> Program:
        """The kernel with these values of its knobs."""


PRODUCT, POINTS, ROW_BY_ROW = Product(), Depthwise(), RowByRow()


def matching(operator: Operator | Rows) -> GpuTemplate[Any]:
    """The template for an operator."""
    if isinstance(operator, Rows):
        return ROW_BY_ROW
    return POINTS if PRODUCT.objection(operator) else PRODUCT
