"""Whether a model computes, once TVM has read it, what its own framework does.

What comes of it goes with the job: valid inputs, what the model should make of them, and how far rounding may
move each element of that. ``validate`` compares the tuned model with the same.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from msgspec import Struct

from tunemesh.shared.errors import BadModel
from tunemesh.shared.messages import Judgement, OutputCheck
from tunemesh.shared.messages.results import furthest
from tunemesh.stage_workers.frontends import Source
from tunemesh.stage_workers.graph import compilation, fast_math, models, optimisation, targets, workloads
from tunemesh.stage_workers.graph.changes import NONE
from tunemesh.stage_workers.graph.errors import first_line, reraise_memory_error
from tunemesh.stage_workers.graph.optimisation import Simplified
from tunemesh.stage_workers.graph.signatures import Signature
from tunemesh.stage_workers.measuring import comparison, inputs, judges, loading, ranges
from tunemesh.stage_workers.measuring.comparison import Array, Expected, Found
from tunemesh.stage_workers.measuring.judges import Judge, NoJudge
from tunemesh.stage_workers.measuring.ranges import Range
from tunemesh.stage_workers.platforms.protocol import ImportCall

CHANGING = 20.0
"""Seconds that the runs may take which find out how far rounding moves the outputs; where they would take
longer there are only two of them."""
SPREAD = 1 / 16
"""See :func:`.comparison.changed`: of inputs that are random, where no judge changes more than these."""
HELD = 2.0**-10
"""Of what is usual for an output, a float that may be off by less is held where it is."""
MOVED_CONSTANTS = 2
"""Elements from which a constant of a model without a judge is changed, too."""

PACKED = frozenset({"int4", "uint4", "int2", "uint2", "float4_e2m1fn"})
"""Dtypes of which several elements share a byte: no array of NumPy is laid out like that."""

Tensors = Sequence[tuple[str, tuple[int, ...], str]]


class _Stored(Struct, frozen=True):
    dtype: str
    shape: tuple[int, ...]
    data: bytes


class Sample(Struct, frozen=True, kw_only=True):
    """Inputs of one variant of a model, and what it should make of them.

    Attributes:
        inputs: in the order of the model.
        values: the outputs.
        tolerances: of their elements.
        judgement: by whom, and how the first model of TVM's that was right compares.
    """

    inputs: list[_Stored]
    values: list[_Stored]
    tolerances: list[_Stored]
    judgement: Judgement

    def arrays(self) -> list[Array]:
        """The inputs."""
        return [_loaded(each) for each in self.inputs]

    def widened(self, factor: float) -> Sample:
        """The same with tolerances that are so many times as large.

        A float that no rounding of single precision moves, such as one that ReLU holds at 0, may be moved by
        larger ones: it gets what is usual for its output.
        """
        if factor == 1.0:
            return self
        wider = [
            _store(_widened(_loaded(tolerance), factor, comparison.is_float(str(_loaded(values).dtype))))
            for values, tolerance in zip(self.values, self.tolerances, strict=True)
        ]
        return msgspec.structs.replace(self, tolerances=wider)

    def compared(self, outputs: list[OutputCheck]) -> Sample:
        """The same once a model's outputs were found to agree; nothing is said of them without a judge."""
        judged = msgspec.structs.replace(self.judgement, outputs=outputs if self.judgement.judge else [])
        return msgspec.structs.replace(self, judgement=judged)

    def expected(self) -> list[Expected]:
        """The outputs, with their tolerances."""
        return [
            Expected(_loaded(values), _loaded(tolerance).astype(np.float64))
            for values, tolerance in zip(self.values, self.tolerances, strict=True)
        ]


def _widened(tolerance: Array, factor: float, moves: bool) -> Array:
    wide = tolerance.astype(np.float64)
    known = wide[np.isfinite(wide)]
    if moves and known.size:
        usual = math.sqrt(np.square(known).mean())
        wide = np.where(wide < HELD * usual, usual, wide)
    return (factor * wide).astype(tolerance.dtype)


def pack(samples: Sequence[Sample]) -> bytes:
    """The bytes of the samples of all variants."""
    return msgspec.msgpack.encode(list(samples))


def unpack(data: bytes) -> list[Sample]:
    """The samples of :func:`pack`'s bytes."""
    return msgspec.msgpack.decode(data, type=list[Sample])


def _store(array: Array) -> _Stored:
    return _Stored(str(array.dtype), array.shape, np.ascontiguousarray(array).tobytes())


def _loaded(stored: _Stored) -> Array:
    return np.frombuffer(stored.data, comparison.numpy_dtype(stored.dtype)).reshape(stored.shape)


class Sampled(NamedTuple):
    """A sample, and the comparison with it of the model as it was read.

    Attributes:
        sample: its judgement has no outputs yet.
        unchanged: compiles and runs the model as it was read, without any tuning, and says how its outputs
            compare. With a framework as the judge nothing else needs it: a model that was changed and agrees
            was read right, too. It raises :class:`BadModel` where TVM cannot compile the model, or they do
            not agree.
    """

    sample: Sample
    unchanged: Callable[[], list[OutputCheck]]


