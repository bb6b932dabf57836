"""Products and other convolutions beside convolutions, and small networks of them.
Each was once refused, wrong or crashed with channels last."""

from __future__ import annotations

import numpy as np

from tests.cases.around_convolutions import HEAD, KERNELS, TAIL, behind, between
from tests.cases.case import case, weights

PRODUCTS = [
    between("product_of_rows", "b = MatMul (a, M)", M=weights(16, 16)),
    between("product_with_itself", "t = Transpose <perm = [0, 1, 3, 2]> (a)  b = MatMul (a, t)"),
    between("einsum_of_channels", 'b = Einsum <equation = "nchw,cd->ndhw"> (a, M)', M=weights(32, 32)),
    between(
        "attention_of_pixels",
        """r = Reshape (a, rows)
           t = Transpose <perm = [0, 2, 1]> (r)
           q = MatMul (t, r)
           shares = Softmax <axis = -1> (q)
           o = MatMul (r, shares)
           b = Reshape (o, image)""",
        rows=[1, 32, 256],
        image=[1, 32, 16, 16],
    ),
    between(
        "attention_of_channels",
        """m = ReduceMean <axes = [1], keepdims = 1> (a)
           q = ReduceMax <axes = [1], keepdims = 1> (a)
           c = Concat <axis = 1> (m, q)
           s = Conv <pads = [3, 3, 3, 3]> (c, K)
           g = Sigmoid (s)
           b = Mul (a, g)""",
        K=weights(1, 2, 7, 7),
    ),
    between(
        "squeeze_and_excite",
        """g = GlobalAveragePool (a)
           c = Conv (g, K)
           d = Sigmoid (c)
           b = Mul (a, d)""",
        K=weights(32, 32, 1, 1),
    ),
    behind(
        "classifier",
        """g = GlobalAveragePool (a)
           q = Squeeze (g, axes)
           y = Gemm <transB = 1> (q, M, z)""",
        axes=[2, 3],
        M=weights(10, 32),
        z=weights(10),
    ),
]

CONVOLUTIONS = [
    between("transposed_convolution", "b = ConvTranspose <strides = [2, 2]> (a, K)", K=weights(32, 32, 2, 2)),
    between(
        "transposed_convolution_of_groups",
        "b = ConvTranspose <strides = [2, 2], group = 4> (a, K)",
        K=weights(32, 8, 2, 2),
    ),
    behind(
        "transposed_convolution_of_few", "y = ConvTranspose <strides = [2, 2]> (a, K)", K=weights(32, 4, 2, 2)
    ),
    between(
        "one_dimensional_convolution",
        "r = Reshape (a, rows)  t = Conv <pads = [1, 1]> (r, K)  b = Reshape (t, image)",
        rows=[1, 32, 256],
        image=[1, 32, 16, 16],
        K=weights(32, 32, 3),
    ),
    between(
        "three_dimensional_convolution",
        "u = Unsqueeze (a, axis)  v = Conv <pads = [0, 1, 1, 0, 1, 1]> (u, K)  b = Squeeze (v, axis)",
        axis=[2],
        K=weights(32, 32, 1, 3, 3),
    ),
    between(
        "convolution_of_groups", "b = Conv <pads = [1, 1, 1, 1], group = 4> (a, K)", K=weights(32, 8, 3, 3)
    ),
    between(
        "depthwise_convolution_of_twice_the_channels",
        "b = Conv <pads = [1, 1, 1, 1], group = 32> (a, K)",
        channels=64,
        K=weights(64, 1, 3, 3),
    ),
    between(
        "convolution_with_uneven_steps",
        "b = Conv <pads = [0, 1, 2, 1], strides = [2, 1]> (a, K)",
        K=weights(32, 32, 3, 3),
    ),
    between(
        "convolution_with_automatic_padding",
        'b = Conv <auto_pad = "SAME_LOWER", strides = [2, 2]> (a, K)',
        K=weights(32, 32, 4, 4),
    ),
    between(
        "convolution_with_weights_as_input",
        "b = Conv <pads = [1, 1, 1, 1]> (a, K)",
        inputs="float[32,32,3,3] K",
    ),
    between("convolution_with_the_same_weights", "b = Conv <pads = [1, 1, 1, 1]> (a, head)"),
    between(
        "convolution_with_copied_weights",
        "k = Identity (K)  b = Conv <pads = [1, 1, 1, 1]> (a, k)",
        K=weights(32, 32, 3, 3),
    ),
    between(
        "convolution_with_quantised_weights",
        "k = DequantizeLinear (K, step, zero)  b = Conv <pads = [1, 1, 1, 1]> (a, k)",
        K=weights(32, 32, 3, 3, dtype=np.int8),
        step=0.002,
        zero=np.int8(0),
    ),
    between(
        "non_max_suppression_beside",
        """r = Reshape (a, rows)
           corners = Slice (r, zero, four, axis)
           boxes = Transpose <perm = [0, 2, 1]> (corners)
           scores = Slice (r, four, six, axis)
           selected = NonMaxSuppression (boxes, scores, most, overlap)
           b = Relu (a)""",
        rows=[1, 32, 256],
        zero=[0],
        four=[4],
        six=[6],
        axis=[1],
        most=10,
        overlap=0.5,
    ),
]

# These broke when all was tuned: at assembly, by a wrong result, by a crash. The smallest ones last.
NETWORKS = [
    case(
        "convolution_transposed_convolution",
        f"""(float[1,32,16,16] x) => (float[1,32,32,32] y) {{
            {HEAD}
            b = ConvTranspose <strides = [2, 2]> (a, up)
            {TAIL}
        }}""",
        head=KERNELS,
        up=weights(32, 32, 2, 2),
        tail=KERNELS,
    ),
    case(
        "transposed_convolution_first",
        f"""(float[1,32,16,16] x) => (float[1,32,32,32] y) {{
            b = ConvTranspose <strides = [2, 2]> (x, up)
            {TAIL}
        }}""",
        up=weights(32, 32, 2, 2),
        tail=KERNELS,
    ),
    case(
        "u_net",
        f"""(float[1,32,32,32] x) => (float[1,32,32,32] y) {{
            {HEAD}
            p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (a)
            q = Conv <pads = [1, 1, 1, 1]> (p, low)
            u = ConvTranspose <strides = [2, 2]> (q, up)
            b = Concat <axis = 1> (a, u)
            {TAIL}
        }}""",
        head=KERNELS,
        low=KERNELS,
        up=weights(32, 32, 2, 2),
        tail=weights(32, 64, 3, 3),
    ),
    behind("dropout", "y = Dropout (a)"),
    behind("sum", "y = Sum (a, x, a)"),
    behind("transposed_convolution", "y = ConvTranspose <strides = [2, 2]> (a, K)", K=weights(32, 32, 2, 2)),
    *(
        behind(
            f"three_dimensional_convolution_of_{size}",
            "u = Unsqueeze (a, axis)  v = Conv <pads = [0, 1, 1, 0, 1, 1]> (u, K)  y = Squeeze (v, axis)",
            size=size,
            axis=[2],
            K=weights(32, 32, 1, 3, 3),
        )
        for size in (16, 32)
    ),
    behind(
        "scaled_by_its_height",
        "shape = Shape (a)  h = Gather (shape, which)  f = Cast <to = 1> (h)  y = Div (a, f)",
        which=1,
    ),
]

CASES = [*PRODUCTS, *CONVOLUTIONS]
