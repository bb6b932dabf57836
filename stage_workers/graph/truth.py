"""Booleans that are compared with each other, which LLVM does not take from TVM."""

from __future__ import annotations

from typing import Any

from tunemesh.stage_workers.graph import legalising
from tunemesh.stage_workers.graph.changes import Changes

COMPARISONS = ("relax.equal", "relax.not_equal")


def legalizers(_changes: Changes) -> dict[str, Any]:
    """What ``LegalizeOps`` is to ask for the TIR of an operator, where that is not TVM's default."""
    # What is remembered does not say which operator it was.
    return {name: legalising.remembered(_legalize) for name in COMPARISONS}


def _legalize(builder: Any, call: Any) -> Any:
    from tvm import topi

    if str(call.args[0].ty.dtype) != "bool":
        return call.op.get_attr("FLegalize")(builder, call)  # as TVM does by default
    compare = getattr(topi, str(call.op.name).removeprefix("relax."))

    def compared(one: Any, other: Any) -> Any:
        return compare(topi.cast(one, "int8"), topi.cast(other, "int8"))

    return builder.call_te(compared, *call.args, primfunc_name_hint=compare.__name__)
