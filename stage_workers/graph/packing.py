"""Which weights of a model a schedule may put into an order of its own.

A weight is a constant that a reduction multiplies with something else: of a convolution, a matrix product,
the products of Winograd's algorithm. Its function says so by an attribute that MetaSchedule knows, too
(:data:`.workloads.WEIGHTS`), so that a product of two activations and one with a weight are two tasks. What a
schedule makes of it is the matter of :mod:`prepacking`.

The model must not grow by this: a constant that several tasks read would be there once for each. Unless the
person wants that, such a constant keeps its order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from tunemesh.stage_workers.graph import targets, variants, weights, workloads
from tunemesh.stage_workers.graph.options import Packing
from tunemesh.stage_workers.graph.rewriting import is_call_of_tir, is_constant, rewritten

Place = tuple[Any, tuple[int, ...], int]
"""Where a constant is read: by which function, with weights as which of its parameters, and as which one. The
same place is the same task, and so the same order."""
ELSEWHERE: Place = (None, (), 0)
"""By something that is no call of a function of TIR."""


def mark(module: Any, target: str, how: Packing) -> Any:
    """``module`` whose functions say which of their parameters are weights that may be packed.

    Args:
        module: all variants of an optimised model, joined.
        target: canonical. Only a CPU's weights are packed.
        how: what the person wants.
    """
    if how == "given" or targets.is_gpu(target):
        return module
    import tvm
    import tvm_ffi
    from tvm import relax

    factors = _factors(module)
    places = _places(module, factors)

    def chosen(call: Any) -> tuple[int, ...]:
        return tuple(
            number
            for number in _weights_of(call, factors)
            if how == "packed-per-task" or len(places[call.args[1].fields[number].value]) == 1
        )

    builder = relax.BlockBuilder(module)
    functions: dict[tuple[Any, tuple[int, ...]], Any] = {}
    for name, found in _by_function(module, chosen).items():
        for weighted in filter(None, found):
            function = module[name].with_attr(workloads.WEIGHTS, list(weighted))
            if len(found) == 1:
                builder.update_func(name, function)
                functions[name, weighted] = name
            else:
                # With the other's name it would differ from the same function of another model.
                plain = function.without_attr("global_symbol")
                functions[name, weighted] = builder.add_func(plain, str(name.name_hint))

    def marked(call: Any) -> Any:
        if not is_call_of_tir(call):
            return call
        function = functions.get((call.args[0], chosen(call)), call.args[0])
        return with_arguments(call, function, call.args[1].fields)

    changed = rewritten(builder.get(), lambda each: tvm_ffi.structural_map(each, (tvm.ir.Call, marked)))
    return relax.transform.DeadCodeElimination(variants.entries_of(changed))(changed)


def with_arguments(call: Any, function: Any, arguments: Sequence[Any]) -> Any:
    """``call`` of a function of TIR with another function, and other arguments."""
    import tvm
    from tvm import relax

    given = [function, relax.Tuple(list(arguments)), *call.args[2:]]
    return tvm.ir.Call(call.op, given, call.attrs, call.ty_args, call.span, ret_ty=call.ty)


def _weights_of(call: Any, factors: dict[Any, list[int]]) -> list[int]:
    """Which arguments of a call are weights."""
    arguments = call.args[1].fields
    return [
        number
        for number in factors.get(call.args[0], [])
        if is_constant(arguments[number]) and weights.size(arguments[number].value) >= weights.LEAST
    ]


def _places(module: Any, factors: dict[Any, list[int]]) -> dict[Any, set[Place]]:
    """Where each constant is read, by its tensor."""
    import tvm
    import tvm_ffi
    from tvm import relax

    found: dict[Any, set[Place]] = defaultdict(set)

    def elsewhere(expression: Any) -> None:
        def constant(each: Any) -> None:
            if is_constant(each):
                found[each.value].add(ELSEWHERE)

        tvm_ffi.structural_walk(expression, (tvm.ir.GenericConst, constant))

    def bound(binding: Any) -> None:
        call = binding.value
        if not is_call_of_tir(call):
            elsewhere(call)
            return
        at = tuple(_weights_of(call, factors))
        for number, each in enumerate(call.args[1].fields):
            if is_constant(each):
                found[each.value].add((call.args[0], at, number))

    def result(sequence: Any) -> None:
        elsewhere(sequence.body)

    for function in _relax_functions(module):
        tvm_ffi.structural_walk(function, [(relax.VarBinding, bound), (relax.SeqExpr, result)])
    return found


def _by_function(module: Any, chosen: Callable[[Any], tuple[int, ...]]) -> dict[Any, set[tuple[int, ...]]]:
    """What is chosen for the calls of each function of TIR."""
    found: dict[Any, set[tuple[int, ...]]] = defaultdict(set)
    for call in _calls(module):
        found[call.args[0]].add(chosen(call))
    return found


def _calls(module: Any) -> list[Any]:
    """All calls of functions of TIR."""
    import tvm
    import tvm_ffi

    found: list[Any] = []
    for function in _relax_functions(module):
        tvm_ffi.structural_walk(function, (tvm.ir.Call, found.append))
    return [call for call in found if is_call_of_tir(call)]


def _relax_functions(module: Any) -> list[Any]:
    from tvm import relax

    return [each for _, each in module.functions_items() if isinstance(each, relax.Function)]


def _factors(module: Any) -> dict[Any, list[int]]:
    """Of every function of TIR that is to be tuned, the parameters that a reduction multiplies."""
    import tvm

    return {
        name: _factors_of(function)
        for name, function in module.functions_items()
        if isinstance(function, tvm.tirx.PrimFunc) and not workloads.is_scheduled(function)
    }


def _factors_of(function: Any) -> list[int]:
    """The parameters that are read in one place, and there a sum of products."""
    import tvm
    import tvm_ffi
    from tvm.s_tir import SBlock

    read: dict[int, int] = defaultdict(int)
    multiplied: set[int] = set()
    written: set[int] = set()
    numbers = {hash(parameter): number for number, parameter in enumerate(function.params)}

    def load(each: Any) -> None:
        if (number := numbers.get(hash(each.source))) is not None:
            read[number] += 1

    def block(each: Any) -> None:
        # A product over an axis reads what it writes.
        written.update(numbers[hash(to.source)] for to in each.writes if hash(to.source) in numbers)
        if any(axis.iter_type == tvm.tirx.IterVar.CommReduce for axis in each.iter_vars):
            tvm_ffi.structural_walk(each.body, (tvm.tirx.Mul, product))

    def product(each: Any) -> None:
        tvm_ffi.structural_walk(each, (tvm.ir.TensorLoad, factor))

    def factor(each: Any) -> None:
        if (number := numbers.get(hash(each.source))) is not None:
            multiplied.add(number)

    tvm_ffi.structural_walk(function.body, [(tvm.ir.TensorLoad, load), (SBlock, block)])
    return sorted(number for number in multiplied - written if read[number] == 1)
