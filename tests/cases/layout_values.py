"""Operators between convolutions that compute: norms, reductions, element by element.
Each was once refused, wrong or crashed with channels last."""

from __future__ import annotations

import numpy as np

from tests.cases.around_convolutions import KERNELS, TAIL, between, ends
from tests.cases.case import case, weights

NORMS = [
    between("instance_norm", "b = InstanceNormalization (a, s, t)", s=weights(32, scale=1.0), t=weights(32)),
    between(
        "group_norm",
        "b = GroupNormalization <num_groups = 4> (a, s, t)",
        opset=21,
        s=weights(32, scale=1.0),
        t=weights(32),
    ),
    between(
        "group_norm_in_parts",
        """r = Reshape (a, groups)
           n = InstanceNormalization (r, ones, zeros)
           m = Reshape (n, image)
           b = Mul (m, g)""",
        groups=[1, 4, 2048],
        image=[1, 32, 16, 16],
        ones=np.ones(4, np.float32),
        zeros=np.zeros(4, np.float32),
        g=weights(32, 1, 1, scale=1.0),
    ),
    between(
        "layer_norm_of_rows",
        "b = LayerNormalization <axis = -1> (a, s, t)",
        s=weights(16, scale=1.0),
        t=weights(16),
    ),
    between(
        "layer_norm_of_channels",
        """t = Transpose <perm = [0, 2, 3, 1]> (a)
           l = LayerNormalization <axis = -1> (t, s, z)
           m = MatMul (l, M)
           b = Transpose <perm = [0, 3, 1, 2]> (m)""",
        s=weights(32, scale=1.0),
        z=weights(32),
        M=weights(32, 32),
    ),
    between(
        "batch_norm_behind_relu",
        "r = Relu (a)  b = BatchNormalization (r, s, t, m, v)",
        s=weights(32, scale=1.0),
        t=weights(32),
        m=weights(32),
        v=np.full(32, 1.5, np.float32),
    ),
    case(
        "batch_norm_first",
        f"({ends('')}) => (float[] y) {{b = BatchNormalization (x, s, t, m, v)\n{TAIL}}}",
        tail=KERNELS,
        s=weights(32, scale=1.0),
        t=weights(32),
        m=weights(32),
        v=np.full(32, 1.5, np.float32),
    ),
    between("mean_variance_norm", "b = MeanVarianceNormalization <axes = [0, 2, 3]> (a)"),
    between("local_response_norm", "b = LRN <size = 5, alpha = 0.01> (a)"),
    between("length_of_channels", "n = ReduceL2 <axes = [1], keepdims = 1> (a)  b = Div (a, n)"),
]

REDUCTIONS = [
    between("softmax_of_channels", "b = Softmax <axis = 1> (a)"),
    between("softmax_of_rows", "b = Softmax <axis = -1> (a)"),
    between("log_softmax_of_channels", "b = LogSoftmax <axis = 1> (a)"),
    between(
        "softmax_of_everything",
        "f = Flatten <axis = 1> (a)  q = Softmax <axis = 1> (f)  b = Reshape (q, image)",
        image=[1, 32, 16, 16],
    ),
    between("maximum_of_channels", "r = ReduceMax <axes = [1], keepdims = 1> (a)  b = Mul (a, r)"),
    between(
        "mean_of_pixels",
        "r = ReduceMean <axes = [2, 3], keepdims = 0> (a)  u = Unsqueeze (r, axes)  b = Add (a, u)",
        axes=[2, 3],
    ),
    between(
        "mean_of_channels",
        "r = ReduceMean <axes = [1], keepdims = 0> (a)  u = Unsqueeze (r, axes)  b = Add (a, u)",
        axes=[1],
    ),
    between(
        "place_of_the_largest_channel",
        "r = ArgMax <axis = 1, keepdims = 1> (a)  f = Cast <to = 1> (r)  b = Add (a, f)",
    ),
    between(
        "one_hot_of_channels",
        "r = ArgMax <axis = 1, keepdims = 0> (a)  b = OneHot <axis = 1> (r, depth, values)",
        depth=32,
        values=[0.0, 1.0],
    ),
    between("hardmax_of_channels", "b = Hardmax <axis = 1> (a)"),
    between("cumulated_rows", "b = CumSum (a, axis)", axis=2),
    between("cumulated_channels", "b = CumSum (a, axis)", axis=1),
    between("sorted_channels", "b, j = TopK <axis = 1> (a, count)", count=[32]),
    between(
        "sum_over_groups_of_channels",
        """r = Reshape (a, groups)
           t = ReduceSum <keepdims = 1> (r, axis)
           u = Mul (r, t)
           b = Reshape (u, image)""",
        groups=[1, 2, 16, 256],
        axis=[2],
        image=[1, 32, 16, 16],
    ),
    between(
        "stacked_and_summed",
        "u = Unsqueeze (a, axis)  c = Concat <axis = 1> (u, u)  b = ReduceSum <keepdims = 0> (c, axis)",
        axis=[1],
    ),
]

ELEMENTS = [
    between("prelu", "b = PRelu (a, slope)", slope=weights(32, 1, 1, scale=0.3)),
    between("hardswish", "b = HardSwish (a)"),
    between("power", "q = Abs (a)  b = Pow (q, exponent)", exponent=1.5),
    between("sum_of_three", "b = Sum (a, x, a)"),
    between("mean_of_two", "b = Mean (a, x)"),
    between("dropout_identity", "d = Dropout (a)  b = Identity (d)"),
    between("half_and_back", "q = Cast <to = 10> (a)  b = Cast <to = 1> (q)"),
    between("add_columns", "b = Add (a, v)", v=weights(16)),
    between("add_pixels", "b = Add (a, v)", v=weights(16, 16)),
    between("add_channels", "b = Add (a, v)", v=weights(32, 1, 1)),
    between("add_an_input_of_channels", "b = Add (a, v)", inputs="float[32,1,1] v"),
    between("add_an_input_of_columns", "b = Add (a, v)", inputs="float[16] v"),
    between("where_of_pixels", "b = Where (m, a, zero)", inputs="bool[1,1,16,16] m", zero=0.0),
    between("where_of_elements", "m = Greater (a, zero)  b = Where (m, a, x)", zero=0.0),
    between("where_of_one_switch", "b = Where (m, a, x)", inputs="bool[1] m"),
    between(
        "quantised_by_channel",
        "q = QuantizeLinear <axis = 1> (a, s, z)  b = DequantizeLinear <axis = 1> (q, s, z)",
        s=np.full(32, 0.05, np.float32),
        z=np.zeros(32, np.int8),
    ),
    between("also_an_output", "b = Relu (a)", outputs="float[] y, float[] a"),
    between(
        "if_of_its_sum",
        """s = ReduceSum <keepdims = 0> (a)
           positive = Greater (s, zero)
           b = If (positive) <
             then_branch = then () => (float[1,32,16,16] t) {t = Relu (a)},
             else_branch = else () => (float[1,32,16,16] e) {e = Neg (a)}
           >""",
        zero=0.0,
    ),
]

CASES = [*NORMS, *REDUCTIONS, *ELEMENTS]
