"""An operator as functions of Halide: the factors, the sums, and what becomes of these.

A parameter is one line of elements here, and :class:`~.operators.Form` says where one lies in it. A factor is
a function of *coordinates*: dimensions that are padded, and axes. So it can be computed before, for a tile or
as a whole, which copies it in the order in which it is read; or stand where it is used.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import halide as hl

from tunemesh.stage_workers.engines.halide import arithmetic
from tunemesh.stage_workers.engines.halide.roles import Factor, Roles
from tunemesh.stage_workers.engines.template.operators import Form, Operator


@dataclass
class Pipeline:
    """Attributes:
    parameters: of the operator, the output excepted.
    places: the variable of each spatial axis.
    summed: the variable of each axis that is summed up along.
    factors: the functions of these.
    total: the sums.
    output: the result, whose dimensions are ordered as they lie in memory.
    """

    parameters: list[Any]
    places: dict[int, Any]
    summed: dict[int, Any]
    factors: list[Any]
    total: Any
    output: Any


def pipeline_of(operator: Operator, roles: Roles) -> Pipeline:
    """The functions, without any schedule."""
    parameters = []
    for number, size in enumerate(operator.parameters[:-1]):
        parameter = hl.ImageParam(hl.Float(32), 1, f"p{number}")
        parameter.dim(0).set_min(0).set_extent(size).set_estimate(0, size)
        parameters.append(parameter)
    places = {axis: hl.Var(f"v{axis}") for axis in roles.spatial}
    domain = hl.RDom([(0, operator.axes[axis].extent) for axis in roles.summed], "r")
    summed = {axis: domain[number] for number, axis in enumerate(roles.summed)}
    variables = {**places, **summed}

    def at(form: Form) -> Any:
        return linear(form, variables)

    factors = [_factor(each, number, operator, parameters) for number, each in enumerate(roles.factors)]
    found = [
        function[tuple(at(form) for form in each.coordinates)]
        for function, each in zip(factors, roles.factors, strict=True)
    ]
    inside = tuple(places[axis] for axis in roles.spatial)
    total = hl.Func("total")
    total[inside] = arithmetic.single(operator.start)
    if operator.combine == "product":
        total[inside] = total[inside] + found[0] * found[1]
    elif operator.combine == "sum":
        total[inside] = total[inside] + found[0]
    else:
        total[inside] = arithmetic.BINARY[operator.combine](total[inside], found[0])
    output = hl.Func("output")
    output[inside] = arithmetic.value_of(
        operator.epilogue, total[inside], lambda step: parameters[step.parameter][at(step.form)]
    )
    buffer = output.output_buffer()
    for dimension, axis in enumerate(roles.spatial):
        extent = operator.axes[axis].extent
        buffer.dim(dimension).set_min(0).set_extent(extent).set_stride(operator.output.strides[axis])
        output.set_estimate(places[axis], 0, extent)
    return Pipeline(parameters, places, summed, factors, total, output)


def linear(form: Form, variables: dict[int, Any]) -> Any:
    """A form as an expression."""
    terms = [variables[axis] * stride for axis, stride in enumerate(form.strides) if stride]
    if not terms:
        return hl.cast(hl.Int(32), form.offset)
    total = terms[0]
    for each in terms[1:]:
        total += each
    return total + form.offset if form.offset else total


def _factor(factor: Factor, number: int, operator: Operator, parameters: Sequence[Any]) -> Any:
    """A function of the factor's coordinates; beyond the ends of what is padded it is what the sums begin
    with."""
    coordinates = [hl.Var(f"c{number}_{at}") for at in range(len(factor.coordinates))]
    place: Any = hl.cast(hl.Int(32), factor.offset)
    outside = []
    packing = factor.packing
    for coordinate, stride, length, packed in itertools.zip_longest(
        coordinates, factor.strides, factor.lengths, packing or ()
    ):
        inside = coordinate
        if length:
            outside += [coordinate < 0, coordinate >= length]
            inside = hl.clamp(coordinate, 0, length - 1)
        if packed is not None and packed.block:
            place += (inside / packed.block) * packed.outer + (inside % packed.block) * packed.inner
        else:
            place += inside * (packed.inner if packed is not None else stride)
    value = parameters[factor.operand.parameter][place]
    if outside:
        condition = outside[0]
        for each in outside[1:]:
            condition = condition | each
        value = hl.select(condition, arithmetic.single(operator.start), hl.likely(value))
    function = hl.Func(f"factor{number}")
    function[tuple(coordinates)] = value
    return function
