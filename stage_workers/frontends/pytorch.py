"""PyTorch's exported programs, as a module of Relax in TVM's JSON, which a worker reads like any other model.

A client converts in its own process: ``torch.export.load`` unpickles, which runs code out of the file, so no
worker ever does it. PyTorch is an extra of whoever brings such models.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from tunemesh.shared.errors import BadInput, BadModel
from tunemesh.stage_workers.frontends import promotion
from tunemesh.stage_workers.graph.errors import first_line, reraise_memory_error
from tunemesh.stage_workers.measuring.inputs import EXPECTED, EXPECTED_BY, write


def require() -> Any:
    """PyTorch.

    Raises:
        BadInput: it is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise BadInput(
            f"models of PyTorch need PyTorch here ({first_line(error)}): pip install 'tunemesh[torch]', or"
            " export the model with torch.onnx.export and tune that file"
        ) from None
    return torch


def load(model: bytes) -> Any:
    """The exported program in the bytes of a file that ``torch.export.save`` wrote. Unpickles: code that is
    in the file may run in this process.

    Raises:
        BadModel: it cannot be loaded.
        BadInput: PyTorch is missing.
    """
    torch = require()
    try:
        with _quiet():
            return torch.export.load(io.BytesIO(model))
    except Exception as error:  # whatever pickle and PyTorch raise
        reraise_memory_error(error)
        raise BadModel(f"PyTorch cannot load the exported program: {first_line(error)}") from None


def export(module: Any, example_inputs: tuple[Any, ...], dynamic_shapes: Any = None) -> Any:
    """The exported program of a ``torch.nn.Module``, for inference.

    Args:
        module: the network.
        example_inputs: what it is called with; their shapes are those of the program, but for
        dynamic_shapes: which dimensions stay open, as ``torch.export.export`` takes it.

    Raises:
        BadModel: PyTorch cannot export it.
        BadInput: PyTorch is missing.
    """
    torch = require()
    modes = [(each, each.training) for each in module.modules()]
    try:
        module.eval()
        with torch.no_grad(), _quiet():
            return torch.export.export(module, example_inputs, dynamic_shapes=dynamic_shapes)
    except Exception as error:  # whatever the module raises
        reraise_memory_error(error)
        raise BadModel(f"torch.export cannot export the module: {first_line(error)}") from None
    finally:
        for each, training in modes:
            each.training = training


def convert(program: Any) -> bytes:
    """TVM's JSON of an exported program.

    Raises:
        BadModel: TVM cannot import it.
    """
    import tvm
    from tvm.relax.frontend.torch import from_exported_program

    try:
        with _quiet():
            decomposed = program.run_decompositions(_decompositions(require()))
            promotion.promote(decomposed.graph)
            module = from_exported_program(
                decomposed, run_ep_decomposition=False, unwrap_unit_return_tuple=True
            )
    except Exception as error:  # the importer raises whatever its operators raise
        reraise_memory_error(error)
        raise BadModel(
            f"TVM cannot import the PyTorch model: {first_line(error)}; torch.onnx.export may do better"
        ) from None
    return str(tvm.ir.save_json(module)).encode()


