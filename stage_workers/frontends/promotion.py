"""Types of operands as PyTorch has them: whole numbers that meet a float become floats.

PyTorch says so for every operator, and writes nothing into the graph. TVM takes the type of the first operand
instead, so that ``arange(4) * 1.5`` would be ``arange(4) * 1``.
"""

from __future__ import annotations

from typing import Any

PROMOTED = frozenset(
    [
        "acos",
        "acosh",
        "add",
        "asin",
        "asinh",
        "atan",
        "atan2",
        "atanh",
        "cos",
        "cosh",
        "div",
        "erf",
        "erfc",
        "exp",
        "exp2",
        "expm1",
        "fmod",
        "hypot",
        "lerp",
        "log",
        "log10",
        "log1p",
        "log2",
        "maximum",
        "mean",
        "minimum",
        "mul",
        "pow",
        "reciprocal",
        "remainder",
        "rsqrt",
        "rsub",
        "sigmoid",
        "silu",
        "sin",
        "sinh",
        "softmax",
        "sqrt",
        "sub",
        "tan",
        "tanh",
        "where",
        "_softmax",
        "_log_softmax",
    ]
)
"""Operators whose operands all have the type of what they give, if that is a float; but for the condition of
``where``."""
COMPARISONS = frozenset(["eq", "ge", "gt", "le", "lt", "ne"])
"""Those that give truth: their operands have one type, too."""


def promote(graph: Any) -> None:
    """Write the changes of type into a graph of ``torch.fx`` with operators of ATen."""
    import torch

    for node in list(graph.nodes):
        if node.op != "call_function" or not hasattr(node.target, "_schema"):
            continue
        wanted = _wanted(node, torch)
        if wanted is None:
            continue
        for operand in dict.fromkeys(node.all_input_nodes):
            value = operand.meta.get("val")
            if not isinstance(value, torch.Tensor) or value.dtype == wanted or _is_condition(node, operand):
                continue
            with graph.inserting_before(node):
                options = {"dtype": wanted}
                cast = graph.call_function(torch.ops.aten._to_copy.default, (operand,), options)
            cast.meta["val"] = value.to(wanted)
            node.replace_input_with(operand, cast)


def _wanted(node: Any, torch: Any) -> Any:
    """The type that all operands of an operator should have; ``None`` where they may differ."""
    name = node.target._schema.name.partition("::")[2]
    result = node.meta.get("val")
    if not isinstance(result, torch.Tensor):
        return None
    if name in PROMOTED:
        return result.dtype if result.dtype.is_floating_point else None
    if name not in COMPARISONS:
        return None
    operands = [each.meta["val"] if hasattr(each, "meta") else each for each in node.args]
    if not all(isinstance(each, torch.Tensor | int | float) for each in operands):
        return None
    common = torch.result_type(*operands)
    return common if common.is_floating_point else None


def _is_condition(node: Any, operand: Any) -> bool:
    return "where" in str(node.target) and node.args[0] is operand
