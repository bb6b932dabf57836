"""All templates, and which one makes kernels of an operator."""

from __future__ import annotations

from typing import Any

from tunemesh.stage_workers.engines.template.operators import Operator
from tunemesh.stage_workers.engines.template.rows import Rows
from tunemesh.stage_workers.engines.template.templates import Template
from tunemesh.stage_workers.engines.template.templates.convolution import Convolution
from tunemesh.stage_workers.engines.template.templates.depthwise import Depthwise, Pooling
from tunemesh.stage_workers.engines.template.templates.product import Product
from tunemesh.stage_workers.engines.template.templates.rowwise import RowByRow
from tunemesh.stage_workers.engines.template.templates.winograd import Winograd

ALL: tuple[Template[Operator], ...] = (Pooling(), Depthwise(), Product(), Winograd(), Convolution())
"""The first one that has no objection is taken."""
OF_ROWS: tuple[Template[Rows], ...] = (RowByRow(),)


def matching(operator: Operator | Rows) -> tuple[Template[Any] | None, str]:
    """The template for an operator; or why there is none, from the one that came last."""
    templates: tuple[Template[Any], ...] = ALL if isinstance(operator, Operator) else OF_ROWS
    objection = ""
    for template in templates:
        objection = template.objection(operator)
        if not objection:
            return template, ""
    return None, objection
