"""Attention as one operation, whatever it was written as.

Exporters write it as two products with a softmax between them, scores that are scaled and masked, and
transpositions that bring heads to the front and back. Frontends of PyTorch give one operator, of which TVM
makes a function that MetaSchedule has no good schedule for. Both are found here and computed by
:mod:`.attention_kernel`, which reads heads where they lie: the transpositions go. What is not written so (a
softmax whose shares are used otherwise, fewer heads of keys than of queries) stays as it is.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from tunemesh.stage_workers.graph import (
    attention_kernel,
    attention_pairs,
    fusing,
    models,
    projections,
    targets,
    workloads,
)
from tunemesh.stage_workers.graph.attention_kernel import Attention, Layout
from tunemesh.stage_workers.graph.rewriting import (
    axes_of,
    is_constant,
    number_of,
    operator_of,
    sizes_of,
    variables_of,
)

PRODUCT, SOFTMAX, TRANSPOSITION = "relax.matmul", "relax.nn.softmax", "relax.permute_dims"
OPERATORS = ("relax.nn.attention", "relax.nn.attention_bias")
LEAST_ROWS = 8
"""Queries for which it pays to copy the keys first."""
LEAST_LANES = 4
"""Of a vector."""
HEADS_BEHIND = (0, 2, 1, 3)
"""From (batch, rows, heads, columns), as TVM's operator has it, to heads in front of rows."""


class Operand(Struct, frozen=True):
    """A tensor of the graph that is read with its axes permuted.

    Attributes:
        value: its expression.
        axes: which of its axes each axis is, as of a transposition.
        scale: that it is multiplied with.
        alone: whether nothing else reads what is between the two.
    """

    value: Any
    axes: tuple[int, ...]
    scale: float = 1.0
    alone: bool = True

    @property
    def innermost(self) -> int:
        """Which axis lies innermost in memory."""
        return self.axes.index(len(self.axes) - 1)

    @property
    def layout(self) -> Layout:
        return Layout(tuple(self.axes.index(axis) for axis in range(len(self.axes))))


class Found(Struct, frozen=True):
    """An attention in the graph.

    Attributes:
        what: is computed.
        operands: queries, keys, values, and masks.
        joined: products that some of them are, to be computed as one.
    """

    what: Attention
    operands: list[Any]
    joined: projections.Joined | None = None


def may_gain(module: Any) -> bool:
    """Whether there are the operators in a module that attention is written with."""
    import tvm

    names = {operator_of(node) for node in models.nodes(module) if isinstance(node, tvm.ir.Call)}
    return {PRODUCT, SOFTMAX} <= names or not names.isdisjoint(OPERATORS)


def gains(module: Any, target: str) -> bool:
    """Whether there is one in a module whose constants are folded."""
    from tvm import relax

    functions = [each for _, each in module.functions_items() if isinstance(each, relax.Function)]
    return any(_Finder(function, target).found for function in functions)


def put_together(module: Any, target: str, *, narrow: bool = False) -> Any:
    """``module`` with one call of a function of TIR for each attention.

    Args:
        narrow: whether numbers are rounded to bfloat16 where the target multiplies these faster.
    """
    from tvm import relax

    found: dict[Any, Found] = {}

    @relax.expr_functor.mutator
    class Composer(relax.PyExprMutator):  # type: ignore[misc]
        def visit_var_binding_(self, binding: Any) -> None:
            known = found.get(binding.var)
            if known is None:
                super().visit_var_binding_(binding)
                return
            operands = list(known.operands)
            if known.joined is not None:
                source = self.visit_expr(known.joined.parts[0].source)
                whole = projections.emit(known.joined, source, self.builder_)
                for member in known.joined.members:
                    operands[member] = whole
            what = attention_pairs.narrowed(known.what, target) if narrow else known.what
            made = self.builder_.call_te(
                functools.partial(attention_kernel.attend, what, attention_pairs.kernel_of(what)),
                *map(self.visit_expr, operands),
                primfunc_name_hint="attention",
                # It has its schedule, and is fused with nothing.
                primfunc_attrs={workloads.SCHEDULED: True, fusing.PATTERN: fusing.OPAQUE},
            )
            inside = isinstance(binding.var, relax.DataflowVar)
            emit = self.builder_.emit if inside else self.builder_.emit_output
            self.set_var_remap(binding.var, emit(made))

    composer = Composer(module)
    for name, function in module.functions_items():
        if isinstance(function, relax.Function):
            found = _Finder(function, target).found
            if found:
                composer.builder_.update_func(name, composer.visit_expr(function))
    return relax.transform.DeadCodeElimination()(composer.builder_.get())