def sample(source: Source, model: Simplified, call: ImportCall, number: int = 0) -> Sampled:
    """What a model should compute: its own framework says so, or else the model as it was read.

    Args:
        source: the model as it came.
        model: as it was read, its batch norms folded at most.
        call: says what the inputs may be.
        number: of its set of shapes.

    Raises:
        BadModel: nothing could be compared.
        BadInput: the inputs that the person gave do not fit.
    """
    signature = model.signature
    for each in (*signature.inputs, *signature.outputs):
        if each.dtype in PACKED:
            raise BadModel(
                f"the tensor {each.name} is {each.dtype}, which models cannot take or give: cast it"
            )
    tensors = [(each.name, tuple(each.shape), each.dtype) for each in signature.inputs]
    here = targets.here(call.target)
    lowered = optimisation.optimise(model.module, here, NONE, model.for_target(here)).module
    brought = inputs.of_set(inputs.read(call.inputs), number) if call.inputs is not None else None
    choices = _choices(lowered, tensors, call, brought)
    terms = workloads.longest_sum(models.functions(lowered))
    by, given = _given(signature, brought)
    untuned: _Untuned | None = None
    try:
        if given:
            raise NoJudge("its outputs came with the inputs")
        judge = judges.judge(source)
        reference = _by_judge(judge, tensors, choices, terms)
    except NoJudge as error:
        untuned = compiled = _Untuned(lowered, here, with_constants=True)
        made_up = brought is None
        reference = _reference(
            compiled.run, lambda arrays, pairs: compiled.moved(arrays, pairs, made_up), choices, terms
        )
        who, reason = "the model", str(error)
        if given:
            # How far rounding moves them, only the model can tell.
            pairs = zip(given, reference.expected, strict=True)
            reference = reference._replace(expected=[Expected(one, own.tolerance) for one, own in pairs])
            who, reason = by, ""
    else:
        who, reason = judge.name, ""

    def unchanged() -> list[OutputCheck]:
        run = (untuned or _Untuned(lowered, here, with_constants=False)).run
        names = [each.name for each in signature.outputs]
        found = agreements(names, run(reference.arrays), reference.expected, who)
        if wrong := first_wrong(found):
            advice = "; give others with --inputs or --range" if comparison.NOTHING in wrong else ""
            said = wrong if advice else f"TVM does not compute what the model says: {wrong}"
            raise BadModel(f"{said}{advice}")
        return told(found)

    return Sampled(
        Sample(
            inputs=[_store(each) for each in reference.arrays],
            values=[_store(each.values) for each in reference.expected],
            tolerances=[_store(each.tolerance.astype(_compact(each.values))) for each in reference.expected],
            judgement=Judgement(judge="" if reason else who, reason=reason, inputs=reference.inputs),
        ),
        unchanged,
    )


class _Reference(NamedTuple):
    """What the outputs should be.

    Attributes:
        inputs: for which inputs, in words.
        arrays: these.
        expected: the outputs.
    """

    inputs: str
    arrays: list[Array]
    expected: list[Expected]


def _by_judge(
    judge: Judge, tensors: Tensors, choices: list[tuple[str, list[Array]]], terms: int
) -> _Reference:
    """What the judge says.

    Raises:
        NoJudge: it cannot run the model.
    """

    def named(arrays: Sequence[Array]) -> dict[str, Array]:
        return {name: array for (name, _, _), array in zip(tensors, arrays, strict=True)}

    try:
        return _reference(
            lambda arrays: judge.run(named(arrays)),
            lambda arrays, pairs: judge.moved(named(arrays), pairs),
            choices,
            terms,
            judge.steps,
            judge.rounds,
        )
    except Exception as error:  # frameworks raise what they like
        reraise_memory_error(error)
        raise NoJudge(f"{judge.name} cannot run it: {first_line(error)}") from None


def _reference(
    run: Callable[[Sequence[Array]], list[Array]],
    moved: Callable[[Sequence[Array], int], list[list[Array]]],
    choices: list[tuple[str, list[Array]]],
    terms: int,
    steps: int = 0,
    rounds: bool = False,
) -> _Reference:
    """The first choice of inputs for which every output has something to compare, or else the last one, and
    what comes out for it."""
    for described, arrays in choices:  # noqa: B007
        began = time.perf_counter()
        values = run(arrays)
        seconds = time.perf_counter() - began
        if all(map(comparison.tells, values)):
            break
    # Where elements help each other out, few changes say enough.
    wanted = comparison.PAIRS if rounds else comparison.MODEL_PAIRS
    pairs = wanted if 2 * wanted * seconds <= CHANGING else 1
    changed = moved(arrays, pairs)
    expected = [
        comparison.expected(
            each, [outputs[number] for outputs in changed], rounds or pairs == 1, steps, terms
        )
        for number, each in enumerate(values)
    ]
    return _Reference(described, arrays, expected)


def made_up(signature: Signature) -> list[Array]:
    """Inputs of a model of which nothing else is known: random floats, integers of zero."""
    tensors = [(each.name, tuple(each.shape), each.dtype) for each in signature.inputs]
    return inputs.random(tensors, 0, {name: (0, 1) for name, _, dtype in tensors if "int" in dtype})


