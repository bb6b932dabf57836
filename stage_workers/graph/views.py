"""Tensors that lie in memory in another order of axes than the graph says, while a module is rewritten."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from msgspec import Struct

from tunemesh.stage_workers.graph import permutations
from tunemesh.stage_workers.graph.permutations import Order
from tunemesh.stage_workers.graph.rewriting import sizes_of


class View(Struct, frozen=True):
    """A tensor that lies in another order than the graph says.

    Attributes:
        value: the expression of what is in memory.
        shape: of the tensor.
        order: of its axes.
        settled: whether a convolution wants it so. What a transposition made is only kept where it costs
            nothing.
    """

    value: Any
    shape: tuple[int, ...]
    order: Order
    settled: bool


class Moving:
    """What a rule of an operator asks for.

    Args:
        builder: of the block that is written.
        written: gives the expression, in that block, of one in the block that is read.
        views: the tensors that lie in another order, by the variables of the block that is read.
    """

    def __init__(
        self, builder: Any, written: Callable[[Any], Any], views: dict[Any, View | list[View]]
    ) -> None:
        self._builder = builder
        self._written = written
        self._views = views
        self._made: dict[tuple[Any, Order], Any] = {}

    def emit(self, expression: Any) -> Any:
        """The variable that an expression is bound to."""
        return self._builder.emit(expression)

    def view(self, argument: Any) -> View | None:
        """How a tensor lies, where that is not as the graph says."""
        found = self._field(argument)
        return found if isinstance(found, View) else None

    def fields(self, argument: Any) -> list[View] | None:
        """The same of a tuple."""
        found = self._field(argument)
        return found if isinstance(found, list) else None

    def _field(self, argument: Any) -> View | list[View] | None:
        from tvm import relax

        return self._views.get(argument) if isinstance(argument, relax.Var) else None

    def as_said(self, argument: Any) -> Any:
        """The expression of a tensor, or of a tuple of them, as the graph says it."""
        from tvm import relax

        found = self._field(argument)
        if found is None:
            return self._written(argument)
        if isinstance(found, list):
            return self.emit(relax.Tuple([self._turned(each, _plain(each)) for each in found]))
        return self._turned(found, _plain(found))

    def take(self, argument: Any, order: Order) -> Any:
        """The expression of a tensor that lies in this order."""
        found = self.view(argument)
        if found is None:
            shape = sizes_of(argument.ty)
            assert shape is not None
            plain = permutations.identity(len(shape))
            found = View(self._written(argument), shape, plain, False)
        return self._turned(found, order)

    def is_plain(self, argument: Any) -> bool:
        """Whether a tensor lies as the graph says, if only beside another order."""
        found = self.view(argument)
        if found is None:
            return True
        return (found.value, permutations.steps(found.order, _plain(found))) in self._made

    def _turned(self, view: View, order: Order) -> Any:
        import tvm
        from tvm import relax

        if view.order == order:
            return view.value
        axes = permutations.steps(view.order, order)
        key = view.value, axes
        if key not in self._made:
            if isinstance(view.value, tvm.ir.GenericConst):
                values = np.ascontiguousarray(view.value.value.numpy().transpose(axes))
                made = relax.const(values, str(view.value.ty.dtype))
            elif permutations.moves(view.shape, view.order, order):
                made = self.emit(relax.op.permute_dims(view.value, list(axes)))
            else:
                made = self.emit(relax.op.reshape(view.value, [view.shape[axis] for axis in order]))
            self._made[key] = made
        return self._made[key]


def _plain(view: View) -> Order:
    return permutations.identity(len(view.order))


Rule = Callable[[Moving, Any], View | list[View] | None]
"""How the result of a call lies, and that it is computed; ``None`` where it is to be computed as the graph
says."""
