"""Which values the integer inputs of a model or a kernel may have.

An integer may be a row of a table, the size of something, a divisor. What it may be follows from every use of
it, so the functions of TIR that a model was lowered to are run over intervals instead of numbers: forward,
from the inputs through casts, sums and selections to the indices and divisors. An interval of an input is
valid when nothing leaves its bounds that stayed inside for a single value; the widest one is found by
bisection. What is out of bounds for a single value, too (a guarded load of a padding), is left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tunemesh.stage_workers.graph import workloads
from tunemesh.stage_workers.measuring.intervals import Interval, Known, Walk

Range = tuple[float, float]
"""Half-open: from, and up to but not including."""

BASES = (0, 1, 2, -1)
"""Values from which an interval is widened: the first with which least goes wrong."""
WIDEST = 2**31 - 2
"""The largest value of an input that nothing bounds, as far as is looked."""
BYTES = {"int8": (-128, 128), "uint8": (0, 256), "int16": (-128, 128), "uint16": (0, 256)}
"""Data, where nothing bounds them: of quantised models, and sounds."""
MASK = (0, 2)
"""Where they are only compared or turned into floats: masks, flags."""
NUMBER = (-8, 8)
"""Where they are computed with."""


def of_kernel(function: Any, inputs: Sequence[tuple[str, str]]) -> dict[str, Range]:
    """Ranges of the integers among the inputs (name and dtype) of a TIR function, by name."""
    parameters = [argument.name for argument in workloads.arguments(function)]

    def run(intervals: Mapping[str, Interval]) -> Walk:
        walk = Walk()
        walk.function(function, [intervals.get(name) for name in parameters])
        return walk

    return _search(run, inputs)


def of_model(module: Any, inputs: Sequence[tuple[str, str]]) -> dict[str, Range]:
    """Ranges of the integers among the inputs (name and dtype, in order) of a lowered Relax module, by
    name."""
    import tvm

    main = module["main"]
    bindings = [binding for block in main.body.blocks for binding in block.bindings]

    def run(intervals: Mapping[str, Interval]) -> Walk:
        walk = Walk()
        known: dict[int, list[Known]] = {
            hash(parameter): [intervals.get(name)]
            for parameter, (name, _) in zip(main.params, inputs, strict=True)
        }
        for binding in bindings:
            value = getattr(binding, "value", None)
            known[hash(binding.var)] = _bound(module, value, known, walk, tvm)
        return walk

    return _search(run, inputs)


def _bound(module: Any, value: Any, known: dict[int, list[Known]], walk: Walk, tvm: Any) -> list[Known]:
    """What is known of each tensor that a binding of Relax has as its value."""
    if isinstance(value, tvm.relax.Var):
        return known.get(hash(value), [None])
    if isinstance(value, tvm.relax.TupleGetItem):
        fields = known.get(hash(value.tuple_value), [])
        return [fields[value.index]] if value.index < len(fields) else [None]
    if getattr(getattr(value, "op", None), "name", "") != "relax.call_tir":
        return [None]
    arguments = [_argument(each, known, tvm) for each in value.args[1].fields]
    # Only what follows from an input can change: the rest need not be looked at.
    if not any(each is not None and each.given for each in arguments):
        return [None]
    function = module[value.args[0]]
    outputs = len(function.params) - len(arguments)
    results = walk.function(function, [*arguments, *[None] * outputs])
    return results[len(arguments) :]


def _argument(value: Any, known: dict[int, list[Known]], tvm: Any) -> Known:
    if isinstance(value, tvm.ir.GenericConst):
        array = value.value.numpy()
        if array.size and array.dtype.kind in "iub":
            return Interval(int(array.min()), int(array.max()))
        return None
    return known.get(hash(value), [None])[0]


# -- The search ---------------------------------------------------------------------------------------------


def _search(
    run: Callable[[Mapping[str, Interval]], Walk], inputs: Sequence[tuple[str, str]]
) -> dict[str, Range]:
    wanted = {name: dtype for name, dtype in inputs if dtype.startswith(("int", "uint"))}
    if not wanted:
        return {}
    anything = {name: Interval(_least(dtype), _top(dtype), True, True) for name, dtype in wanted.items()}
    if not run(anything).problems:
        return _unbounded(run, wanted)
    now = {name: Interval(0, 0, True, True) for name in wanted}
    for name in wanted:
        tried = [{**now, name: Interval(base, base, True, True)} for base in BASES]
        now = min(tried, key=lambda intervals: len(run(intervals).problems))
    usual = run(now).problems
    for name, dtype in wanted.items():
        now[name] = max(
            (_widened(run, now, name, dtype, base, usual) for base in (now[name].least, 0, 1, 2)),
            key=lambda interval: interval.most - interval.least,
        )
    return {name: (interval.least, interval.most + 1) for name, interval in now.items()}


def _unbounded(run: Callable[[Mapping[str, Interval]], Walk], wanted: Mapping[str, str]) -> dict[str, Range]:
    """Ranges of integers that may have any value, as those of quantised models: it only matters how each is
    used."""
    now = {name: Interval(0, 0, True, True) for name in wanted}
    for name, dtype in wanted.items():
        uses = Walk() if dtype in BYTES else run({**now, name: Interval(0, _top(dtype), True, True)})
        now[name] = Interval(*_by_use(uses, dtype, 0), True, True)
    return {name: (interval.least, interval.most + 1) for name, interval in now.items()}


def _widened(
    run: Callable[[Mapping[str, Interval]], Walk],
    now: Mapping[str, Interval],
    name: str,
    dtype: str,
    base: int,
    usual: set[tuple[object, ...]],
) -> Interval:
    """The widest valid interval of an input from ``base`` on, where the others have those of ``now``."""

    def fits(least: int, most: int) -> bool:
        return run({**now, name: Interval(least, most, True, True)}).problems <= usual

    top = _top(dtype)
    if not fits(base, base):
        return now[name]
    if not fits(base, top):
        most = _largest_that(lambda most: fits(base, most), base, top)
        return Interval(base, most, True, True)
    uses = run({**now, name: Interval(base, top, True, True)})
    least, most = _by_use(uses, dtype, base)
    return Interval(least if fits(least, most) else base, most, True, True)


def _top(dtype: str) -> int:
    """The largest value of a dtype, as far as is looked."""
    bits = int(dtype.lstrip("uint"))
    return min(WIDEST, int(2 ** (bits - (not dtype.startswith("u")))) - 1)


def _least(dtype: str) -> int:
    """The smallest value of a dtype."""
    return 0 if dtype.startswith("u") else -int(2 ** (int(dtype.lstrip("int")) - 1))


def _largest_that(holds: Callable[[int], bool], least: int, most: int) -> int:
    """The largest number up to ``most`` for which it holds, where it holds for ``least``."""
    while least < most:
        middle = (least + most + 1) // 2
        if holds(middle):
            least = middle
        else:
            most = middle - 1
    return least


def _by_use(uses: Walk, dtype: str, base: int) -> tuple[int, int]:
    """Least and most of an input that nothing bounds."""
    if dtype in BYTES:
        least, above = BYTES[dtype]
    elif uses.reached:
        least, above = 0, min(uses.reached)
    elif uses.flags and not uses.computed:
        least, above = MASK
    else:
        least, above = NUMBER
    if dtype.startswith("u"):
        least = max(least, 0)
    return (base, max(base, above - 1)) if base > 0 else (least, above - 1)
