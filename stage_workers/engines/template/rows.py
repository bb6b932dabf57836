"""What is computed row by row: softmax, layer normalisation and the like, as templates need to know it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any, Literal

from tunemesh.stage_workers.engines.template.expressions import Expressions
from tunemesh.stage_workers.engines.template.operators import FLOAT, Axis, Form, Step
from tunemesh.stage_workers.engines.template.recognition import Function
from tunemesh.stage_workers.engines.template.stages import Stage, Unknown, combined, form_of, inlined

Kind = Literal["map", "sum", "max", "min"]
Axes = list[tuple[Any, int, bool]]


@dataclass(frozen=True)
class Pass:
    """One value for each element of a row, or one for the row.

    Attributes:
        kind: what becomes of the values: a row of them, or one number.
        steps: how each is computed; the last one is the value. One of the kind ``acc`` has what an earlier
            pass gave, whose number is its ``parameter``.
        start: what a reduction begins with.
    """

    kind: Kind
    steps: tuple[Step, ...]
    start: float = 0.0

    @property
    def uses(self) -> set[int]:
        """Earlier passes."""
        return {step.parameter for step in self.steps if step.kind == "acc"}


@dataclass(frozen=True)
class Rows:
    """A task.

    Attributes:
        axes: those that number the rows, then that of the elements.
        passes: in their order; the last one is the output.
        output: where a value goes.
        parameters: elements of each parameter of the function.
        dtype: of the output: values are in single precision until they are written.
    """

    axes: tuple[Axis, ...]
    passes: tuple[Pass, ...]
    output: Form
    parameters: tuple[int, ...]
    dtype: str = FLOAT


def rows_of(function: Function) -> Rows:
    """What a function computes row by row.

    Raises:
        Unknown: it is none of this kind.
    """
    writer = function.last
    if function.dtype not in (FLOAT, "bfloat16"):
        raise Unknown(f"its output is {function.dtype}")
    if writer.reduces:
        raise Unknown("its output is a sum")
    axes = [axis for axis in writer.axes if axis[1] > 1]
    shape = function.arguments[function.output].shape
    output = combined([form_of(index, axes) for index in writer.store.indices], shape)
    reader = _Reader(function, axes)
    reader.add("map", writer.store.value)
    if all(each.kind == "map" for each in reader.passes):
        raise Unknown("it sums nothing up")
    found = Rows(
        axes=tuple(Axis(str(variable.name), extent, False) for variable, extent, _ in axes),
        passes=tuple(reader.passes),
        output=output,
        parameters=function.sizes,
        dtype=function.dtype,
    )
    return _turned(found, reader.reduced)


@dataclass
class _Reader:
    """Reads a function from its output on.

    Attributes:
        axes: of the output.
        passes: that were found.
        reduced: the axes that are reduced along; empty until one is.
    """

    function: Function
    axes: Axes
    passes: list[Pass] = field(default_factory=list)
    reduced: list[int] = field(default_factory=list)
    known: dict[int, int] = field(default_factory=dict)

    def add(self, kind: Kind, value: Any, start: float = 0.0) -> int:
        """The number of a pass."""
        expressions = _Values(self)
        last = expressions.value(value)
        self.passes.append(Pass(kind, expressions.until(last), start))
        return len(self.passes) - 1

    def is_shared(self, stage: Stage) -> bool:
        """Whether several blocks read what a block writes."""
        import tvm_ffi
        from tvm import ir

        readers = 0
        for each in self.function.stages:
            found: list[Any] = []
            tvm_ffi.structural_walk(each.store.value, (ir.TensorLoad, found.append))
            own = stage.store.buffer
            readers += each is not stage and any(load.source.same_as(own) for load in found)
        return readers > 1

    def reduction(self, stage: Stage, load: Any) -> int:
        """The number of the pass that reduces, where its result is read by ``load``."""
        combine, value = stage.reduction()
        number = self.known.get(hash(stage.store.buffer))
        self._check(stage, load)
        if number is None:
            assert stage.start is not None
            assert combine != "product"
            number = self.add(combine, self._moved(stage, load, value), stage.start)
            self.known[hash(stage.store.buffer)] = number
        return number

    def map(self, stage: Stage) -> int:
        """The number of the pass that has the values of a block."""
        key = hash(stage.store.buffer)
        if key not in self.known:
            indices = [variable for variable, _, _ in self._own(stage)]
            self.known[key] = self.add("map", inlined(stage, indices))
        return self.known[key]

    def is_same(self, load: Any) -> bool:
        """Whether each element reads its own."""
        forms = [form_of(index, self.axes) for index in load.indices]
        shape = [int(extent) for extent in load.source.shape]
        used = [form for form, length in zip(forms, shape, strict=True) if length > 1]
        plain = [Form(tuple(int(i == at) for i in range(len(self.axes)))) for at in range(len(self.axes))]
        return used == plain

    def _own(self, stage: Stage) -> Axes:
        """The variables of the output for the indices of what a block writes."""
        from tvm import tirx

        left = list(self.axes)
        return [
            left.pop(0) if int(extent) > 1 else (tirx.IntImm("int64", 0), 1, False)
            for extent in stage.store.buffer.shape
        ]

    def _check(self, stage: Stage, load: Any) -> None:
        """That a row reads what was reduced of it, and that all are reduced along the same axes."""
        forms = [form_of(index, self.axes) for index in load.indices]
        read = [form for form in forms if any(form.strides)]
        rows = [axis for form in read for axis, stride in enumerate(form.strides) if stride]
        plain = all(form.offset == 0 and sum(map(abs, form.strides)) == 1 for form in read)
        lengths = [int(extent) for extent in stage.store.buffer.shape if int(extent) > 1]
        if not plain or lengths != [self.axes[axis][1] for axis in rows] or len(set(rows)) < len(rows):
            raise Unknown("its sums are put into another shape")
        reduced = [axis for axis in range(len(self.axes)) if axis not in rows]
        if self.reduced not in ([], reduced):
            raise Unknown("it sums up along several axes")
        own = [extent for _, extent, reduces in stage.axes if reduces and extent > 1]
        if own != [self.axes[axis][1] for axis in reduced]:
            raise Unknown("it sums up other elements than its results")
        self.reduced = reduced

    def _moved(self, stage: Stage, load: Any, value: Any) -> Any:
        """What a block sums up, over the axes of the output."""
        import tvm
        import tvm_ffi

        places: dict[int, Any] = {}
        for own, index in zip(stage.store.indices, load.indices, strict=True):
            if isinstance(own, tvm.ir.Var):
                places[hash(own)] = index
        variables = [variable for variable, extent, reduces in stage.axes if reduces and extent > 1]
        for variable, axis in zip(variables, self.reduced, strict=True):
            places[hash(variable)] = self.axes[axis][0]
        return tvm_ffi.structural_map(value, (tvm.ir.Var, lambda each: places.get(hash(each), each)))


class _Values(Expressions):
    """The values of one pass."""

    def __init__(self, reader: _Reader) -> None:
        super().__init__(reader.function.fast)
        self.reader = reader

    def load(self, load: Any) -> int:
        reader = self.reader
        stage = reader.function.writers.get(hash(load.source))
        if stage is None:
            number, form = reader.function.element(load, reader.axes)
            if reader.function.arguments[number].dtype != FLOAT:
                raise Unknown(f"it reads {reader.function.arguments[number].dtype}")
            return self.step("load", parameter=number, form=form)
        if stage.reduces:
            return self.step("acc", parameter=reader.reduction(stage, load))
        if reader.is_same(load) and reader.is_shared(stage):
            return self.step("acc", parameter=reader.map(stage))
        return self.value(inlined(stage, load.indices))


def _turned(rows: Rows, reduced: list[int]) -> Rows:
    """The same with the axes that number the rows first, and one axis of elements, which lie side by side."""
    forms = [step.form for each in rows.passes for step in each.steps if step.kind == "load"]
    lane = reduced[-1]
    if rows.output.strides[lane] != 1 or any(form.strides[lane] not in (0, 1) for form in forms):
        raise Unknown("what it reduces does not lie side by side")
    for form in (*forms, rows.output):
        for outer, inner in itertools.pairwise(reduced):
            if form.strides[outer] != form.strides[inner] * rows.axes[inner].extent:
                raise Unknown("what it reduces has gaps")
    kept = [axis for axis in range(len(rows.axes)) if axis not in reduced]
    extent = 1
    for axis in reduced:
        extent *= rows.axes[axis].extent

    def turned(form: Form) -> Form:
        return Form((*form.of(kept), form.strides[lane]), form.offset)

    passes = tuple(
        Pass(
            each.kind,
            tuple(
                Step("load", parameter=step.parameter, form=turned(step.form))
                if step.kind == "load"
                else step
                for step in each.steps
            ),
            each.start,
        )
        for each in rows.passes
    )
    axes = (*(rows.axes[axis] for axis in kept), Axis(rows.axes[lane].name, extent, False))
    return Rows(axes, passes, turned(rows.output), rows.parameters, rows.dtype)
