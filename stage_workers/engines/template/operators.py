"""What a task computes, as templates need to know it: two operands whose products are summed up, and what is
done element by element with the sums.

It is recognised from the functions of TIR that Relax's operators become, whatever their names: a matrix
product, a convolution of any layout, kernel, stride and padding, and a depthwise one are the same thing with
other indices. Nothing here is text of C, and nothing of it knows TVM's types: :mod:`.recognition` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal["acc", "constant", "load", "call"]
"""A sum, a number, an element of a parameter, or a function of earlier steps."""
FLOAT = "float32"
Combine = Literal["product", "sum", "max", "min"]


@dataclass(frozen=True)
class Axis:
    """One loop.

    Attributes:
        name: that of the variable in TIR.
        extent: at least 2: shorter ones are no axes.
        reduced: whether it is summed up along.
    """

    name: str
    extent: int
    reduced: bool


@dataclass(frozen=True)
class Form:
    """A sum of a number and multiples of axes: where an element lies.

    Attributes:
        strides: by the number of the axis; 0 where it does not matter.
        offset: at the origin.
    """

    strides: tuple[int, ...]
    offset: int = 0

    def of(self, axes: Sequence[int]) -> tuple[int, ...]:
        """The strides of these axes."""
        return tuple(self.strides[axis] for axis in axes)

    def uses(self, axis: int) -> bool:
        return self.strides[axis] != 0


@dataclass(frozen=True)
class Window:
    """A dimension of an operand that is read beyond its ends.

    Attributes:
        form: which element of the dimension.
        length: of the dimension: only from 0 up to it there is something to read.
        place: where that is in a line of the dimension and those in it, in elements.
        end: of the line.
    """

    form: Form
    length: int
    place: Form
    end: int


@dataclass(frozen=True)
class Blocks:
    """An axis along which elements lie side by side in blocks.

    Attributes:
        lanes: of a block.
        apart: from the first element of a block to that of the next.
    """

    lanes: int
    apart: int


@dataclass(frozen=True)
class Dot:
    """An instruction that adds the products of some small numbers to one sum. Of both factors, what it takes
    at once counts as one element, of 32 bits.

    Attributes:
        name: as :mod:`.elements` knows it.
        group: numbers of an element.
        total: dtype of the sums.
    """

    name: str
    group: int
    total: str


@dataclass(frozen=True)
class Operand:
    """One of the two factors.

    Attributes:
        parameter: which of the function it is.
        form: elements from its first one.
        windows: its padded dimensions.
        weight: whether it is constant in the model.
        size: its elements.
        blocks: how neighbours lie: in blocks of so many; ``None`` where all do so as the form says.
        beyond: what is there where it is padded.
    """

    parameter: int
    form: Form
    windows: tuple[Window, ...]
    weight: bool
    size: int
    blocks: Blocks | None = None
    beyond: float = 0.0


@dataclass(frozen=True)
class Step:
    """One value of the computation behind the sums.

    Attributes:
        kind: see :data:`Kind`.
        name: of the function of a call, as :mod:`.epilogues` knows it.
        arguments: numbers of earlier steps.
        value: of a constant.
        parameter: that is loaded from.
        form: and where.
        dtype: of the value.
    """

    kind: Kind
    name: str = ""
    arguments: tuple[int, ...] = ()
    value: float = 0.0
    parameter: int = 0
    form: Form = Form(())
    dtype: str = FLOAT


@dataclass(frozen=True)
class Operator:
    """A task.

    Attributes:
        axes: spatial ones in the order of the result, then those that are summed up along.
        left: first factor.
        right: second factor; ``None`` where nothing is multiplied.
        combine: how values become one: sums of products, or sums, maxima or minima of the first factor.
        start: what that begins with.
        winograd: outputs of a tile of that algorithm in each direction, at most; 0: it must not be used.
        output: where a result goes in the output, which is the last parameter.
        epilogue: what is computed of a sum; the last step is the result.
        parameters: elements of each parameter of the function.
        dtype: of the output.
        dot: how products are summed up, where that is not one by one in single precision.
    """

    axes: tuple[Axis, ...]
    left: Operand
    right: Operand | None
    output: Form
    epilogue: tuple[Step, ...]
    parameters: tuple[int, ...]
    combine: Combine = "product"
    start: float = 0.0
    winograd: int = 0
    dtype: str = FLOAT
    dot: Dot | None = None

    @property
    def is_plain(self) -> bool:
        """Whether all is in single precision."""
        return self.dot is None and all(
            each == FLOAT for each in (self.dtype, *(step.dtype for step in self.epilogue))
        )

    @property
    def factors(self) -> list[Operand]:
        return [each for each in (self.left, self.right) if each is not None]

    def forms(self) -> list[Form]:
        """Of all that is read and written."""
        loads = [step.form for step in self.epilogue if step.kind == "load"]
        windows = [window for each in self.factors for window in each.windows]
        places = [form for window in windows for form in (window.form, window.place)]
        return [*(each.form for each in self.factors), self.output, *loads, *places]


def merged(operator: Operator) -> Operator:
    """The same with as few axes as possible: two that lie one in the other wherever they are used are one."""
    while True:
        pair = next(
            (
                (outer, inner)
                for outer in range(len(operator.axes))
                for inner in range(len(operator.axes))
                if outer != inner and _mergeable(operator, outer, inner)
            ),
            None,
        )
        if pair is None:
            return operator
        operator = _joined(operator, *pair)


def _mergeable(operator: Operator, outer: int, inner: int) -> bool:
    one, other = operator.axes[outer], operator.axes[inner]
    if one.reduced != other.reduced:
        return False
    return all(form.strides[outer] == form.strides[inner] * other.extent for form in operator.forms())


def _joined(operator: Operator, outer: int, inner: int) -> Operator:
    def form(each: Form) -> Form:
        kept = [stride for axis, stride in enumerate(each.strides) if axis != outer]
        return Form(tuple(kept), each.offset)

    def operand(each: Operand) -> Operand:
        windows = tuple(replace(w, form=form(w.form), place=form(w.place)) for w in each.windows)
        return replace(each, form=form(each.form), windows=windows)

    one, other = operator.axes[outer], operator.axes[inner]
    axis = Axis(f"{one.name}_{other.name}", one.extent * other.extent, one.reduced)
    axes = [axis if number == inner else each for number, each in enumerate(operator.axes)]
    del axes[outer]
    epilogue = tuple(
        replace(step, form=form(step.form)) if step.kind == "load" else step for step in operator.epilogue
    )
    return replace(
        operator,
        axes=tuple(axes),
        left=operand(operator.left),
        right=None if operator.right is None else operand(operator.right),
        output=form(operator.output),
        epilogue=epilogue,
    )