def agreements(
    names: Sequence[str], got: Sequence[Array], expected: Sequence[Expected], who: str
) -> list[Found]:
    """How each output compares with what it should be."""
    return [
        comparison.agree(name, values, wanted, who)
        for name, values, wanted in zip(names, got, expected, strict=True)
    ]


def first_wrong(found: Sequence[Found]) -> str:
    """What is wrong with the first output that is, in one line; empty where none is."""
    return next((each.wrong for each in found if each.wrong), "")


def told(found: Sequence[Found]) -> list[OutputCheck]:
    """Those that a message has room for: the furthest off."""
    return furthest([each.check for each in found])


def _compact(values: Array) -> type[np.floating[Any]]:
    """A dtype for the tolerances of an output."""
    return np.float64 if values.dtype.itemsize > 4 else np.float32


def _given(signature: Signature, brought: Mapping[str, Array] | None) -> tuple[str, list[Array]]:
    """The outputs that came with the inputs, and who computed them."""
    if brought is None:
        return "", []
    tensors = [(each.name, tuple(each.shape), each.dtype) for each in signature.outputs]
    return inputs.expected(brought, tensors)


def _choices(
    lowered: Any, tensors: Tensors, call: ImportCall, brought: Mapping[str, Array] | None
) -> list[tuple[str, list[Array]]]:
    """Inputs to try until something comes out that can be compared, and what they are."""
    inputs.check_ranges(tensors, call.ranges)
    if brought is not None:
        return [("those of the person", inputs.fitting(brought, tensors))]
    found: dict[str, Range] = ranges.of_model(lowered, [(name, dtype) for name, _, dtype in tensors])
    within: Mapping[str, Range] = {**found, **call.ranges}
    described = "".join(f", {name} in [{least:g}, {above:g})" for name, (least, above) in within.items())
    made = []
    for floats in (inputs.SIGNED, inputs.POSITIVE, inputs.ABOVE_ONE):
        text = f"random, floats in [{floats[0]:g}, {floats[1]:g}){described}"
        made.append((text, inputs.random(tensors, call.seed, within, floats)))
    return made


class _Untuned:
    """The untuned model on this machine's CPU, loaded.

    Args:
        with_constants: its constants can be changed, too.

    Raises:
        BadModel: it cannot be compiled.
    """

    def __init__(self, lowered: Any, target: str, with_constants: bool) -> None:
        self._constants: list[Array] = []
        self._unsure: Any = None
        if with_constants:
            lowered, self._constants = _lifted(lowered)
        try:
            self._main = compilation.main_of(lowered, target)
            marked = fast_math.mark(lowered, target)
            if with_constants and any(map(fast_math.is_marked, models.functions(marked))):
                self._unsure = compilation.main_of(fast_math.unsure(marked), target)
        except Exception as error:  # whatever TVM or LLVM raise
            reraise_memory_error(error)
            raise BadModel(f"TVM cannot compile the model: {first_line(error)}") from None

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """The outputs."""
        return self._run(self._main, [*arrays, *self._constants])

    def moved(self, arrays: Sequence[Array], pairs: int, made_up: bool) -> list[list[Array]]:
        """The outputs after each of ``pairs`` random changes of inputs and constants, and their opposites,
        and when exp and the like are a little off.

        Args:
            made_up: the inputs are random.
        """
        found = [
            self._run(
                self._main,
                comparison.changed(arrays, number, up, SPREAD if made_up else 0.0)
                + comparison.changed(self._constants, -number % 2**31, up),
            )
            for number in range(1, pairs + 1)
            for up in (True, False)
        ]
        if self._unsure is not None:
            found.append(self._run(self._unsure, [*arrays, *self._constants]))
        return found

    def _run(self, main: Any, arrays: Sequence[Array]) -> list[Array]:
        import tvm

        return loading.flatten(main(*map(tvm.runtime.tensor, arrays)))


def _lifted(module: Any) -> tuple[Any, list[Array]]:
    """A module whose ``main`` takes the floats among its constants as further inputs, and these."""
    from tvm import relax

    constants: dict[int, tuple[Any, Array]] = {}

    @relax.expr_functor.mutator
    class Lifting(relax.PyExprMutator):  # type: ignore[misc]
        def visit_generic_const_(self, constant: Any) -> Any:
            array = constant.value.numpy()
            if not comparison.is_float(str(array.dtype)) or array.size < MOVED_CONSTANTS:
                return constant
            if hash(constant) not in constants:
                kind = relax.TensorType(array.shape, str(constant.value.dtype))
                variable = relax.Var(f"constant{len(constants)}", kind)
                constants[hash(constant)] = (variable, array)
            return constants[hash(constant)][0]

    main = module["main"]
    body = Lifting(module).visit_expr(main.body)
    parameters = [*main.params, *(variable for variable, _ in constants.values())]
    changed = module.clone()
    variable = module.get_global_var("main")
    changed[variable] = relax.Function(parameters, body, main.ret_ty, main.is_pure).with_attr(
        "global_symbol", "main"
    )
    return changed, [array for _, array in constants.values()]
