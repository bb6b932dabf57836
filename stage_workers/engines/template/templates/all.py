"""All templates, and which one makes kernels of an operator."""

from __future__ import annotations

from tunemesh.stage_workers.engines.template.operators import Operator
from tunemesh.stage_workers.engines.template.templates import Template
from tunemesh.stage_workers.engines.template.templates.convolution import Convolution
from tunemesh.stage_workers.engines.template.templates.depthwise import Depthwise
from tunemesh.stage_workers.engines.template.templates.product import Product

ALL: tuple[Template, ...] = (Product(), Convolution(), Depthwise())
"""The first one that has no objection is taken."""


def named(name: str) -> Template:
    """The template of that name."""
    return next(each for each in ALL if each.name == name)


def matching(operator: Operator) -> tuple[Template | None, str]:
    """The template for an operator; or why there is none, from the one that came last."""
    objection = ""
    for template in ALL:
        objection = template.objection(operator)
        if not objection:
            return template, ""
    return None, objection