class _Finder:
    """Finds what can be computed in one.

    Attributes:
        found: by the variable that is bound to the result.
    """

    def __init__(self, function: Any, target: str) -> None:
        from tvm import relax

        self.found: dict[Any, Found] = {}
        self._registers, bits = targets.vector_registers(target)
        self._lanes = bits // 32
        self._values: dict[Any, Any] = {}
        self._uses: Counter[Any] = Counter()
        self._constants: Counter[Any] = Counter()
        blocks = [each for each in function.body.blocks if isinstance(each, relax.DataflowBlock)]
        bindings = [each for block in blocks for each in block.bindings if isinstance(each, relax.VarBinding)]
        for binding in bindings:
            self._values[binding.var] = binding.value
            self._uses.update(variables_of(binding.value))
        self._constants = projections.constants_of([each.value for each in bindings])
        readers = {v: each for each in bindings for v in variables_of(each.value) if self._uses[v] == 1}
        for binding in bindings:
            known = self._composed(binding.value) or self._operator(binding.value)
            if known is not None:
                self._add(binding.var, known, readers)

    def _add(self, variable: Any, known: Found, readers: Mapping[Any, Any]) -> None:
        """Where transpositions are all that reads the result, the kernel writes what they give."""
        from tvm import relax

        ending, order, axes = variable, known.what.result.order, tuple(range(len(known.what.batch) + 2))
        while isinstance(variable, relax.DataflowVar) and variable in readers:
            reader = readers[variable]
            if operator_of(reader.value) != TRANSPOSITION:
                break
            axes = tuple(axes[axis] for axis in axes_of(reader.value))
            variable = reader.var
            if axes[-1] == len(axes) - 1:
                ending, order = variable, tuple(known.what.result.order[axis] for axis in axes)
        what = msgspec.structs.replace(known.what, result=Layout(order))
        self.found[ending] = msgspec.structs.replace(known, what=what)

    def _operator(self, value: Any) -> Found | None:
        """TVM's operator."""
        if operator_of(value) not in OPERATORS or value.attrs.window_size is not None:
            return None
        queries, keys, values, *masks = value.args
        depth = sizes_of(queries.ty)
        if depth is None or any(sizes_of(each.ty) is None for each in value.args):
            return None
        scale = value.attrs.scale
        causal, way = None, value.attrs.causal_mask
        if way is not None:
            rows, columns = (int(each.ty.shape.values[1]) for each in (queries, keys))
            causal = abs(rows - columns) if str(way) == "BottomRight" else 0
        return self._of(
            Operand(queries, HEADS_BEHIND),
            Operand(keys, (0, 2, 3, 1)),
            Operand(values, HEADS_BEHIND),
            scale=depth[-1] ** -0.5 if scale is None else float(getattr(scale, "value", scale)),
            masks=masks,
            causal=causal,
            result=HEADS_BEHIND,
        )

    def _composed(self, value: Any) -> Found | None:
        """A product of shares and values."""
        if operator_of(value) != PRODUCT:
            return None
        softmax = self._once(value.args[0])
        if operator_of(softmax) != SOFTMAX or int(softmax.attrs.axis) not in (-1, _rank(softmax) - 1):
            return None
        scores, masks, scale = softmax.args[0], list[Any](), 1.0
        shape = sizes_of(softmax.ty)
        while True:
            inner = self._once(scores)
            if operator_of(inner) == PRODUCT:
                break
            if operator_of(inner) == "relax.add" and scale == 1.0:
                first, second = inner.args
                scores, mask = (first, second) if self._leads_to_product(first) else (second, first)
                masks.append(mask)
            elif (factor := _factor(inner)) is not None:
                scores, scale = factor[0], scale * factor[1]
            else:
                return None
            if sizes_of(scores.ty) != shape:
                return None
        plain = tuple(range(_rank(value)))
        queries, keys, values = inner.args[0], inner.args[1], value.args[1]
        if is_constant(keys) or is_constant(values):
            return None  # a product with a weight is a task, and its weight is packed
        return self._of(
            Operand(queries, plain),
            Operand(keys, plain),
            Operand(values, plain),
            scale=scale,
            masks=masks,
            causal=None,
            result=plain,
        )

    def _leads_to_product(self, expression: Any) -> bool:
        """Whether scores, and not a mask, come this way."""
        while True:
            value = self._once(expression)
            if operator_of(value) == PRODUCT:
                return True
            if operator_of(value) == "relax.add":
                return any(self._leads_to_product(each) for each in value.args)
            factor = _factor(value)
            if factor is None:
                return False
            expression = factor[0]

    def _of(
        self,
        queries: Operand,
        keys: Operand,
        values: Operand,
        *,
        scale: float,
        masks: Sequence[Any],
        causal: int | None,
        result: tuple[int, ...],
    ) -> Found | None:
        """What is computed of these; ``None`` where the kernel does not."""
        shapes = [_shape(each) for each in (queries, keys, values)]
        if any(each is None or len(each) != len(result) or 0 in each for each in shapes):
            return None
        (*batch, rows, depth), (*others, _, columns), (*last, _, width) = (
            list(each or ()) for each in shapes
        )
        lengths = [sizes_of(mask.ty) for mask in masks]
        read = [queries.value, keys.value, values.value, *masks]
        if (
            not batch == others == last
            or rows < LEAST_ROWS
            or columns < self._lanes
            or any(str(each.ty.dtype) != "float32" for each in read)
            or any(not _fits(each, (*batch, rows, columns)) for each in lengths)
        ):
            return None
        lanes = next((each for each in (self._lanes, self._lanes // 2) if width % each == 0), None)
        if lanes is None or lanes < LEAST_LANES:
            return None
        inner, outer = len(result) - 1, len(result) - 2
        queries = self._moved(queries, (inner,), scaled=True)
        keys = self._moved(keys, (inner, outer), scaled=True)
        values = self._moved(values, (inner,), scaled=False)
        if values.innermost != inner:
            return None
        scale *= queries.scale * keys.scale
        if not math.isfinite(scale):
            return None
        joined = projections.joined([self._projection(each) for each in (queries, keys, values)])
        layouts = [each.layout for each in (queries, keys, values)]
        for number, member in enumerate(joined.members if joined is not None else []):
            assert joined is not None
            place = joined.offset(number), joined.parts[number].columns
            layouts[member] = msgspec.structs.replace(layouts[member], joined=place)
        what = Attention(
            batch=tuple(batch),
            rows=rows,
            columns=columns,
            depth=depth,
            width=width,
            scale=scale,
            queries=layouts[0],
            keys=layouts[1],
            values=layouts[2],
            result=Operand(None, result).layout,
            masks=[each for each in lengths if each is not None],
            causal=causal,
            lanes=lanes,
            registers=self._registers,
        )
        return Found(what, [queries.value, keys.value, values.value, *masks], joined)

    def _projection(self, operand: Operand) -> projections.Projection | None:
        """The product that an operand is cut from, if nothing else reads it."""
        value, shape = self._once(operand.value), sizes_of(operand.value.ty)
        if value is None or shape is None or not operand.alone or len(shape) < 3:
            return None
        return projections.projection(value, self._once, self._constants, shape)

    def _moved(self, operand: Operand, innermost: tuple[int, ...], scaled: bool) -> Operand:
        """An operand before transpositions and, where that is wanted, before it was scaled: the first one
        with such an axis innermost in memory."""
        best = operand
        while True:
            value = self._values.get(operand.value)
            if value is None:
                return best
            alone = operand.alone and self._once(operand.value) is not None
            if operator_of(value) == TRANSPOSITION:
                steps = axes_of(value)
                axes = tuple(steps[axis] for axis in operand.axes)
                operand = Operand(value.args[0], axes, operand.scale, alone)
            elif scaled and (factor := _factor(value)) is not None and _same_shape(factor[0], value):
                operand = Operand(factor[0], operand.axes, operand.scale * factor[1], alone)
            else:
                return best
            if operand.innermost in innermost:
                best = operand

    def _once(self, expression: Any) -> Any:
        """What a variable that is read once, and no output, is bound to; ``None`` of others."""
        from tvm import relax

        inside = isinstance(expression, relax.DataflowVar)
        return self._values.get(expression) if inside and self._uses[expression] == 1 else None


def _factor(value: Any) -> tuple[Any, float] | None:
    """What a constant number is multiplied with, and the number."""
    if operator_of(value) not in ("relax.multiply", "relax.divide"):
        return None
    first, second = value.args
    if (number := number_of(second)) is not None:
        if operator_of(value) == "relax.multiply":
            return first, number
        return (first, 1.0 / number) if number else None
    if operator_of(value) == "relax.multiply" and (number := number_of(first)) is not None:
        return second, number
    return None


def _rank(expression: Any) -> int:
    return int(expression.ty.ndim)


def _shape(operand: Operand) -> tuple[int, ...] | None:
    shape = sizes_of(operand.value.ty)
    return None if shape is None or len(shape) != len(operand.axes) else tuple(shape[a] for a in operand.axes)


def _same_shape(first: Any, second: Any) -> bool:
    return sizes_of(first.ty) == sizes_of(second.ty)


def _fits(lengths: tuple[int, ...] | None, shape: tuple[int, ...]) -> bool:
    """Whether what has these lengths can be added to what has that shape, and leaves it so."""
    if lengths is None or len(lengths) > len(shape):
        return False
    ending = shape[len(shape) - len(lengths) :]
    return all(length in (1, whole) for length, whole in zip(lengths, ending, strict=True))
