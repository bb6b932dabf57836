"""What stands behind a product, a convolution or a reduction and may be fused with it: masks, gates, and
operators that move data. Once there was no search space for it, or every candidate was wrong."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.cases.case import Case, case, weights

MASKED_ATTENTION = case(
    "masked_attention",
    """(float[1,4,64,32] q, float[1,4,64,32] k, float[1,4,64,32] v, bool[1,1,1,64] m)
       => (float[1,4,64,32] y) {
        turned = Transpose <perm = [0, 1, 3, 2]> (k)
        scores = MatMul (q, turned)
        mask = Where (m, zero, far)
        masked = Add (scores, mask)
        shares = Softmax <axis = -1> (masked)
        y = MatMul (shares, v)
    }""",
    zero=0.0,
    far=-np.inf,
)


def behind(name: str, inputs: str, first: str, nodes: str, values: dict[str, Any], output: str) -> Case:
    return case(name, f"({inputs}) => ({output}) {{{first}\n{nodes}}}", **values)


def product(name: str, nodes: str, inputs: str = "", output: str = "float[64,96] y", **values: Any) -> Case:
    """``nodes`` from ``a``, a matrix product, to ``y``."""
    ends = ", ".join(filter(None, ["float[64,128] x", inputs]))
    return behind(
        f"product_{name}", ends, "a = MatMul (x, W)", nodes, {"W": weights(128, 96), **values}, output
    )


def scores(name: str, nodes: str, inputs: str = "", **values: Any) -> Case:
    """``nodes`` from ``a``, the product of two inputs for each of four heads, to ``y``."""
    ends = ", ".join(filter(None, ["float[1,4,64,32] q, float[1,4,32,64] k", inputs]))
    return behind(f"scores_{name}", ends, "a = MatMul (q, k)", nodes, values, "float[] y")


def convolution(name: str, nodes: str, inputs: str = "", outputs: int = 24, **values: Any) -> Case:
    """``nodes`` from ``a``, a convolution, to ``y``."""
    ends = ", ".join(filter(None, ["float[1,8,16,16] x", inputs]))
    first = "a = Conv <pads = [1, 1, 1, 1]> (x, K)"
    return behind(
        f"convolution_{name}", ends, first, nodes, {"K": weights(outputs, 8, 3, 3), **values}, "float[] y"
    )


FLAGS, FLOATS = "bool[1,1,1,64] m", "float[1,1,1,64] m"
GATE = "g = Sigmoid (r)  y = Mul (a, g)"

EPILOGUES = [
    scores("where", "y = Where (m, a, far)", FLAGS, far=-1e9),
    scores("where_add", "w = Where (m, zero, far)  y = Add (a, w)", FLAGS, zero=0.0, far=-1e9),
    scores(
        "scaled_where_add",
        "b = Mul (a, half)  w = Where (m, zero, far)  y = Add (b, w)",
        FLAGS,
        half=0.5,
        zero=0.0,
        far=-1e9,
    ),
    scores("add_mask", "y = Add (a, m)", FLOATS),
    scores(
        "bert_mask",
        """u = Unsqueeze (m, axes)
           f = Cast <to = 1> (u)
           off = Sub (one, f)
           w = Mul (off, far)
           b = Mul (a, half)
           y = Add (b, w)""",
        "int64[1,64] m",
        axes=[1, 2],
        one=1.0,
        far=-1e9,
        half=0.5,
    ),
    scores("two_adds", "b = Add (a, m)  y = Add (b, r)", f"{FLOATS}, float[1,4,64,64] r"),
    scores("product_of_inputs", "w = Mul (m, g)  y = Add (a, w)", f"{FLOATS}, float[1,4,1,1] g"),
    scores("transpose", "y = Transpose <perm = [0, 2, 1, 3]> (a)"),
    scores("transpose_reshape", "t = Transpose <perm = [0, 2, 1, 3]> (a)  y = Reshape (t, s)", s=[64, 256]),
    product(
        "gelu",
        "d = Div (a, root)  e = Erf (d)  f = Add (e, one)  g = Mul (a, f)  y = Mul (g, half)",
        root=1.414,
        one=1.0,
        half=0.5,
    ),
    product("bias_residual", "c = Add (a, b)  y = Add (c, r)", "float[64,96] r", b=weights(96)),
    product("gate_of_inputs", GATE, "float[64,96] r"),
    product("gate_of_rows", GATE, "float[64,1] r"),
    product("round_clip", "b = Round (a)  y = Clip (b, low, high)", low=-8.0, high=8.0),
    product(
        "quantised",
        "q = QuantizeLinear (a, step, zero)  y = DequantizeLinear (q, step, zero)",
        step=0.05,
        zero=np.int8(0),
    ),
    product("silu", "g = Sigmoid (a)  y = Mul (a, g)"),
    product(
        "heads",
        """d = Add (a, b)
           e = Reshape (d, split)
           f = Transpose <perm = [1, 0, 2]> (e)
           y = Reshape (f, joined)""",
        b=weights(96),
        split=[64, 4, 24],
        joined=[64, 96],
    ),
    convolution("channel_gate", GATE, "float[1,24,1,1] r"),
    convolution("pixel_gate", GATE, "float[1,1,16,16] r"),
    convolution("hardswish", "y = HardSwish (a)"),
    convolution("mish", "s = Softplus (a)  t = Tanh (s)  y = Mul (a, t)"),
    convolution("residual_relu", "s = Add (a, r)  y = Relu (s)", "float[1,24,16,16] r"),
    convolution("where", "y = Where (m, a, zero)", "bool[1,1,16,16] m", zero=0.0),
    convolution("depth_to_space", "y = DepthToSpace <blocksize = 2> (a)"),
    convolution(
        "transpose_reshape", "t = Transpose <perm = [0, 2, 3, 1]> (a)  y = Reshape (t, s)", s=[1, 256, 24]
    ),
    convolution("softmax", "y = Softmax <axis = 1> (a)"),
    convolution("prelu", "y = PRelu (a, slope)", slope=weights(24, 1, 1)),
    convolution("response_norm", "n = ReduceL2 <axes = [2, 3]> (a)  y = Mul (a, n)"),
    convolution("clip", "y = Clip (a, low, high)", low=0.0, high=6.0),
    case(
        "depthwise_convolution_gate",
        f"""(float[1,16,16,16] x, float[1,16,1,1] r) => (float[1,16,16,16] y) {{
            a = Conv <pads = [1, 1, 1, 1], group = 16> (x, K)
            {GATE}
        }}""",
        K=weights(16, 1, 3, 3),
    ),
    case(
        "one_dimensional_convolution_silu_add",
        """(float[1,32,64] x) => (float[1,32,64] y) {
            a = Conv <pads = [1, 1]> (x, K)
            g = Sigmoid (a)
            b = Mul (a, g)
            y = Add (b, x)
        }""",
        K=weights(32, 32, 3),
    ),
    case(
        "transposed_convolution_relu",
        """(float[1,8,8,8] x) => (float[1,12,16,16] y) {
            a = ConvTranspose <strides = [2, 2]> (x, K)
            y = Relu (a)
        }""",
        K=weights(8, 12, 2, 2),
    ),
    case(
        "product_of_rows_of_a_table",
        "(int64[32] i) => (float[32,48] y) {e = Gather (table, i)  y = MatMul (e, W)}",
        table=weights(100, 64),
        W=weights(64, 48),
    ),
    case(
        "integer_product_scale_bias",
        """(uint8[32,64] x) => (float[32,48] y) {
            a = MatMulInteger (x, W)
            f = Cast <to = 1> (a)
            g = Mul (f, step)
            y = Add (g, b)
        }""",
        W=weights(64, 48, dtype=np.int8),
        step=0.01,
        b=weights(48),
    ),
]

PAD_AFTER = case(
    # As Paddle and TensorFlow export.
    "convolution_relu_pad_convolution",
    """(float[1,3,32,32] x) => (float[] y) {
        a = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, K)
        r = Relu (a)
        p = Pad (r, pads)
        y = Conv (p, L)
    }""",
    K=weights(12, 3, 3, 3),
    L=weights(8, 12, 2, 2),
    pads=[0, 0, 0, 0, 0, 0, 1, 1],
)
ALL_SIDES = [0, 0, 1, 1, 0, 0, 1, 1]


def moved(name: str, nodes: str, **values: Any) -> Case:
    """``nodes`` that move what a convolution gives."""
    return convolution(f"then_{name}", nodes, outputs=12, **values)


def moved_image(name: str, first: str, nodes: str, **values: Any) -> Case:
    return case(name, f"(float[1,8,16,16] x) => (float[] y) {{{first}\n{nodes}}}", **values)


POOL = "a = MaxPool <kernel_shape = [3, 3], strides = [1, 1], pads = [1, 1, 1, 1]> (x)"
MOVED = [
    PAD_AFTER,
    product("then_pad", "y = Pad (a, pads)", output="float[] y", pads=[0, 0, 3, 1]),
    moved("pad_before", "y = Pad (a, pads)", pads=[0, 0, 1, 1, 0, 0, 0, 0]),
    moved("pad", "y = Pad (a, pads)", pads=ALL_SIDES),
    moved("pad_reflect", 'y = Pad <mode = "reflect"> (a, pads)', pads=ALL_SIDES),
    moved("pad_channels", "y = Pad (a, pads)", pads=[0, 0, 0, 0, 0, 4, 0, 0]),
    moved(
        "resize",
        """y = Resize <
             mode = "nearest", nearest_mode = "floor", coordinate_transformation_mode = "asymmetric"
           > (a, , by)""",
        by=[1.0, 1.0, 2.0, 2.0],
    ),
    moved("depth_to_space", "y = DepthToSpace <blocksize = 2> (a)"),
    moved("slice", "y = Slice (a, start, end, axis)", start=[1], end=[14], axis=[2]),
    moved("slice_in_steps", "y = Slice (a, start, end, axis, step)", start=[0], end=[16], axis=[3], step=[2]),
    moved("flip", "y = Slice (a, start, end, axis, step)", start=[-1], end=[-100], axis=[3], step=[-1]),
    moved("tile", "y = Tile (a, times)", times=[1, 1, 2, 1]),
    moved("concat_of_itself", "r = Relu (a)  y = Concat <axis = 1> (a, r)"),
    moved("concat_of_the_input", "y = Concat <axis = 1> (a, x)"),
    moved("gather", "y = Gather <axis = 1> (a, which)", which=[3, 1, 2]),
    moved("transpose", "y = Transpose <perm = [0, 2, 3, 1]> (a)"),
    moved("reshape_transpose", "r = Reshape (a, s)  y = Transpose <perm = [0, 2, 1]> (r)", s=[1, 12, 256]),
    moved_image("pool_then_pad", POOL, "y = Pad (a, pads)", pads=ALL_SIDES),
    moved_image("softmax_then_pad", "a = Softmax <axis = 1> (x)", "y = Pad (a, pads)", pads=ALL_SIDES),
    moved_image("pool_then_concat", POOL, "y = Concat <axis = 1> (a, x)"),
]

CASES = [MASKED_ATTENTION, *EPILOGUES, *MOVED]
