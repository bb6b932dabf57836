"""Arithmetic whose details TVM's operators do not have: division, powers, casts, and what attributes say."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from tunemesh.stage_workers.frontends.onnx.graph import Expansion, Graph, Node, count, unsupported

New = list[Node] | None

SAFE: dict[str, Any] = {"~safe": 1}
"""Marks a division that has been looked at."""


def _integer(graph: Graph, name: str) -> bool:
    return graph.dtype(name).kind in "iu"


def divide(node: Node, graph: Graph) -> New:
    """``Div`` by 0, and ``Div`` and ``Mod`` of integers that are not constant. A processor ends the process
    that divides by 0, or the smallest integer by -1. ONNX leaves open what comes out; here it is some
    number."""
    a, b = node.inputs
    divisor = graph.value(b)
    if divisor is not None and divisor.size == 1 and not divisor.any() and not _integer(graph, a):
        # TVM refuses to divide by a constant 0. Infinity with the sign of that 0 gives the same.
        new = Expansion(graph, node)
        infinity = np.copysign(np.inf, divisor.astype(np.float64)).astype(divisor.dtype)
        new("Mul", a, new.constant(infinity), to=node.outputs[0])
        return new.nodes
    if (
        node.attributes.pop("~safe", 0)
        or not _integer(graph, a)
        or (graph.value(a) is not None and divisor is not None)
    ):
        return None
    if divisor is not None and not np.isin(divisor, (0, -1)).any():
        return None
    dtype = graph.dtype(b)
    new = Expansion(graph, node)
    one, zero = new.constant(1, dtype), new.constant(0, dtype)
    safe = new("Where", new("Equal", b, zero), one, b)
    if dtype.kind == "u":
        new(node.op, a, safe, to=node.outputs[0], **node.attributes, **SAFE)
        return new.nodes
    negative = new("Equal", b, new.constant(-1, dtype))
    safe = new("Where", negative, one, safe)
    made = new(node.op, a, safe, **node.attributes, **SAFE)
    other = new("Sub", zero, a) if node.op == "Div" else new("Mul", zero, a)
    new("Where", negative, other, made, to=node.outputs[0])
    return new.nodes


def modulo(node: Node, graph: Graph) -> New:
    """``Mod``: of floats as C's fmod, which has the sign of the dividend, or with that of the divisor."""
    a, b = node.inputs
    if _integer(graph, a):
        return divide(node, graph)
    if node.attributes.get("fmod", 0):
        return None
    # As Python has it: fmod, and where that has the other sign the divisor is added. What fmod gives for
    # infinities is what is wanted.
    new = Expansion(graph, node)
    zero = new.constant(0, graph.dtype(a))
    rest = new("Mod", a, b, fmod=1)
    other = new("Xor", new("Less", rest, zero), new("Less", b, zero))
    other = new("And", other, new("Not", new("Equal", rest, zero)))
    new("Where", other, new("Add", rest, b), rest, to=node.outputs[0])
    return new.nodes


def power(node: Node, graph: Graph) -> New:
    """``Pow``: the result has the type of the base. Powers of integers are products where the exponent is a
    small constant, and else go through double precision."""
    base, exponent = node.inputs
    base_type, exponent_type = graph.dtype(base), graph.dtype(exponent)
    new = Expansion(graph, node)
    if base_type.kind == "f" or base_type.name == "bfloat16":
        if exponent_type == base_type:
            return None
        new("Pow", base, new.cast(exponent, base_type), to=node.outputs[0])
        return new.nodes
    known = graph.value(exponent)
    if known is not None and count(known.shape) == 1 and known.reshape(-1)[0] in range(1, 9):
        if len(known.shape) > len(graph.shape(base)):
            return None
        made = base
        for _ in range(int(known.reshape(-1)[0]) - 1):
            made = new("Mul", made, base)
        new("Identity", made, to=node.outputs[0])
        return new.nodes
    made = new("Pow", new.cast(base, np.float64), new.cast(exponent, np.float64))
    new.cast(new("Round", made), base_type, to=node.outputs[0])
    return new.nodes


def is_infinite(node: Node, graph: Graph) -> New:
    """``IsInf`` of one sign only."""
    signs = [node.attributes.pop(f"detect_{name}", 1) for name in ("negative", "positive")]
    if all(signs):
        return None
    x = node.inputs[0]
    new = Expansion(graph, node)
    if not any(signs):
        nothing = new.constant(np.zeros((), np.bool_))
        new("Expand", nothing, new.ints(*graph.shape(x)), to=node.outputs[0])
        return new.nodes
    bound = new.constant(np.inf if signs[1] else -np.inf, graph.dtype(x))
    new("Equal", x, bound, to=node.outputs[0])
    return new.nodes


