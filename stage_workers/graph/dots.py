"""Instructions of CPUs that multiply small numbers in groups and add each group to a wide sum: more than one
multiplication in the place of one.

Each has a computation in TE that it does (:func:`product`, :func:`convolution`), marked with its name, which
engines look for; and a function of LLVM, which schedules call by that name. A schedule without such calls,
and no schedule at all, compute the same on every CPU.

Weights lie in groups: ``[outputs / lanes, …, inputs / group, lanes, group]``, so that one load has what one
instruction takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from msgspec import Struct

from tunemesh.stage_workers.graph import models, targets
from tunemesh.stage_workers.graph.rewriting import is_constant, is_static, operator_of, sizes_of
from tunemesh.stage_workers.measuring.comparison import Array

PRODUCT = "relax.matmul"
CONVOLUTION = "relax.nn.conv2d"
MARK = "tunemesh.dot"
"""The annotation of blocks of TIR that an instruction can do, with its name."""
BITS = "uint16"
"""What holds a float of 16 bits inside of a function: TVM makes intermediate tensors of such floats single
precision."""


class Dot(Struct, frozen=True):
    """One instruction.

    Attributes:
        name: of the function of LLVM.
        short: for names of functions that use it.
        data: dtype of what is multiplied with the weights.
        weights: their dtype.
        total: dtype of the sums.
        lanes: sums at once.
        group: products that are added to each of them.
        feature: of a CPU that has it, as LLVM calls it.
        instruction: as LLVM calls it.
        operand: type of LLVM that it takes both factors as.
    """

    name: str
    short: str
    data: str
    weights: str
    total: str
    lanes: int
    group: int
    feature: str
    instruction: str
    operand: str

    def packed(self, weights: Array) -> Array:
        """Weights of shape (…, inputs, outputs) as the instruction takes them, in their own dtype."""
        *places, inputs, outputs = weights.shape
        blocks, groups = outputs // self.lanes, inputs // self.group
        split = weights.reshape(*places, groups, self.group, blocks, self.lanes)
        # (…, groups, group, blocks, lanes) to (blocks, …, groups, lanes, group)
        end = len(places)
        order = (end + 2, *range(end), end, end + 3, end + 1)
        return np.ascontiguousarray(split.transpose(order))

    def fits(self, inputs: int, outputs: int) -> bool:
        """Whether there are as many inputs and outputs as it takes at once, or a multiple."""
        return inputs % self.group == 0 and outputs % self.lanes == 0

    def runs_on(self, target: str) -> bool:
        """Whether a CPU has it, by its canonical target."""
        from tvm.target import codegen

        return bool(codegen.llvm_cpu_has_features(self.feature, targets.load(target)))


def _bfloat16(lanes: int) -> Dot:
    return Dot(
        name=f"tunemesh.dot_bf16_{lanes}",
        short="bf16",
        data="bfloat16",
        weights="bfloat16",
        total="float32",
        lanes=lanes,
        group=2,
        feature="avx512bf16",
        instruction=f"llvm.x86.avx512bf16.dpbf16ps.{32 * lanes}",
        operand=f"<{2 * lanes} x bfloat>",
    )


def _integers(lanes: int) -> Dot:
    return Dot(
        name=f"tunemesh.dot_int8_{lanes}",
        short="int8",
        data="uint8",
        weights="int8",
        total="int32",
        lanes=lanes,
        group=4,
        feature="avx512vnni",
        instruction=f"llvm.x86.avx512.vpdpbusd.{32 * lanes}",
        operand=f"<{lanes} x i32>",
    )


BFLOAT16 = (_bfloat16(16), _bfloat16(8))
"""Pairs in bfloat16, the widest first."""
INTEGERS = (_integers(16), _integers(8))
"""Four at a time of 8 bits, data without a sign and weights with one, the widest first."""
ALL = {each.name: each for each in BFLOAT16 + INTEGERS}
"""By name."""


def gains(module: Any) -> bool:
    """Whether a module multiplies small numbers."""
    import tvm

    calls = [node for node in models.nodes(module) if isinstance(node, tvm.ir.Call)]
    small = {each.weights for each in ALL.values()}
    return any(
        operator_of(call) in (PRODUCT, CONVOLUTION) and str(call.args[1].ty.dtype) in small for call in calls
    )


def sizes(call: Any) -> tuple[int, int] | None:
    """Inputs and outputs of a product with constant weights, or of a convolution with channels last; ``None``
    of what an instruction cannot do whatever the sizes."""
    shape = sizes_of(call.args[1].ty)
    if shape is None:
        return None
    if operator_of(call) == PRODUCT:
        return (shape[0], shape[1]) if len(shape) == 2 else None
    attributes = call.attrs
    last = attributes.data_layout == "NHWC" and attributes.out_layout in ("", "NHWC")
    if not last or attributes.kernel_layout != "HWIO" or int(attributes.groups) != 1:
        return None
    return shape[2], shape[3]


def has_types(dot: Dot, call: Any) -> bool:
    """Whether an instruction has the dtypes of a call of an operator, whose weights are constant."""
    data, weights = call.args
    if not is_constant(weights) or not is_static(data.ty) or not is_static(call.ty):
        return False
    return tuple(str(each.ty.dtype) for each in (data, weights, call)) == (dot.data, dot.weights, dot.total)


def product(data: Any, weights: Any, dot: Dot) -> Any:
    """The products of the rows of ``data`` with packed weights, as TE: (…, inputs) to (…, outputs)."""
    from tvm import te

    *rows, inputs = (int(length) for length in data.shape)
    outputs = int(weights.shape[0]) * dot.lanes
    k = te.reduce_axis((0, inputs), name="k")

    def compute(*at: Any) -> Any:
        *row, n = at
        factor = weights[n // dot.lanes, k // dot.group, n % dot.lanes, k % dot.group]
        return te.sum(data[(*row, k)].astype(dot.total) * factor.astype(dot.total), axis=k)

    return te.compute((*rows, outputs), compute, name="product", attrs={MARK: dot.name})


def convolution(
    image: Any,
    weights: Any,
    strides: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    dot: Dot,
    pad_value: int = 0,
) -> Any:
    """A convolution with channels last, as TE.

    Args:
        image: of shape (images, height, width, inputs).
        weights: packed, of shape (blocks, rows, columns, groups, lanes, group).
        strides: down and right.
        padding: top, left, bottom, right.
        dilation: down and right.
        dot: what the weights are packed for.
        pad_value: what is around the image.
    """
    from tvm import te, tirx, topi

    top, left, bottom, right = padding
    if any(padding):
        plain = bits(image)
        around = tirx.const(pad_value, str(plain.dtype))
        image = topi.nn.pad(plain, (0, top, left, 0), (0, bottom, right, 0), around, name="padded")
    images, high, wide, inputs = (int(length) for length in image.shape)
    blocks, rows, columns = (int(length) for length in weights.shape[:3])
    height = (high - (rows - 1) * dilation[0] - 1) // strides[0] + 1
    width = (wide - (columns - 1) * dilation[1] - 1) // strides[1] + 1
    ry, rx = te.reduce_axis((0, rows), name="ry"), te.reduce_axis((0, columns), name="rx")
    rc = te.reduce_axis((0, inputs), name="rc")

    def compute(number: Any, y: Any, x: Any, n: Any) -> Any:
        value = image[number, y * strides[0] + ry * dilation[0], x * strides[1] + rx * dilation[1], rc]
        factor = weights[n // dot.lanes, ry, rx, rc // dot.group, n % dot.lanes, rc % dot.group]
        return te.sum(widened(value, dot) * factor.astype(dot.total), axis=[ry, rx, rc])

    shape = (images, height, width, blocks * dot.lanes)
    name = intrinsic(dot, str(image.dtype))
    return te.compute(shape, compute, name="convolution", attrs={MARK: name})


def intrinsic(dot: Dot, data: str) -> str:
    """What the instruction is called in TIR that reads data of a dtype: :data:`BITS` for its own."""
    return dot.name if data == dot.data else f"{dot.name}.{data}"


def named(name: str) -> tuple[Dot, str]:
    """The instruction that :func:`intrinsic` gave a name, and the dtype of the data."""
    dot = next(each for each in ALL.values() if name in (each.name, f"{each.name}.{BITS}"))
    return dot, dot.data if name == dot.name else BITS


def bits(data: Any) -> Any:
    """Floats of 16 bits as :data:`BITS`, and others as they are."""
    from tvm import te, tirx

    if str(data.dtype) != "bfloat16":
        return data
    return te.compute(data.shape, lambda *at: tirx.reinterpret(BITS, data[at]), name="bits")


def widened(value: Any, dot: Dot) -> Any:
    """One number, which may be :data:`BITS`, as it is summed."""
    from tvm import tirx

    exact = tirx.reinterpret(dot.data, value) if str(value.dtype) == BITS else value
    return exact.astype(dot.total)


def uses(function: Any) -> bool:
    """Whether a function of TIR can use an instruction, or calls one."""
    return bool(marks(function)) or bool(called(function))


def marks(function: Any) -> list[str]:
    """The names of the instructions that a function of TIR can use."""
    import tvm_ffi
    from tvm.s_tir import SBlock

    found: list[str] = []

    def block(each: Any) -> None:
        if MARK in each.annotations:
            found.append(str(each.annotations[MARK]))

    tvm_ffi.structural_walk(function.body, (SBlock, block))
    return sorted(set(found))


# -- Code ----------------------------------------------------------------------------------------------------


def called(function: Any) -> dict[str, Dot]:
    """The instructions that a function of TIR calls, by name."""
    import tvm
    import tvm_ffi

    used: dict[str, Dot] = {}

    def call(each: Any) -> None:
        if str(getattr(each.op, "name", "")) == "tirx.call_extern":
            dot = ALL.get(str(each.args[0].value))
            if dot is not None:
                used[dot.name] = dot

    tvm_ffi.structural_walk(function.body, (tvm.ir.Call, call))
    return used


def with_code(function: Any) -> Any:
    """A lowered function with the functions of LLVM that it calls."""
    import tvm
    from tvm import tirx

    used = called(function)
    if not used:
        return function
    text = "\n".join(map(code, used.values()))
    return function.with_body(tirx.AttrStmt(0, "pragma_import_llvm", tvm.ir.StringImm(text), function.body))


def code(dot: Dot) -> str:
    """The function of LLVM, which takes the sums, one group, and a block of weights."""
    lanes = dot.lanes
    sums, bits = f"<{lanes} x {_llvm(dot.total)}>", f"<{lanes} x i32>"
    return f"""
define {sums} @{dot.name}({sums} %sums, i32 %group, {bits} %block) {{
  %first = insertelement {bits} poison, i32 %group, i32 0
  %all = shufflevector {bits} %first, {bits} poison, <{lanes} x i32> zeroinitializer
  %data = bitcast {bits} %all to {dot.operand}
  %weights = bitcast {bits} %block to {dot.operand}
  %added = call {sums} @{dot.instruction}({sums} %sums, {dot.operand} %data, {dot.operand} %weights)
  ret {sums} %added
}}
declare {sums} @{dot.instruction}({sums}, {dot.operand}, {dot.operand})
"""


def _llvm(dtype: str) -> str:
    return {"float32": "float", "int32": "i32"}[dtype]
