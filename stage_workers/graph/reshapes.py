"""Reshapes of reshapes as one, and equal ones as one.

Frontends of PyTorch flatten tokens for a product, give them their shape back, and cut them into heads. Two
reshapes in a row would be fused into a function that copies; one is a view, and costs nothing. And what
reads the same tokens can then be seen to do so.
"""

from __future__ import annotations

from typing import Any

from tunemesh.stage_workers.graph.rewriting import operator_of, rewritten, sizes_of

RESHAPE = "relax.reshape"


def joined(module: Any) -> Any:
    """``module`` in which no reshape reads what another gives, and none is there twice."""
    from tvm import relax

    found: dict[Any, Any] = {}

    @relax.expr_functor.mutator
    class Joiner(relax.PyExprMutator):  # type: ignore[misc]
        def visit_var_binding_(self, binding: Any) -> None:
            if binding.var not in found:
                super().visit_var_binding_(binding)
                return
            value = self.visit_expr(found[binding.var])
            if not isinstance(value, relax.Var):
                inside = isinstance(binding.var, relax.DataflowVar)
                value = self.builder_.emit(value) if inside else self.builder_.emit_output(value)
            self.set_var_remap(binding.var, value)

    def change(function: Any) -> Any:
        nonlocal found
        found = _replaced(function)
        return Joiner(module).visit_expr(function) if found else function

    return relax.transform.DeadCodeElimination()(rewritten(module, change))


def _replaced(function: Any) -> dict[Any, Any]:
    """What takes the place of reshapes, by their variables: an equal one, or one of what is read in the
    end."""
    from tvm import relax

    sources: dict[Any, Any] = {}
    known: dict[Any, Any] = {}
    found: dict[Any, Any] = {}
    blocks = [block for block in function.body.blocks if isinstance(block, relax.DataflowBlock)]
    for block in blocks:
        for binding in block.bindings:
            if not isinstance(binding, relax.VarBinding) or operator_of(binding.value) != RESHAPE:
                continue
            variable, source = binding.var, binding.value.args[0]
            shape = sizes_of(variable.ty)
            if shape is None or sizes_of(source.ty) is None:
                continue
            if source in sources:
                source = sources[source]
                found[variable] = relax.op.reshape(source, shape)
            sources[variable] = source
            if isinstance(variable, relax.DataflowVar):
                first = known.setdefault((block, source, shape), variable)
                if not first.same_as(variable):
                    found[variable] = first
    return found
