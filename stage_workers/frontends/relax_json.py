"""Models in TVM's own JSON: a Relax module, or a single TIR function."""

from __future__ import annotations

from typing import Any

from tunemesh.shared.errors import BadModel
from tunemesh.stage_workers.frontends import trusted
from tunemesh.stage_workers.frontends.shapes import Dim, Variant, fix_shapes
from tunemesh.stage_workers.frontends.source import Source
from tunemesh.stage_workers.graph import bounds, workloads
from tunemesh.stage_workers.graph.errors import first_line, reraise_memory_error
from tunemesh.stage_workers.graph.models import signature_of
from tunemesh.stage_workers.graph.signatures import Signature

LOOKED_AT = 4096
"""Bytes in which the first that is no space must come."""


def recognises(source: Source) -> bool:
    """Whether it is JSON."""
    return source.model[:LOOKED_AT].lstrip()[:1] == b"{"


def read(source: Source, variant: Variant) -> tuple[Any, Signature]:
    """The Relax module of ``tvm.ir.save_json``'s text, and its signature.

    Raises:
        BadModel: when it is damaged, or holds something else.
    """
    loaded = _load(source.model)
    try:
        bounds.check(loaded)
        return _imported(loaded, variant)
    except BadModel:
        raise
    except Exception as error:  # a module that its own classes find inconsistent
        reraise_memory_error(error)
        raise BadModel(f"the TVM JSON model is not valid: {first_line(error)}") from None


def _imported(loaded: Any, variant: Variant) -> tuple[Any, Signature]:
    module = _as_relax(loaded)
    main = module["main"]
    inputs = [str(parameter.name) for parameter in main.params]
    module = _bind(module, inputs, variant)
    result = module["main"].ret_ty
    count = len(result.fields) if hasattr(result, "fields") else 1
    return module, signature_of(module, inputs, [f"output{i}" for i in range(count)])


def _load(model: bytes) -> Any:
    import tvm
    from tvm_ffi.serialization import from_json_graph_str

    text = trusted.checked(model)
    try:
        # Not tvm.ir.load_json, which parses and renames what was checked.
        loaded = from_json_graph_str(text)
    except Exception as error:  # loaders of types raise what they like
        reraise_memory_error(error)
        raise BadModel(
            f"the JSON is not a module of this TVM ({tvm.__version__}): {first_line(error)}"
        ) from None
    trusted.check_loaded(loaded)
    return loaded


def _as_relax(loaded: Any) -> Any:
    import tvm

    if isinstance(loaded, tvm.relax.Function):
        return tvm.IRModule({"main": loaded})
    if isinstance(loaded, tvm.tirx.PrimFunc):
        return _wrap(loaded)
    if isinstance(loaded, tvm.IRModule):
        names = {str(name.name_hint): function for name, function in loaded.functions_items()}
        if isinstance(names.get("main"), tvm.relax.Function):
            return loaded
        functions = list(names.values())
        if len(functions) == 1 and isinstance(functions[0], tvm.tirx.PrimFunc):
            return _wrap(functions[0])
        raise BadModel("the TVM module has neither a Relax function main nor exactly one TIR function")
    raise BadModel(f"the JSON holds a {type(loaded).__name__}, not a module or function")


def _wrap(function: Any) -> Any:
    """A Relax module whose ``main`` calls one TIR function, so that it is a model like any other."""
    from tvm import relax

    try:
        arguments = workloads.arguments(function)
    except ValueError as error:
        raise BadModel(f"the TIR function cannot be tuned: {error}") from None
    inputs = [argument for argument in arguments if not argument.output]
    outputs = [argument for argument in arguments if argument.output]
    if not outputs or arguments != inputs + outputs:
        raise BadModel("the TIR function must write its last parameters, and only those")
    # Rewriting the layout of an input would change what the function takes.
    function = function.without_attr("layout_free_buffers").without_attr("global_symbol")
    variables = [relax.Var(a.name, relax.TensorType(a.shape, a.dtype)) for a in inputs]
    types = [relax.TensorType(a.shape, a.dtype) for a in outputs]
    builder = relax.BlockBuilder()
    with builder.function("main", variables):
        with builder.dataflow():
            call = relax.call_tir(
                builder.add_func(function, "kernel"), variables, types if len(types) > 1 else types[0]
            )
            result = builder.emit_output(builder.emit(call))
        builder.emit_func_output(result)
    return builder.get()


def _bind(module: Any, inputs: list[str], variant: Variant) -> Any:
    """Replace the symbolic dimensions of the inputs by the sizes that the person gave."""
    import tvm

    types = [parameter.ty for parameter in module["main"].params]
    tensors = {
        name: ty.shape.values if isinstance(ty.shape, tvm.relax.ShapeExpr) else None
        for name, ty in zip(inputs, types, strict=True)
        if isinstance(ty, tvm.relax.TensorType)
    }
    declared = {name: None if dims is None else [_dim(d) for d in dims] for name, dims in tensors.items()}
    fixed = fix_shapes(declared, variant)
    sizes: dict[Any, int] = {}
    for name, dims in tensors.items():
        for dim, size in zip(dims or [], fixed[name], strict=dims is not None):
            if isinstance(dim, tvm.tirx.Var) and sizes.setdefault(dim, size) != size:
                raise BadModel(f"the dimension {dim.name} of the input {name} is {sizes[dim]} elsewhere")
    return tvm.relax.transform.BindSymbolicVars(sizes, "main")(module) if sizes else module


def _dim(dim: Any) -> Dim:
    import tvm

    if isinstance(dim, tvm.tirx.IntImm):
        return int(dim.value)
    return str(dim.name) if isinstance(dim, tvm.tirx.Var) else None