def cast_like(node: Node, graph: Graph) -> New:
    """``CastLike``: ``Cast`` to a type that is known by now."""
    new = Expansion(graph, node)
    to = graph.types[node.inputs[1]].dtype
    new.several("Cast", node.inputs[:1], node.outputs, **{**node.attributes, "to": to})
    return new.nodes


def cast(node: Node, graph: Graph) -> New:
    """``Cast`` to what it is already. What else it says is about floats of 8 bits."""
    node.attributes.pop("saturate", None)
    node.attributes.pop("round_mode", None)
    if node.attributes["to"] != graph.types[node.inputs[0]].dtype:
        return None
    new = Expansion(graph, node)
    new("Identity", node.inputs[0], to=node.outputs[0])
    return new.nodes


def extreme(node: Node, graph: Graph) -> New:
    """``ReduceMax`` and ``ReduceMin`` of truth values, and of nothing at all."""
    x = node.inputs[0]
    dtype = graph.dtype(x)
    new = Expansion(graph, node)
    if dtype == np.bool_:
        made = new(node.op, new.cast(x, np.uint8), node.input(1), **node.attributes)
        new.cast(made, np.bool_, to=node.outputs[0])
        return new.nodes
    if 0 not in graph.shape(x):
        return _of_infinities(node, new, dtype)
    if dtype.kind == "f":
        value = -np.inf if node.op == "ReduceMax" else np.inf
    else:
        limits = np.iinfo(dtype)
        value = limits.min if node.op == "ReduceMax" else limits.max
    axes = graph.value(node.input(1)) if node.input(1) else None
    rank = len(graph.shape(x))
    if node.input(1) and axes is None:
        raise unsupported(node, "its axes depend on the data", "make them constant")
    gone = {int(axis) % rank for axis in axes.reshape(-1)} if axes is not None else set(range(rank))
    keep = node.attributes.get("keepdims", 1)
    shape = [1 if i in gone else size for i, size in enumerate(graph.shape(x)) if keep or i not in gone]
    new("Expand", new.constant(value, dtype), new.ints(*shape), to=node.outputs[0])
    return new.nodes


FINITE: dict[str, Any] = {"~finite": 1}
"""Marks a maximum or minimum of which it does not matter what it is of infinities."""


def _of_infinities(node: Node, new: Expansion, dtype: np.dtype[np.generic]) -> New:
    """The maximum of nothing but minus infinity is that. TVM begins with the lowest finite number."""
    if node.attributes.pop("~finite", 0) or dtype.kind in "iu":
        return None
    x, axes = node.inputs[0], node.input(1)
    bound = new.constant(-np.inf if node.op == "ReduceMax" else np.inf, dtype)
    infinite = new.cast(new("Equal", x, bound), np.int32)
    every = new("ReduceMin", infinite, axes, **node.attributes)
    made = new(node.op, x, axes, **node.attributes, **FINITE)
    new("Where", new.cast(every, np.bool_), bound, made, to=node.outputs[0])
    return new.nodes


def batch_norm(node: Node, graph: Graph) -> New:
    """``BatchNormalization`` with the statistics of the model, not with those of the batch."""
    if node.attributes.get("training_mode", 0):
        raise unsupported(node, "it trains (training_mode=1)", "export the model for inference: model.eval()")
    for name in ("training_mode", "momentum"):
        node.attributes.pop(name, None)
    return None


def random(node: Node, graph: Graph) -> New:
    """Random numbers: each run would give another result, which can be compared with nothing."""
    raise unsupported(node, "it makes random numbers", "make them an input of the model")


def lp_normalization(node: Node, graph: Graph) -> New:
    """``LpNormalization``: divided by the norm along an axis; what has none stays 0."""
    x = node.inputs[0]
    new = Expansion(graph, node)
    op = {1: "ReduceL1", 2: "ReduceL2"}[node.attributes.get("p", 2)]
    norm = new(op, x, new.ints(node.attributes.get("axis", -1)), keepdims=1)
    dtype = graph.dtype(x)
    zero, one = new.constant(0, dtype), new.constant(1, dtype)
    norm = new("Where", new("Equal", norm, zero), one, norm)
    new("Div", x, norm, to=node.outputs[0])
    return new.nodes


