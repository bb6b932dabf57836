"""Which products and convolutions of a model are computed by the instructions of :mod:`.dots`: those of
constant weights, of the dtypes and sizes that one takes which the target has."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from tunemesh.stage_workers.graph import dot_planes, dots
from tunemesh.stage_workers.graph.dots import Dot
from tunemesh.stage_workers.graph.legalising import Legalize

Emit = Callable[[Any, Any, Dot], Any]
"""From a block builder, a call and an instruction to what takes the call's place; ``None`` where the
instruction does not compute it as it is."""


def before(rules: Mapping[str, Legalize], target: str) -> dict[str, Legalize]:
    """``rules`` of how to lower operators, with instructions of a CPU where they can be used."""
    there = [each for each in dots.ALL.values() if each.runs_on(target)]
    found = dict(rules)
    for name, emit in EMITTERS.items():
        if there and name in rules:
            found[name] = _first(there, emit, rules[name])
    return found


def _first(there: list[Dot], emit: Emit, otherwise: Legalize) -> Legalize:
    """The first of some instructions that takes a call, or else what is done otherwise."""

    def legalize(builder: Any, call: Any) -> Any:
        for dot in there:
            made = emit(builder, call, dot) if dots.has_types(dot, call) else None
            if made is not None:
                return made
        return otherwise(builder, call)

    return legalize


def _packed(call: Any, dot: Dot) -> Any:
    """The constant weights of a call, as the instruction takes them."""
    from tvm import relax

    return relax.const(dot.packed(call.args[1].value.numpy()), dot.weights)


def _fits(call: Any, dot: Dot) -> bool:
    sizes = dots.sizes(call)
    return sizes is not None and dot.fits(*sizes)


def _product(builder: Any, call: Any, dot: Dot) -> Any:
    if not _fits(call, dot):
        return None
    return builder.call_te(
        functools.partial(dots.product, dot=dot),
        call.args[0],
        _packed(call, dot),
        primfunc_name_hint=f"product_{dot.short}",
    )


def _convolution(builder: Any, call: Any, dot: Dot) -> Any:
    if not _fits(call, dot):
        return _of_planes(builder, call, dot)
    attributes = call.attrs
    return builder.call_te(
        functools.partial(dots.convolution, dot=dot),
        call.args[0],
        _packed(call, dot),
        [int(each) for each in attributes.strides],
        [int(each) for each in attributes.padding],
        [int(each) for each in attributes.dilation],
        primfunc_name_hint=f"conv2d_{dot.short}",
    )


def _of_planes(builder: Any, call: Any, dot: Dot) -> Any:
    from tvm import relax

    planes = dot_planes.of(call, dot)
    if planes is None:
        return None
    weights = dot_planes.packed(call.args[1].value.numpy(), planes, dot)
    return builder.call_te(
        functools.partial(dot_planes.convolution, planes=planes, dot=dot),
        call.args[0],
        relax.const(weights, dot.weights),
        primfunc_name_hint=f"conv2d_{dot.short}",
    )


EMITTERS: dict[str, Emit] = {dots.PRODUCT: _product, dots.CONVOLUTION: _convolution}
"""By the operator's name."""