def _decompositions(torch: Any) -> Any:
    """Which operators of PyTorch are written in terms of others, before TVM sees them."""
    aten = torch.ops.aten
    # Without any, TVM computes batch norms wrongly (by 0.26); with all of them attention becomes many small
    # operators.
    table = torch.export.default_decompositions()
    table.pop(aten.scaled_dot_product_attention.default, None)

    def summed_in_single_precision(operator: Any) -> Any:
        """TVM gives the sums of these in single precision whatever goes in, and then does not know how to go
        on."""

        def decomposed(*arguments: Any, **options: Any) -> Any:
            tensors = [each for each in arguments if isinstance(each, torch.Tensor)]
            if tensors[0].dtype not in (torch.float16, torch.bfloat16):
                return NotImplemented
            single = [each.float() if isinstance(each, torch.Tensor) else each for each in arguments]
            return operator(*single, **options).to(tensors[0].dtype)

        return decomposed

    def amax(x: Any, dim: Any = (), keepdim: bool = False) -> Any:
        """TVM knows the greatest along one axis only."""
        axes = sorted((axis % x.dim() for axis in dim), reverse=True) or range(x.dim() - 1, -1, -1)
        for axis in axes:
            x = x.max(axis, keepdim).values
        return x

    def fake_quantize(x: Any, scale: float, zero: int, least: int, most: int) -> Any:
        return (torch.clamp(torch.round(x / scale) + zero, least, most) - zero) * scale

    def selu(x: Any) -> Any:
        """TVM leaves out a factor of what is below 0."""
        return 1.0507009873554805 * (x.clamp(min=0) + 1.6732632423543772 * (torch.exp(x.clamp(max=0)) - 1))

    def divided(x: Any, by: Any, *, rounding_mode: str | None = None) -> Any:
        """TVM takes a whole number that is no tensor for one of 32 bits."""
        if x.is_floating_point() or isinstance(by, torch.Tensor) or rounding_mode is None:
            return NotImplemented
        divisor = torch.full((), by, dtype=x.dtype)
        whole = x if rounding_mode == "floor" else x - torch.fmod(x, by)
        return torch.floor_divide(whole, divisor)

    def attention(q: Any, k: Any, v: Any, attn_mask: Any = None, *rest: Any, **options: Any) -> Any:
        """TVM takes a mask of numbers only, with as many dimensions as what it masks."""
        if attn_mask is None or (attn_mask.dtype != torch.bool and attn_mask.dim() == q.dim()):
            return NotImplemented
        added = attn_mask
        if attn_mask.dtype == torch.bool:
            zeros = torch.zeros_like(attn_mask, dtype=q.dtype)
            added = torch.where(attn_mask, zeros, zeros - torch.inf)  # full_like of infinity TVM cannot
        added = added[(None,) * (q.dim() - added.dim())]
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, added, *rest, **options)

    def least(x: Any, dim: int, keepdim: bool = False) -> Any:
        """TVM knows the places of the greatest only."""
        values, places = (-x).max(dim, keepdim)
        return -values, places

    for operator in (aten.convolution.default, aten.addmm.default, aten.mm.default, aten.bmm.default):
        table[operator] = summed_in_single_precision(operator)
    table[aten.amax.default] = amax
    table[aten.selu.default] = selu
    table[aten.scaled_dot_product_attention.default] = attention
    table[aten.min.dim] = least
    table[aten.floor_divide.default] = lambda x, by: divided(x, by, rounding_mode="floor")
    table[aten.div.Tensor_mode] = table[aten.div.Scalar_mode] = divided
    table[aten.__lshift__.Scalar] = lambda x, by: x * 2**by
    table[aten.__rshift__.Scalar] = lambda x, by: divided(x, 2**by, rounding_mode="floor")
    table[aten.fake_quantize_per_tensor_affine.default] = fake_quantize
    return table


def samples(program: Any, shapes: Sequence[Mapping[str, Sequence[int]]] = ()) -> bytes | None:
    """The example inputs of a program by the names that the converted model has for them, and the outputs
    that PyTorch computes for them, ``output:output0`` and so on, in NumPy's format ``npz``: so a worker can
    compare with PyTorch without having it. ``None`` where the program has no example inputs.

    Args:
        program: that was exported.
        shapes: for which inputs of other shapes are wanted, made of the example inputs: one set of shapes by
            the inputs' names, or several, whose arrays are marked as :mod:`~stage_workers.measuring.inputs`
            has it.

    Raises:
        BadModel: PyTorch cannot run the program.
    """
    torch = require()
    if program.example_inputs is None:
        return None
    leaves, structure = torch.utils._pytree.tree_flatten(program.example_inputs)
    places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
    names = dict(zip(places, map(str, program.graph_signature.user_inputs), strict=False))
    arrays = {}
    for number, wanted in enumerate(shapes or [{}]):
        mark = f"set{number}:" if len(shapes) > 1 else ""
        given = list(leaves)
        for place, name in names.items():
            if name in wanted:
                given[place] = _of_shape(leaves[place], wanted[name])
            arrays[mark + name] = _array(given[place])
        arguments, keywords = torch.utils._pytree.tree_unflatten(given, structure)
        for place, tensor in enumerate(_run(program, arguments, keywords)):
            arrays[f"{mark}{EXPECTED}output{place}"] = _array(tensor)
    arrays[EXPECTED_BY] = np.array(f"PyTorch {torch.__version__}")
    return write(arrays)


def _run(program: Any, arguments: Any, keywords: Any) -> list[Any]:
    """The tensors that PyTorch computes."""
    torch = require()
    try:
        with torch.no_grad():
            result = program.module()(*arguments, **keywords)
    except Exception as error:  # whatever the module raises
        reraise_memory_error(error)
        raise BadModel(f"PyTorch cannot run the model on its example inputs: {first_line(error)}") from None
    return [leaf for leaf in torch.utils._pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]


def _of_shape(example: Any, shape: Sequence[int]) -> Any:
    """A tensor of another shape with what an example has, over and over: masks, places and words stay valid.
    Floats become smaller by chance, so that no part of a batch is like another."""
    torch = require()
    if tuple(example.shape) == tuple(shape):
        return example
    if not example.numel():
        return example.new_zeros(tuple(shape))
    made = example
    for axis, size in enumerate(shape):
        made = made.index_select(axis, torch.arange(size) % made.shape[axis])
    if not made.is_floating_point():
        return made
    chance = torch.rand(made.shape, generator=torch.Generator().manual_seed(0))
    return made * (0.5 + 0.5 * chance).to(made.dtype)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what PyTorch says of its own insides."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _array(tensor: Any) -> Any:
    """A tensor as an array. NumPy's own dtypes have no bfloat16."""
    import torch

    plain = tensor.detach().cpu().contiguous()
    if plain.dtype == torch.bfloat16:
        return plain.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return plain.numpy()
