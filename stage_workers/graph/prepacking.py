"""Weights in the order that a schedule reads them in.

MetaSchedule writes such a schedule as one function, which first copies each weight into that order. Here the
copies become functions of their own, which run once: before a kernel is timed, and when a model is put
together. So what is measured is what runs, and the model holds the weights in that order only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tunemesh.shared.errors import JobFailed
from tunemesh.stage_workers.engines.protocol import ObjectPart, TirPart, elements_name, prepack_name
from tunemesh.stage_workers.graph import compilation, linking, packing, targets, workloads
from tunemesh.stage_workers.graph.rewriting import is_call_of_tir, rewritten
from tunemesh.stage_workers.measuring import loading
from tunemesh.stage_workers.platforms.protocol import TunedTask

MAIN = "main"


def split(given: Any) -> Any:
    """The module of a scheduled workload with its copies of weights as functions of their own, called as
    :func:`.prepack_name` says. Its ``main`` takes the weights as they left them.

    Raises:
        ValueError: a weight that was packed has not the elements that it had.
        RuntimeError: TVM cannot tell the copies from the rest.
    """
    from tvm import relax

    function = given[MAIN]
    if not workloads.weights_of(function):
        return given
    module = relax.transform.SplitLayoutRewritePreproc()(_calling(function))
    calls = [binding.value for binding in module[MAIN].body.blocks[0].bindings]
    calls = [call for call in calls if is_call_of_tir(call)]
    if len(calls) == 1:
        return given
    copying, computing = calls
    functions = {MAIN: module[computing.args[0]]}
    numbers = {hash(parameter): number for number, parameter in enumerate(module[MAIN].params)}
    copies = _one_by_one(module[copying.args[0]])
    for weight, copy in zip(copying.args[1].fields, copies, strict=True):
        functions[prepack_name(numbers[hash(weight)])] = copy
    return _module(functions)


def _calling(function: Any) -> Any:
    """A Relax module that calls a function of TIR, with a parameter for each tensor that it reads."""
    from tvm import relax

    arguments = workloads.arguments(function)
    builder = relax.BlockBuilder()
    variable = builder.add_func(function, "kernel")
    given, results = [], []
    for argument in arguments:
        ty = relax.TensorType(argument.shape, argument.dtype)
        if argument.output:
            results.append(ty)
        else:
            given.append(relax.Var(argument.name, ty))
    with builder.function(MAIN, given):
        with builder.dataflow():
            computed = builder.emit_output(relax.call_tir(variable, given, results))
        builder.emit_func_output(computed)
    return builder.get()


def _one_by_one(copying: Any) -> list[Any]:
    """The functions that copy one weight each, from one that copies several: it takes all weights, and then
    what they are copied to."""
    from tvm import tirx
    from tvm.s_tir import SBlock, SBlockRealize

    body = copying.body.block.body
    copies = list(body.seq) if isinstance(body, tirx.SeqStmt) else [body]
    parameters = list(copying.params)
    sources, results = parameters[: len(copies)], parameters[len(copies) :]
    found = []
    for source, result, copy in zip(sources, results, copies, strict=True):
        before, after = ([int(length) for length in each.shape] for each in (source, result))
        if math.prod(before) != math.prod(after):
            raise ValueError(f"a weight of shape {before} was packed into {after}, which has other elements")
        root = SBlockRealize([], True, SBlock([], [], [], "root", copy))
        found.append(tirx.PrimFunc([source, result], root, attrs=copying.attrs))
    return found


def _module(functions: Mapping[str, Any]) -> Any:
    """A module whose functions are called so from outside, too."""
    import tvm

    return tvm.IRModule({name: each.with_attr("global_symbol", name) for name, each in functions.items()})


def scheduled(function: Any, part: TirPart) -> Any:
    """``function`` as ``part`` has scheduled it, with its own attributes."""
    made = workloads.load(part.module)[MAIN]
    for name in set(made.attrs.keys()) - set(function.attrs.keys()):
        made = made.without_attr(name)
    for name, value in function.attrs.items():
        if name != workloads.WEIGHTS:  # they have their order
            made = made.with_attr(name, value)
    return made.with_attr(workloads.SCHEDULED, True)


def applied(module: Any, tasks: Mapping[Any, TunedTask], scheduled: Mapping[Any, Any], target: str) -> Any:
    """``module`` with scheduled functions, and the weights of tuned tasks in the order that their parts read
    them in.

    Args:
        module: a model, as :func:`.packing.mark` left it.
        tasks: by the function that each is.
        scheduled: the new functions of those whose parts are functions, too.
        target: canonical.

    Raises:
        JobFailed: a part packs what is no weight.
    """
    import tvm
    import tvm_ffi
    from tvm import relax

    packers = {name: _Packer(task, target) for name, task in tasks.items()}
    builder, replaced = relax.BlockBuilder(module), {}
    for name, function in scheduled.items():
        if packers[name].numbers:  # it takes other shapes, and so needs a variable of another type
            replaced[name] = builder.add_func(function, str(name.name_hint))
        else:
            builder.update_func(name, function)
    # Several calls may share a weight.
    known: dict[tuple[str, int, Any], Any] = {}

    def packed(call: Any) -> Any:
        packer = packers.get(call.args[0]) if is_call_of_tir(call) else None
        if packer is None or not packer.numbers:
            return call
        arguments = list(call.args[1].fields)
        for number in packer.numbers:
            weight = arguments[number]
            key = (packer.task.symbol, number, weight.value)
            if key not in known:
                known[key] = relax.const(packer.packed(number, weight.value))
            arguments[number] = known[key]
        return packing.with_arguments(call, replaced.get(call.args[0], call.args[0]), arguments)

    changed = rewritten(builder.get(), lambda each: tvm_ffi.structural_map(each, (tvm.ir.Call, packed)))
    for name in replaced:
        del changed[name]
    return changed


class _Packer:
    """What puts the weights of a task into order: the functions of its part, compiled for this machine."""

    def __init__(self, task: TunedTask, target: str) -> None:
        self.task = task
        self.numbers: list[int] = []
        self._shapes: dict[int, Sequence[int]] = {}
        part, function = task.part, workloads.load(task.workload)[MAIN]
        weights = workloads.weights_of(function)
        if isinstance(part, TirPart):
            module = workloads.load(part.module)
            self.numbers = [number for number in weights if prepack_name(number) in module]
            names = [prepack_name(number) for number in self.numbers]
            self._shapes = {number: _shape(module[MAIN].params[number]) for number in self.numbers}
            if names:
                copies = _module({name: module[name] for name in names})
                # They run here, whatever the target.
                library = compilation.build_candidate(copies, targets.here(target))
        else:
            self.numbers = sorted(part.packs)
            if foreign := set(self.numbers) - set(weights):
                raise JobFailed(f"an engine packs parameter {min(foreign)} of a task, which is no weight")
            names = [f"{task.symbol}_{prepack_name(number)}" for number in self.numbers]
            if names:
                library = linking.link_objects([part.code])
        if names:
            self._library = loading.load(library)
        if isinstance(part, ObjectPart):
            self._shapes = {
                number: loading.packed_shape(
                    self._library, f"{task.symbol}_{elements_name(number)}", function.params[number].shape
                )
                for number in self.numbers
            }
        self._names = dict(zip(self.numbers, names, strict=True))

    def packed(self, number: int, weight: Any) -> Any:
        """The tensor ``weight`` in the order in which parameter ``number`` is read."""
        import tvm

        made = tvm.runtime.empty(self._shapes[number], weight.dtype)
        self._library[self._names[number]](weight, made)
        return made


def _shape(parameter: Any) -> list[int]:
    return [int(length) for length in parameter.shape]