def layer_norm(node: Node, graph: Graph) -> New:
    """``LayerNormalization``, in single precision as its ``stash_type`` asks for."""
    x, scale, bias = node.input(0), node.input(1), node.input(2)
    shape, dtype = graph.shape(x), graph.dtype(x)
    stash = node.attributes.pop("stash_type", onnx.TensorProto.FLOAT)
    axis = node.attributes.get("axis", -1) % len(shape)
    single = graph.types[x].dtype == stash
    plain = graph.shape(scale) == shape[axis:] and (not bias or graph.shape(bias) == shape[axis:])
    if single and plain and bias and not any(node.output(i) for i in (1, 2)):
        return None
    new = Expansion(graph, node)
    wide = x if single else new.several("Cast", [x], [new.fresh()], to=stash)[0]
    axes = new.ints(*range(axis, len(shape)))
    mean = new("ReduceMean", wide, axes, to=node.output(1), keepdims=1)
    centred = new("Sub", wide, mean)
    variance = new("ReduceMean", new("Mul", centred, centred), axes, keepdims=1)
    kind = onnx.helper.tensor_dtype_to_np_dtype(stash)
    epsilon = new.constant(node.attributes.get("epsilon", 1e-5), kind)
    inverse = new("Reciprocal", new("Sqrt", new("Add", variance, epsilon)), to=node.output(2))
    made = new("Mul", centred, inverse)
    if not single:
        made = new.cast(made, dtype)
    made = new("Mul", made, scale, to="" if bias else node.outputs[0])
    if bias:
        new("Add", made, bias, to=node.outputs[0])
    return new.nodes


def of_one(node: Node, graph: Graph) -> New:
    """``Max``, ``Min`` and others of one input are that input."""
    if len(node.inputs) != 1:
        return None
    new = Expansion(graph, node)
    new("Identity", node.inputs[0], to=node.outputs[0])
    return new.nodes


def mean(node: Node, graph: Graph) -> New:
    """``Mean`` of several tensors."""
    new = Expansion(graph, node)
    total = new("Sum", *node.inputs)
    number = new.constant(len(node.inputs), graph.dtype(node.inputs[0]))
    new("Div", total, number, to=node.outputs[0])
    return new.nodes


SORTED = ("float16", "float32", "float64", "int8", "uint8", "int32", "int64")
"""What TVM can sort."""


def top_k(node: Node, graph: Graph) -> New:
    """``TopK`` of what TVM can sort. The order of the results is free where ``sorted`` is 0."""
    dtype = graph.dtype(node.inputs[0])
    node.attributes["sorted"] = 1
    if str(dtype) not in SORTED:
        raise unsupported(
            node, f"numbers of the type {dtype} cannot be sorted", f"cast to {SORTED[1]} before"
        )
    return None


def bit_shift(node: Node, graph: Graph) -> New:
    """``BitShift`` by as many bits as there are, or more, or less than none: nothing is left. For a processor
    that is undefined."""
    x, by = node.inputs
    dtype = graph.dtype(x)
    known = graph.value(by)
    width = 8 * dtype.itemsize
    if node.attributes.pop("~safe", 0) or (
        known is not None and (known < width).all() and (known >= 0).all()
    ):
        return None
    new = Expansion(graph, node)
    zero = new.constant(0, dtype)
    fits = new("Less", by, new.constant(width, graph.dtype(by)))
    if dtype.kind == "i":
        fits = new("And", fits, new("Not", new("Less", by, new.constant(0, graph.dtype(by)))))
    # What an arithmetic shift leaves of a negative number is -1.
    gone = zero
    if dtype.kind == "i" and node.attributes.get("direction") == "RIGHT":
        gone = new("Where", new("Less", x, zero), new.constant(-1, dtype), zero)
    made = new("BitShift", x, new("Where", fits, by, zero), **node.attributes, **SAFE)
    new("Where", fits, made, gone, to=node.outputs[0])
    return new.nodes


STEPS = {
    "BitShift": bit_shift,
    "Mean": mean,
    "TopK": top_k,
    "Div": divide,
    "Mod": modulo,
    "Pow": power,
    "IsInf": is_infinite,
    "CastLike": cast_like,
    "Cast": cast,
    "ReduceMax": extreme,
    "ReduceMin": extreme,
    "BatchNormalization": batch_norm,
    "LpNormalization": lp_normalization,
    "LayerNormalization": layer_norm,
    **dict.fromkeys(("Max", "Min", "Sum"), of_one),
    **dict.fromkeys(
        (
            "RandomNormal",
            "RandomNormalLike",
            "RandomUniform",
            "RandomUniformLike",
            "Multinomial",
            "Bernoulli",
        ),
        random,
    ),
}
