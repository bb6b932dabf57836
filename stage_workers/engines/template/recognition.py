"""From a function of TIR to an :class:`~.operators.Operator`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tunemesh.stage_workers.engines.template import dotted, elements
from tunemesh.stage_workers.engines.template.expressions import Expressions
from tunemesh.stage_workers.engines.template.operators import (
    FLOAT,
    Axis,
    Dot,
    Form,
    Operand,
    Operator,
    Step,
    Window,
    merged,
)
from tunemesh.stage_workers.engines.template.stages import (
    Stage,
    Unknown,
    choice_of,
    combined,
    form_of,
    form_sum,
    inlined,
    range_of,
    stages_of,
)
from tunemesh.stage_workers.graph import dots, fast_math, workloads


def operator_of(function: Function) -> Operator:
    """What a function computes, if that is one value of many, and something of that.

    Raises:
        Unknown: nothing that there could be a template for.
    """
    return merged(_Products(function).operator())


class Function:
    """A function of TIR.

    Attributes:
        arguments: what is known of its parameters.
        weights: numbers of those that are constant in the model.
        fast: whether functions such as exp are computed as arithmetic.
        winograd: see :class:`~.operators.Operator`.
        stages: its blocks.
        writers: the block that writes each tensor, by its hash.
        output: the number of the parameter that is written.
    """

    def __init__(self, function: Any) -> None:
        try:
            self.arguments = workloads.arguments(function)
        except ValueError as error:
            raise Unknown(str(error)) from None
        self._parameters = list(function.params)
        self.weights = workloads.weights_of(function)
        self.fast = fast_math.is_marked(function)
        self.winograd = workloads.winograd_of(function)
        self.stages = stages_of(function)
        self.writers = {hash(stage.store.buffer): stage for stage in self.stages}
        if len(self.writers) != len(self.stages):
            raise Unknown("a tensor is written in several places")
        outputs = [number for number, each in enumerate(self.arguments) if each.output]
        if outputs != [len(self.arguments) - 1]:
            raise Unknown("it has several outputs")
        (self.output,) = outputs
        if self.dtype not in elements.TYPES:
            raise Unknown(f"its output is {self.dtype}")

    @property
    def dtype(self) -> str:
        """Of the output."""
        return self.arguments[self.output].dtype

    @property
    def sizes(self) -> tuple[int, ...]:
        """Elements of each parameter."""
        return tuple(math.prod(each.shape) for each in self.arguments)

    @property
    def last(self) -> Stage:
        """The block that writes the output."""
        writer = self.writers.get(hash(self._parameters[self.output]))
        if writer is None:
            raise Unknown("nothing writes the output")
        return writer

    def number(self, buffer: Any) -> int:
        """Which parameter a tensor is."""
        for number, parameter in enumerate(self._parameters):
            if parameter.same_as(buffer):
                return number
        raise Unknown("it reads what nobody writes")

    def element(self, load: Any, axes: Sequence[tuple[Any, int, bool]]) -> tuple[int, Form]:
        """Which parameter is read, and where; it is of a known dtype."""
        number = self.number(load.source)
        shape, dtype = self.arguments[number].shape, self.arguments[number].dtype
        if dtype not in elements.TYPES:
            raise Unknown(f"it ends in arithmetic of {dtype}")
        forms = [form_of(index, axes) for index in load.indices]
        for form, length in zip(forms, shape, strict=True):
            least, most = range_of(form, axes)
            if least < 0 or most >= length:
                raise Unknown("it ends in reading a tensor beyond its ends")
        return number, combined(forms, shape)


class _Products:
    """Sums of products, and what else is one value of many."""

    def __init__(self, function: Function) -> None:
        self.function = function
        self.arguments = function.arguments
        self.weights = function.weights
        self.writers = function.writers
        self.number = function.number
        self.axes: list[tuple[Any, int, bool]] = []

    def operator(self) -> Operator:
        reductions = [stage for stage in self.function.stages if stage.reduces]
        if len(reductions) != 1:
            raise Unknown("it sums up in several places" if reductions else "it sums nothing up")
        (total,) = reductions
        self.axes = [axis for axis in total.axes if axis[1] > 1]
        self.axes.sort(key=lambda axis: axis[2])
        output, epilogue = self._tail()
        operator = Operator(
            axes=(), left=Operand(0, Form(()), (), False, 0), right=None, output=output, epilogue=epilogue,
            parameters=self.function.sizes, winograd=self.function.winograd, dtype=self.function.dtype,
        )  # fmt: skip
        combine, value = total.reduction()
        if total.dot:
            return self._dotted(operator, value, total)
        if factors := _factors(value):
            if combine != "sum" or total.start != 0.0:
                raise Unknown("it reduces products in another way than by a sum from zero")
            left, right = map(self._operand, factors)
            operator = replace(operator, left=left, right=right)
        elif _is_load(value):
            assert total.start is not None
            left = self._operand(value, total.start)
            operator = replace(operator, left=left, combine=combine, start=total.start)
        else:
            raise Unknown("it sums up what is computed first")
        axes = tuple(Axis(str(variable.name), extent, sums) for variable, extent, sums in self.axes)
        return replace(operator, axes=axes)

    def _dotted(self, operator: Operator, value: Any, total: Stage) -> Operator:
        """A sum that an instruction computes some products of at once."""
        dot, _ = dots.named(total.dot)
        data, packed = dotted.factors(value)
        number = self.number(packed.source)
        lane, depth = dotted.channels(packed.indices, dot, self.axes)
        taps = [self._form(index) for index in packed.indices[1:-3]]
        shape = self.arguments[number].shape
        right = dotted.weights(number, shape, taps, len(self.axes), lane, depth, dot)
        right = replace(right, weight=number in self.weights)
        left = dotted.in_words(self._operand(data, None, dot.data), depth, dot.group)
        axes = [Axis(str(variable.name), extent, sums) for variable, extent, sums in self.axes]
        axes[depth] = replace(axes[depth], extent=axes[depth].extent // dot.group)
        return replace(
            operator, axes=tuple(axes), left=left, right=right, dot=Dot(dot.short, dot.group, dot.total)
        )

    # -- The factors -----------------------------------------------------------------------------------------

    def _operand(self, load: Any, beyond: float | None = 0.0, dtype: str = FLOAT) -> Operand:
        """A factor, through what pads it with ``beyond``, or with any number, and moves it."""
        conditions: list[Any] = []
        load, around = self._source(load, conditions, beyond)
        number = self.number(load.source)
        shape = self.arguments[number].shape
        if self.arguments[number].dtype != dtype:
            raise Unknown(f"it multiplies {self.arguments[number].dtype}")
        forms = [self._form(index) for index in load.indices]
        bounds = {bound for condition in conditions for bound in self._bounds(condition)}
        windows = []
        for dimension, (form, length) in enumerate(zip(forms, shape, strict=True)):
            least, most = range_of(form, self.axes)
            # What must hold to read: the index is not below 0, and below the length.
            needed = set()
            if least < 0:
                needed.add(form)
            if most >= length:
                needed.add(Form(tuple(-stride for stride in form.strides), length - 1 - form.offset))
            if not needed <= bounds:
                raise Unknown("a tensor is padded in an unusual way")
            bounds -= needed
            if needed:
                line = combined(forms[dimension:], shape[dimension:])
                windows.append(Window(form, length, line, math.prod(shape[dimension:])))
        if any(range_of(bound, self.axes)[0] < 0 for bound in bounds):
            raise Unknown("a tensor is cut in an unusual way")
        return Operand(
            parameter=number,
            form=combined(forms, shape),
            windows=tuple(windows),
            weight=number in self.weights,
            size=math.prod(shape),
            beyond=around or 0.0,
        )

    def _source(self, load: Any, conditions: list[Any], beyond: float | None) -> tuple[Any, float | None]:
        """The load of a parameter that a load of an intermediate tensor comes to, and what is taken beyond
        it: ``beyond``, or any one number. The conditions under which it is read, and not that taken, are
        added to ``conditions``."""
        from tvm import ir, tirx

        while (stage := self.writers.get(hash(load.source))) is not None:
            if stage.reduces:
                raise Unknown("a factor is itself a sum")
            value = dotted.plain(inlined(stage, load.indices))
            if choice := choice_of(value):
                condition, value, other = choice
                if not isinstance(other, tirx.FloatImm | tirx.IntImm):
                    raise Unknown("a tensor is padded with something else than a number")
                beyond = float(other.value) if beyond is None else beyond
                if float(other.value) != beyond:
                    raise Unknown("a tensor is padded with something else than what changes nothing")
                conditions.append(condition)
            if not isinstance(value, ir.TensorLoad):
                raise Unknown("a factor is computed first")
            load = value
        return load, beyond

    def _bounds(self, condition: Any) -> list[Form]:
        """What must not be negative so that a condition holds."""
        from tvm import tirx

        if isinstance(condition, tirx.And):
            return self._bounds(condition.a) + self._bounds(condition.b)
        for kind, turned, strict in (
            (tirx.LE, False, False),
            (tirx.LT, False, True),
            (tirx.GE, True, False),
            (tirx.GT, True, True),
        ):
            if isinstance(condition, kind):
                low, high = self._form(condition.a), self._form(condition.b)
                if turned:
                    low, high = high, low
                return [form_sum(high, low, -1, -1 if strict else 0)]
        raise Unknown("a tensor is padded in an unusual way")

    # -- What follows ----------------------------------------------------------------------------------------

    def _tail(self) -> tuple[Form, tuple[Step, ...]]:
        """Where a sum goes in the output, and the steps to there. Axes become as short as what is used of the
        sums."""
        writer = self.function.last
        spatial = [axis for axis in self.axes if not axis[2]]
        shape = self.arguments[self.function.output].shape
        if writer.reduces:
            step = Step("acc", dtype=self.function.dtype)
            return combined([self._form(index) for index in writer.store.indices], shape), (step,)
        tail = _Tail(self.function, self.axes, writer)
        value = tail.value(writer.store.value)
        if tail.places is None:
            raise Unknown("its sums are not used")
        # The axis of the sum that each axis of the output is.
        if len(tail.places) != len(spatial) or len(tail.axes) != len(spatial):
            raise Unknown("its result has other elements than its sums")
        form = combined([form_of(index, tail.axes) for index in writer.store.indices], shape)
        for axis, at in tail.places.items():
            variable, _, sums = self.axes[axis]
            self.axes[axis] = variable, tail.axes[at][1], sums
        steps = [
            replace(step, form=self._placed(step.form, tail.places)) if step.kind == "load" else step
            for step in tail.until(value)
        ]
        return self._placed(form, tail.places), tuple(steps)

    def _placed(self, form: Form, places: Mapping[int, int]) -> Form:
        """A form over the axes of the output as one over those of the sum."""
        strides = [0] * len(self.axes)
        for axis, at in places.items():
            strides[axis] = form.strides[at]
        return Form(tuple(strides), form.offset)

    def _form(self, index: Any) -> Form:
        return form_of(index, self.axes)


class _Tail(Expressions):
    """What is computed of the sums.

    Attributes:
        axes: of the output.
        places: which axis of the output each of the sum is.
    """

    def __init__(self, function: Function, sums: Sequence[tuple[Any, int, bool]], writer: Stage) -> None:
        super().__init__(function.fast)
        self.function = function
        self.sums = sums
        self.axes = [axis for axis in writer.axes if axis[1] > 1]
        self.places: dict[int, int] | None = None
        self._known: dict[tuple[int, tuple[Form, ...]], int] = {}

    def load(self, load: Any) -> int:
        forms = tuple(form_of(index, self.axes) for index in load.indices)
        key = hash(load.source), forms
        if key not in self._known:
            self._known[key] = self._loaded(load, forms)
        return self._known[key]

    def _loaded(self, load: Any, forms: tuple[Form, ...]) -> int:
        stage = self.function.writers.get(hash(load.source))
        if stage is None:
            number, form = self.function.element(load, self.axes)
            dtype = self.function.arguments[number].dtype
            return self.step("load", parameter=number, form=form, dtype=dtype)
        if not stage.reduces:
            return self.value(inlined(stage, load.indices))
        places = self._places(stage, forms)
        if self.places not in (None, places):
            raise Unknown("its sums are used in several places")
        self.places = places
        return self.step("acc", dtype=str(load.ty.dtype))

    def _places(self, stage: Stage, forms: tuple[Form, ...]) -> dict[int, int]:
        """Which axis of the output each of the sum is, where the sum is read at these places."""
        places: dict[int, int] = {}
        for index, form in zip(stage.store.indices, forms, strict=True):
            own = form_of(index, self.sums)
            used = [axis for axis, stride in enumerate(own.strides) if stride]
            read = [axis for axis, stride in enumerate(form.strides) if stride]
            plain = own.offset == form.offset == 0 and len(used) == len(read) <= 1
            if not plain or any(own.strides[axis] != 1 for axis in used):
                raise Unknown("its sums are put into another shape")
            if any(form.strides[axis] != 1 for axis in read):
                raise Unknown("its sums are put into another shape")
            places.update(zip(used, read, strict=True))
        if len(set(places.values())) != len(places):
            raise Unknown("its sums are put into another shape")
        for axis, at in places.items():
            if self.sums[axis][1] < self.axes[at][1]:
                raise Unknown("its result has other elements than its sums")
        return places


def _is_load(expression: Any) -> bool:
    from tvm import ir

    return isinstance(expression, ir.TensorLoad)


def _factors(value: Any) -> tuple[Any, Any] | None:
    """The two loads of a product."""
    from tvm import tirx

    if isinstance(value, tirx.Mul) and _is_load(value.a) and _is_load(value.b):
        return value.a, value.b
    return None
