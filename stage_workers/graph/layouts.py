"""Convolutions with channels last, and no tensor turned round that need not be.

A tensor may lie in memory in another order of axes than the graph says (:mod:`permutations`). A convolution
gives one with channels last; a transposition gives one in which nothing has moved. What follows is computed
in the order that is there: an activation, an addition, a reduction, a slice take it as it is, by their own
rule (:mod:`layout_rules`). Only in front of an operator without a rule, and at the end, a tensor is brought
into the order that the graph says, once. So there are never two transpositions round an activation, and those
that a model brings along, of an exporter that thinks in another layout, meet and vanish.

TVM's ``ConvertLayout`` does the first half of that. It asks every operator how it takes another layout, and
several answer wrongly, crash, or have no answer.
"""

from __future__ import annotations

import math
from typing import Any

from tunemesh.stage_workers.graph import constants, layout_rules, models, turning
from tunemesh.stage_workers.graph.rewriting import operator_of, sizes_of
from tunemesh.stage_workers.graph.views import Moving, View


def channels_last(module: Any) -> Any:
    """``module`` with channels last in its convolutions, and the transpositions that this takes."""
    import tvm
    from tvm.relax import transform

    changed = module.clone()
    changed["main"] = _mover(module).visit_expr(module["main"])
    changed = constants.fold(changed)
    passes = [transform.FoldConstant(), transform.CanonicalizeBindings(), transform.DeadCodeElimination()]
    return tvm.transform.Sequential(passes)(changed)


LANES = 16
"""Floats of a vector of AVX-512."""
RAGGED = 1.1
"""Times as many lanes as an image has places, in whole vectors, up to which hardly any are wasted."""


def gains(module: Any, narrow: bool = False) -> bool:
    """Whether a module has convolutions that are faster with channels last, or transpositions that may meet.

    A convolution of 1x1 is a product of matrices in either order. Where a module has no others, channels
    last would only add transpositions: for 64 channels of 56x56 they take longer than the product.

    Args:
        narrow: convolutions are to be computed in bfloat16, which takes channels last.
    """
    import tvm

    calls = [node for node in models.nodes(module) if isinstance(node, tvm.ir.Call)]
    convolved = any(
        operator_of(call).startswith("relax.nn.conv") and (narrow or not _is_product(call)) for call in calls
    )
    return convolved or sum(operator_of(call) == turning.TRANSPOSITION for call in calls) > 1


def _is_product(call: Any) -> bool:
    """Whether a convolution is as fast with channels first: a product of matrices, the places of the image
    next to each other, and enough of them."""
    attributes, kernel, shape = call.attrs, sizes_of(call.args[1].ty), sizes_of(call.ty)
    if kernel is None or shape is None or str(call.ty.dtype) != "float32":
        return False
    image, result = attributes.data_layout, attributes.out_layout or attributes.data_layout
    if not image.startswith("NC") or result != image or not attributes.kernel_layout.startswith("OI"):
        return False
    once = (*attributes.strides, *kernel[2:], attributes.groups)
    if any(int(each) != 1 for each in once) or any(int(each) for each in attributes.padding):
        return False
    places = math.prod(shape[2:])
    return -(-places // LANES) * LANES <= RAGGED * places


def transpositions(module: Any) -> int:
    """How many times a run of a lowered module moves all elements of a tensor to other places.

    A copy inside of a fused function counts, too; one that only moves axes of length 1 does not.
    """
    import tvm

    found: dict[Any, int] = {}
    total = 0
    for node in models.nodes(module):
        if isinstance(node, tvm.ir.Call) and node.args and isinstance(node.args[0], tvm.ir.GlobalVar):
            name = node.args[0]
            function = module[name]
            if name not in found:
                found[name] = _copies(function) if isinstance(function, tvm.tirx.PrimFunc) else 0
            total += found[name]
    return total


def _copies(function: Any) -> int:
    """Blocks of a TIR function that do nothing but permute axes."""
    if function.attrs and turning.TURNS in function.attrs:
        return 1
    import tvm
    import tvm_ffi
    from tvm.s_tir import SBlock

    found: list[Any] = []

    def visit(block: Any) -> None:
        store = block.body
        if not isinstance(store, tvm.tirx.BufferStore) or not isinstance(store.value, tvm.ir.TensorLoad):
            return
        long = [each.var for each in block.iter_vars if not _is_one(each.dom.extent)]
        read, written = (
            [i for i in each if _among(i, long)] for each in (store.value.indices, store.indices)
        )
        if len(read) == len(written) == len(long) and any(
            not one.same_as(other) for one, other in zip(read, written, strict=True)
        ):
            found.append(block)

    tvm_ffi.structural_walk(function.body, (SBlock, visit))
    return len(found)


def _among(index: Any, variables: list[Any]) -> bool:
    return any(index.same_as(variable) for variable in variables)


def _is_one(extent: Any) -> bool:
    import tvm

    return isinstance(extent, tvm.tirx.IntImm) and int(extent.value) == 1


def _mover(module: Any) -> Any:
    from tvm import relax

    views: dict[Any, View | list[View]] = {}

    @relax.expr_functor.mutator
    class Mover(relax.PyExprMutator):  # type: ignore[misc]
        """Computes what is in dataflow blocks in the order in which it lies."""

        def visit_dataflow_block_(self, block: Any) -> Any:
            self.moving = Moving(self.builder_, self.visit_expr, views)
            made = super().visit_dataflow_block_(block)
            views.clear()  # variables of a block are not known outside of it
            return made

        def visit_var_binding_(self, binding: Any) -> None:
            inside = isinstance(binding.var, relax.DataflowVar) or views
            found = layout_rules.apply(self.moving, binding.value) if inside or _is_call(binding) else None
            if found is None:
                super().visit_var_binding_(binding)
                return
            views[binding.var] = found
            if not isinstance(binding.var, relax.DataflowVar):  # it is used outside of the block
                known = self.moving.as_said(binding.var)
                self.set_var_remap(binding.var, self.builder_.emit_output(known))

        def visit_dataflow_var_(self, variable: Any) -> Any:
            if variable in views:
                return self.moving.as_said(variable)
            return super().visit_dataflow_var_(variable)

    return Mover(module)


def _is_call(binding: Any) -> bool:
    import tvm

    return isinstance(binding.value, tvm.ir.Call)
