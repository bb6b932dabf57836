"""From a function of TIR to an :class:`~.operators.Operator`."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tunemesh.stage_workers.engines.template import epilogues
from tunemesh.stage_workers.engines.template.operators import (
    Axis,
    Form,
    Operand,
    Operator,
    Step,
    Window,
    merged,
)
from tunemesh.stage_workers.graph import fast_math, vector_code, workloads
from tunemesh.stage_workers.graph.rewriting import operator_of

FLOAT = "float32"
CHOICES = ("prim.if_then_else", "tirx.if_then_else")


class Unknown(Exception):
    """There is no template for it; says why in a few words."""


@functools.lru_cache(maxsize=32)
def recognised(workload: bytes) -> Operator:
    """What a workload computes.

    Raises:
        Unknown: nothing that there could be a template for.
    """
    return merged(_Function(workloads.load(workload)["main"]).operator())


class _Stage(NamedTuple):
    """A block.

    Attributes:
        axes: its variables, spatial ones and others, with their extents.
        store: what it writes.
        sums: whether it sums up.
    """

    axes: list[tuple[Any, int, bool]]
    store: Any
    sums: bool


class _Function:
    """A function of TIR on its way to an operator."""

    def __init__(self, function: Any) -> None:
        try:
            self.arguments = workloads.arguments(function)
        except ValueError as error:
            raise Unknown(str(error)) from None
        self.parameters = list(function.params)
        self.weights = workloads.weights_of(function)
        self.fast = fast_math.is_marked(function)
        self.stages = _stages(function)
        self.writers = {hash(stage.store.buffer): stage for stage in self.stages}
        if len(self.writers) != len(self.stages):
            raise Unknown("a tensor is written in several places")
        self.axes: list[tuple[Any, int, bool]] = []
        self.steps: list[Step] = []

    def operator(self) -> Operator:
        sums = [stage for stage in self.stages if stage.sums]
        if len(sums) != 1:
            raise Unknown("it sums up in several places" if sums else "it sums nothing up")
        outputs = [number for number, each in enumerate(self.arguments) if each.output]
        if outputs != [len(self.arguments) - 1]:
            raise Unknown("it has several outputs")
        total = sums[0]
        self.axes = [axis for axis in total.axes if axis[1] > 1]
        self.axes.sort(key=lambda axis: axis[2])
        left, right = self._factors(total)
        output, value = self._tail(outputs[0])
        return Operator(
            axes=tuple(Axis(str(variable.name), extent, sums) for variable, extent, sums in self.axes),
            left=self._operand(left),
            right=self._operand(right),
            output=output,
            epilogue=tuple(self.steps[: value + 1]),
            parameters=tuple(math.prod(each.shape) for each in self.arguments),
        )

    # -- The sum ---------------------------------------------------------------------------------------------

    def _factors(self, stage: _Stage) -> tuple[Any, Any]:
        """The two loads of ``total[...] += a[...] * b[...]``."""
        from tvm import ir, tirx

        store = stage.store
        value = store.value
        if isinstance(value, tirx.Add):
            for own, product in ((value.a, value.b), (value.b, value.a)):
                same = isinstance(own, ir.TensorLoad) and own.source.same_as(store.buffer)
                if same and isinstance(product, tirx.Mul):
                    factors = product.a, product.b
                    if all(isinstance(each, ir.TensorLoad) for each in factors):
                        return factors
        raise Unknown("it does not sum up products of two tensors")

    def _operand(self, load: Any) -> Operand:
        """A factor, through what pads and moves it."""
        conditions: list[Any] = []
        load = self._source(load, conditions)
        number = self._number(load.source)
        shape = self.arguments[number].shape
        if self.arguments[number].dtype != FLOAT:
            raise Unknown(f"it multiplies {self.arguments[number].dtype}")
        forms = [self._form(index) for index in load.indices]
        bounds = {bound for condition in conditions for bound in self._bounds(condition)}
        windows = []
        for form, length in zip(forms, shape, strict=True):
            least, most = _range(form, self.axes)
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
                windows.append(Window(form, length))
        if any(_range(bound, self.axes)[0] < 0 for bound in bounds):
            raise Unknown("a tensor is cut in an unusual way")
        return Operand(
            parameter=number,
            form=_combined(forms, shape),
            windows=tuple(windows),
            weight=number in self.weights,
            size=math.prod(shape),
        )

    def _source(self, load: Any, conditions: list[Any]) -> Any:
        """The load of a parameter that a load of an intermediate tensor comes to. The conditions under which
        it is read, and not zero taken, are added to ``conditions``."""
        from tvm import ir, tirx

        while (stage := self.writers.get(hash(load.source))) is not None:
            if stage.sums:
                raise Unknown("a factor is itself a sum")
            value = _inlined(stage, load.indices)
            if choice := _choice(value):
                condition, value, other = choice
                if not isinstance(other, tirx.FloatImm) or float(other.value) != 0.0:
                    raise Unknown("a tensor is padded with something else than zero")
                conditions.append(condition)
            if not isinstance(value, ir.TensorLoad):
                raise Unknown("a factor is computed first")
            load = value
        return load

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
                return [_sum(high, low, -1, -1 if strict else 0)]
        raise Unknown("a tensor is padded in an unusual way")

    # -- What follows ----------------------------------------------------------------------------------------

    def _tail(self, output: int) -> tuple[Form, int]:
        """Where a sum goes in the output; the steps to there are noted."""
        writer = self.writers.get(hash(self.parameters[output]))
        if writer is None:
            raise Unknown("nothing writes the output")
        if self.arguments[output].dtype != FLOAT:
            raise Unknown(f"its output is {self.arguments[output].dtype}")
        spatial = [axis for axis in self.axes if not axis[2]]
        shape = self.arguments[output].shape
        if writer.sums:
            return _combined([self._form(index) for index in writer.store.indices], shape), self._step("acc")
        tail = _Tail(self, writer)
        value = tail.value(writer.store.value)
        if tail.places is None:
            raise Unknown("its sums are not used")
        # The axis of the sum that each axis of the output is.
        if len(tail.places) != len(spatial) or len(tail.axes) != len(spatial):
            raise Unknown("its result has other elements than its sums")
        form = _combined([tail.form(index) for index in writer.store.indices], shape)
        self.steps = [
            Step("load", parameter=step.parameter, form=self._placed(step.form, tail.places))
            if step.kind == "load"
            else step
            for step in self.steps
        ]
        return self._placed(form, tail.places), value

    def _placed(self, form: Form, places: Mapping[int, int]) -> Form:
        """A form over the axes of the output as one over those of the sum."""
        strides = [0] * len(self.axes)
        for axis, at in places.items():
            strides[axis] = form.strides[at]
        return Form(tuple(strides), form.offset)

    def _step(self, kind: Any, **given: Any) -> int:
        """The number of a step, which may be there already."""
        step = Step(kind, **given)
        if step not in self.steps:
            self.steps.append(step)
        return self.steps.index(step)

    # -- Indices ---------------------------------------------------------------------------------------------

    def _number(self, buffer: Any) -> int:
        for number, parameter in enumerate(self.parameters):
            if parameter.same_as(buffer):
                return number
        raise Unknown("it reads what nobody writes")

    def _form(self, index: Any) -> Form:
        return _form(index, self.axes)


class _Tail:
    """What is computed of the sums.

    Attributes:
        axes: of the output.
        places: which axis of the output each of the sum is.
    """

    def __init__(self, function: _Function, writer: _Stage) -> None:
        self.function = function
        self.axes = [axis for axis in writer.axes if axis[1] > 1]
        self.places: dict[int, int] | None = None
        self._known: dict[tuple[int, tuple[Form, ...]], int] = {}

    def form(self, index: Any) -> Form:
        return _form(index, self.axes)

    def value(self, expression: Any) -> int:
        """The number of the step that has the value of an expression."""
        from tvm import ir, tirx

        step = self.function._step
        if isinstance(expression, tirx.FloatImm) and str(expression.ty.dtype) == FLOAT:
            return step("constant", value=float(expression.value))
        if isinstance(expression, ir.TensorLoad):
            return self._load(expression)
        if choice := _choice(expression):
            return self._call("select", *choice)
        if (name := epilogues.OPERATORS.get(type(expression).__name__)) is not None:
            a, b = (expression.a, None) if name == "not" else (expression.a, expression.b)
            if name not in epilogues.LOGIC:
                self._check(a)
            return self._call(name, a, *([] if b is None else [b]))
        name = operator_of(expression).removeprefix("tirx.")
        if name in epilogues.FUNCTIONS:
            self._check(expression)
            if self.function.fast and f"tirx.{name}" in fast_math.REPLACED:
                return self._fast(name, expression)
            return self._call(name, *expression.args)
        raise Unknown(f"it ends in {name or type(expression).__name__}, which no template knows")

    def _fast(self, name: str, call: Any) -> int:
        """As :mod:`.fast_math` has it."""
        if name == "pow":
            count = fast_math.small_whole(call.args[1])
            if count:
                return self._call(f"fast_pow{count}", call.args[0])
        if f"fast_{name}" not in epilogues.FAST:
            raise Unknown(f"it ends in {name}, which no template knows")
        return self._call(f"fast_{name}", *call.args)

    def _check(self, expression: Any) -> None:
        if str(expression.ty.dtype) != FLOAT:
            raise Unknown(f"it ends in arithmetic of {expression.ty.dtype}")

    def _call(self, name: str, *arguments: Any) -> int:
        numbers = tuple(self.value(each) for each in arguments)
        steps = self.function.steps
        if self.function.fast and name in ("add", "div"):
            name, numbers = self._simplified(name, numbers, steps)
        return self.function._step("call", name=name, arguments=numbers)

    def _simplified(
        self, name: str, numbers: tuple[int, ...], steps: Sequence[Step]
    ) -> tuple[str, tuple[int, ...]]:
        """1 + erf in one, and a product for a quotient, as :mod:`.fast_math` has them."""
        for one, other in (numbers, numbers[::-1]):
            constant, rest = steps[one], steps[other]
            if constant.kind != "constant":
                continue
            if name == "add" and constant.value == 1.0 and rest.name == "fast_erf":
                return "fast_one_plus_erf", rest.arguments
            inverse = fast_math.TINY <= abs(constant.value) <= 1 / fast_math.TINY
            if name == "div" and one == numbers[1] and inverse:
                return "mul", (
                    other,
                    self.function._step("constant", value=vector_code.single(1 / constant.value)),
                )
        return name, numbers

    def _load(self, load: Any) -> int:
        forms = tuple(self.form(index) for index in load.indices)
        key = hash(load.source), forms
        if key not in self._known:
            self._known[key] = self._loaded(load, forms)
        return self._known[key]

    def _loaded(self, load: Any, forms: tuple[Form, ...]) -> int:
        function = self.function
        stage = function.writers.get(hash(load.source))
        if stage is None:
            number = function._number(load.source)
            if function.arguments[number].dtype != FLOAT:
                raise Unknown(f"it ends in arithmetic of {function.arguments[number].dtype}")
            shape = function.arguments[number].shape
            for form, length in zip(forms, shape, strict=True):
                least, most = _range(form, self.axes)
                if least < 0 or most >= length:
                    raise Unknown("it ends in reading a tensor beyond its ends")
            return function._step("load", parameter=number, form=_combined(forms, shape))
        if not stage.sums:
            return self.value(_inlined(stage, load.indices))
        places = self._places(stage, forms)
        if self.places not in (None, places):
            raise Unknown("its sums are used in several places")
        self.places = places
        return function._step("acc")

    def _places(self, stage: _Stage, forms: tuple[Form, ...]) -> dict[int, int]:
        """Which axis of the output each of the sum is, where the sum is read at these places."""
        places: dict[int, int] = {}
        for index, form in zip(stage.store.indices, forms, strict=True):
            own = self.function._form(index)
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
            if self.function.axes[axis][1] != self.axes[at][1]:
                raise Unknown("its result has other elements than its sums")
        return places


def _stages(function: Any) -> list[_Stage]:
    """The blocks of a function, each in loops of its own.

    Raises:
        Unknown: it is written in another way.
    """
    from tvm import s_tir, tirx

    root = function.body
    if not isinstance(root, s_tir.SBlockRealize):
        raise Unknown("its loops are written by hand")
    body = root.block.body
    return [_stage(each) for each in (body.seq if isinstance(body, tirx.SeqStmt) else [body])]


def _stage(statement: Any) -> _Stage:
    from tvm import s_tir, tirx

    loops = []
    while isinstance(statement, tirx.For):
        loops.append(statement)
        statement = statement.body
    if not isinstance(statement, s_tir.SBlockRealize):
        raise Unknown("its loops are written by hand")
    block = statement.block
    plain = [value.same_as(loop.loop_var) for value, loop in zip(statement.iter_values, loops, strict=False)]
    if len(loops) != len(block.iter_vars) or not all(plain) or not isinstance(block.body, tirx.BufferStore):
        raise Unknown("its loops are written by hand")
    axes = []
    for each in block.iter_vars:
        if not isinstance(each.dom.extent, tirx.IntImm) or int(each.dom.min) != 0:
            raise Unknown("its shape is not constant")
        axes.append((each.var, int(each.dom.extent), each.iter_type == tirx.IterVar.CommReduce))
    sums = any(reduced for _, _, reduced in axes)
    if sums:
        first = block.init
        zero = isinstance(first, tirx.BufferStore) and isinstance(first.value, tirx.FloatImm)
        if not zero or float(first.value.value) != 0.0:
            raise Unknown("it reduces in another way than by a sum from zero")
    return _Stage(axes, block.body, sums)


def _choice(expression: Any) -> tuple[Any, Any, Any] | None:
    """Condition, value where it holds, and where not."""
    from tvm import tirx

    if isinstance(expression, tirx.Select):
        return expression.condition, expression.true_value, expression.false_value
    if operator_of(expression) in CHOICES:
        condition, one, other = expression.args
        return condition, one, other
    return None


def _inlined(stage: _Stage, indices: Sequence[Any]) -> Any:
    """What a stage writes at these indices."""
    import tvm
    import tvm_ffi

    places = {}
    for own, index in zip(stage.store.indices, indices, strict=True):
        if isinstance(own, tvm.ir.Var):
            places[hash(own)] = index
        elif not isinstance(own, tvm.tirx.IntImm) or int(own.value) != 0:
            raise Unknown("a tensor is written in an unusual order")
    for variable, extent, _ in stage.axes:
        if hash(variable) not in places and extent > 1:
            raise Unknown("a tensor is written in an unusual order")
    return tvm_ffi.structural_map(stage.store.value, (tvm.ir.Var, lambda each: places.get(hash(each), each)))


def _form(index: Any, axes: Sequence[tuple[Any, int, bool]]) -> Form:
    """An index as multiples of axes.

    Raises:
        Unknown: it is none.
    """
    import tvm
    from tvm import tirx

    none = (0,) * len(axes)
    if isinstance(index, tirx.IntImm):
        return Form(none, int(index.value))
    if isinstance(index, tvm.ir.Var):
        for number, (variable, _, _) in enumerate(axes):
            if variable.same_as(index):
                return Form(tuple(int(axis == number) for axis in range(len(axes))))
        return Form(none)  # of one element
    if isinstance(index, tirx.Add | tirx.Sub):
        one, other = _form(index.a, axes), _form(index.b, axes)
        return _sum(one, other, 1 if isinstance(index, tirx.Add) else -1)
    if isinstance(index, tirx.Mul):
        one, other = _form(index.a, axes), _form(index.b, axes)
        if any(one.strides):
            one, other = other, one
        if not any(one.strides):
            return Form(tuple(one.offset * stride for stride in other.strides), one.offset * other.offset)
    raise Unknown("an index is no sum of multiples of axes")


def _sum(one: Form, other: Form, factor: int, more: int = 0) -> Form:
    strides = tuple(a + factor * b for a, b in zip(one.strides, other.strides, strict=True))
    return Form(strides, one.offset + factor * other.offset + more)


def _combined(forms: Sequence[Form], shape: Sequence[int]) -> Form:
    """Where an element lies, from its indices."""
    strides, offset, step = [0] * len(forms[0].strides) if forms else [], 0, 1
    for form, length in zip(reversed(forms), reversed(shape), strict=True):
        strides = [total + step * stride for total, stride in zip(strides, form.strides, strict=True)]
        offset += step * form.offset
        step *= length
    return Form(tuple(strides), offset)


def _range(form: Form, axes: Sequence[tuple[Any, int, bool]]) -> tuple[int, int]:
    """The least and the largest value."""
    ends = [stride * (extent - 1) for stride, (_, extent, _) in zip(form.strides, axes, strict=True)]
    return form.offset + sum(min(end, 0) for end in ends), form.offset + sum(max(end, 0) for end in ends)
