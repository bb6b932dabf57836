"""Operators with a meaning that is easily missed: recurrent, integer, quantised, of half precision,
rounding."""

from __future__ import annotations

import numpy as np
import onnx

from tests.cases.case import Case, case, model, weights

HALF = np.float16


def recurrent(operator: str, gates: int, results: str) -> Case:
    return case(
        operator.lower(),
        f"""(float[10,1,8] x) => (float[10,1,16] y) {{
            {results} = {operator} <hidden_size = 16> (x, W, R, B)
            y = Squeeze (steps, axis)
        }}""",
        W=weights(1, gates * 16, 8),
        R=weights(1, gates * 16, 16),
        B=weights(1, 2 * gates * 16),
        axis=[1],
    )


RECURRENT = [
    recurrent("LSTM", 4, "steps, last, cell"),
    recurrent("GRU", 3, "steps, last"),
    recurrent("RNN", 1, "steps, last"),
]

INTEGERS = [
    # Two tables, the second with two rows: what a segment's number looks up in a BERT.
    case(
        "rows_of_tables",
        """(int64[1,128] tokens, int64[1,128] segments) => (float[1,128,32] y) {
            words = Gather (vocabulary, tokens)
            parts = Gather (two, segments)
            s = Add (words, parts)
            y = MatMul (s, W)
        }""",
        vocabulary=weights(1000, 64, scale=1.0),
        two=weights(2, 64, scale=1.0),
        W=weights(64, 32),
    ),
    case(
        "integer_division",
        """(int64[8,16] a, int64[8,16] b) => (float[8,16] y) {
            q = Div (a, b)
            f = Cast <to = 1> (q)
            y = MatMul (f, W)
        }""",
        W=weights(16, 16),
    ),
]

# Attributes that TVM's importer drops without a word.
ATTRIBUTES = [
    case(
        "positive_infinities",
        """(float[4,16] x) => (float[4,16] y) {
            a = MatMul (x, W)
            b = Div (a, zero)
            i = IsInf <detect_negative = 0> (b)
            y = Cast <to = 1> (i)
        }""",
        W=weights(16, 16),
        zero=0.0,
    ),
    case(
        "transposed_convolution_of_a_wanted_size",
        """(float[1,4,3,3] x) => (float[1,8,10,8] y) {
            y = ConvTranspose <strides = [3, 2], output_shape = [10, 8]> (x, K)
        }""",
        K=weights(4, 8, 3, 3),
    ),
]

STEPS = {"step": 0.02, "middle": np.uint8(128), "out": 0.05}
QUANTISED = [
    case(
        "quantised_around_a_convolution",
        """(float[1,16,28,28] x) => (float[1,32,28,28] y) {
            q = QuantizeLinear (x, step, middle)
            d = DequantizeLinear (q, step, middle)
            k = DequantizeLinear <axis = 0> (K, steps, zeros)
            c = Conv <pads = [1, 1, 1, 1]> (d, k)
            r = Relu (c)
            rq = QuantizeLinear (r, out, middle)
            y = DequantizeLinear (rq, out, middle)
        }""",
        K=weights(32, 16, 3, 3, dtype=np.int8),
        steps=np.full(32, 0.01, np.float32),
        zeros=np.zeros(32, np.int8),
        **STEPS,
    ),
    case(
        "quantised_convolution",
        """(float[1,16,28,28] x) => (float[1,32,28,28] y) {
            q = QuantizeLinear (x, step, middle)
            c = QLinearConv <pads = [1, 1, 1, 1]> (q, step, middle, K, small, zero, out, middle)
            y = DequantizeLinear (c, out, middle)
        }""",
        K=weights(32, 16, 3, 3, dtype=np.int8),
        small=0.01,
        zero=np.int8(0),
        **STEPS,
    ),
    case(
        "dynamically_quantised_product",
        """(float[8,64] x) => (float[8,64] y) {
            q, s, z = DynamicQuantizeLinear (x)
            a = MatMulInteger (q, W, z, zero)
            f = Cast <to = 1> (a)
            scale = Mul (s, small)
            y = Mul (f, scale)
        }""",
        W=weights(64, 64, dtype=np.int8),
        zero=np.int8(0),
        small=0.01,
    ),
    case(
        "integer_convolution",
        """(float[1,8,16,16] x) => (float[1,16,16,16] y) {
            q, s, z = DynamicQuantizeLinear (x)
            a = ConvInteger <pads = [1, 1, 1, 1]> (q, K, z, zero)
            f = Cast <to = 1> (a)
            y = Mul (f, s)
        }""",
        K=weights(16, 8, 3, 3, dtype=np.int8),
        zero=np.int8(0),
    ),
]


def narrow_weights() -> onnx.ModelProto:
    """As those who make large models small leave them: of 4 bits in blocks of 16, and floats of 8 bits."""
    made = model(
        """(float[8,64] x) => (float[8,64] y) {
            w = DequantizeLinear <axis = 0, block_size = 16> (W, steps, zeros)
            v = DequantizeLinear <axis = 1> (V, scales)
            a = MatMul (x, w)
            y = MatMul (a, v)
        }""",
        {"steps": weights(4, 64), "scales": weights(64)},
        opset=21,
    )
    types = onnx.TensorProto
    made.graph.initializer.extend(
        [
            onnx.helper.make_tensor("W", types.UINT4, [64, 64], [each * 7 % 16 for each in range(4096)]),
            onnx.helper.make_tensor("zeros", types.UINT4, [4, 64], [each % 16 for each in range(256)]),
            onnx.helper.make_tensor(
                "V", types.FLOAT8E4M3FN, [64, 64], [each % 9 - 4 for each in range(4096)]
            ),
        ]
    )
    return made


# The sines of its last row are zero in one implementation, and rounding errors in the other.
TRANSFORMED = [
    case(
        "spectrum_of_a_real_signal",
        "(float[1,16,1] x) => (float[1,9,2] y) {y = DFT <axis = 1, onesided = 1> (x)}",
    )
]

QUANTISED += [Case("weights_of_four_and_eight_bits", narrow_weights)]

# Once compared with a tolerance that hides what is wrong, or not at all.
CHECKS = [
    # A tolerance for all of an output hides its small part.
    case(
        "two_scales",
        """(float[8,64] x) => (float[8,128] y) {
            a = MatMul (x, W)
            b = Mul (a, large)
            y = Concat <axis = 1> (b, a)
        }""",
        W=weights(64, 64),
        large=1e6,
    ),
    case(
        "mask_of_minus_infinity",
        """(float[8,64] x, bool[8,64] m) => (float[8,64] y) {
            a = MatMul (x, W)
            b = Where (m, a, far)
            y = Softmax <axis = -1> (b)
        }""",
        W=weights(64, 64),
        far=-np.inf,
    ),
    case(
        "place_of_the_largest_rounded",
        """(float[64,64] x) => (int64[64] y) {
            a = MatMul (x, W)
            r = Round (a)
            y = ArgMax <axis = -1, keepdims = 0> (r)
        }""",
        W=weights(64, 64),
    ),
    case(
        "threshold",
        "(float[256,256] x) => (bool[256,256] y) {a = MatMul (x, W)  y = Greater (a, zero)}",
        W=weights(256, 256),
        zero=0.0,
    ),
    case(
        "product_cut_to_integers",
        """(float[128,128] x) => (int32[128,128] y) {
            a = MatMul (x, W)
            b = Mul (a, thousand)
            y = Cast <to = 6> (b)
        }""",
        W=weights(128, 128),
        thousand=1000.0,
    ),
    # NaN for half of all inputs.
    case(
        "logarithm_of_negative_numbers",
        "(float[64,64] x) => (float[64,64] y) {a = MatMul (x, W)  b = Log (a)  y = Sqrt (b)}",
        W=weights(64, 64),
    ),
    case(
        "sine_of_large_numbers",
        "(float[64,256] x) => (float[64,64] y) {a = MatMul (x, W)  b = Mul (a, k)  y = Sin (b)}",
        W=weights(256, 64),
        k=1e4,
    ),
    # As good as linear.
    case(
        "tanh_of_small_numbers",
        "(float[8,64] x) => (float[8,64] y) {a = MatMul (x, W)  b = Mul (a, k)  y = Tanh (b)}",
        W=weights(64, 64),
        k=1e-4,
    ),
    # NaN everywhere, but for inputs that are all positive.
    case(
        "sum_of_logarithms",
        """(float[8,64] x) => (float[8,64] y) {
            a = MatMul (x, W)
            l = Log (a)
            s = ReduceSum <keepdims = 1> (l, axes)
            y = Mul (l, s)
        }""",
        W=weights(64, 64, scale=1.0, positive=True),
        axes=[1],
    ),
]

# Candidates sum in another order or in another precision: of each of these all were wrong, or none where some
# should have been.
PRECISION = [
    case(
        "half_perceptron",
        "(float16[16,256] x) => (float16[16,256] y) {a = MatMul (x, W)  b = Relu (a)  y = MatMul (b, W)}",
        W=weights(256, 256, dtype=HALF),
    ),
    case(
        "half_softmax",
        "(float16[16,64] x) => (float16[16,512] y) {a = MatMul (x, W)  y = LogSoftmax <axis = -1> (a)}",
        W=weights(64, 512, dtype=HALF),
    ),
    case(
        "half_long_sum",
        """(float16[8,8192] x) => (float16[8,1] y) {
            s = ReduceSum <keepdims = 1> (x, axes)
            y = Mul (s, k)
        }""",
        axes=[1],
        k=HALF(0.01),
    ),
    *(
        case(
            f"half_product_over_{length}",
            f"(float16[8,{length}] x) => (float16[8,64] y) {{a = MatMul (x, W)  y = Relu (a)}}",
            W=weights(length, 64, dtype=HALF),
        )
        for length in (1024, 4096)
    ),
    case(
        "half_layer_norm",
        """(float16[16,64] x) => (float16[16,1024] y) {
            a = MatMul (x, W)
            y = LayerNormalization <axis = -1> (a, scale, bias)
        }""",
        W=weights(64, 1024, dtype=HALF),
        scale=weights(1024, dtype=HALF, scale=1.0),
        bias=weights(1024, dtype=HALF),
    ),
    # NaN for all inputs below 1, of the kernel as of the model.
    case("inverse_hyperbolic_cosine", "(float[8,32] x) => (float[8,32] y) {y = Acosh (x)}"),
    # Another order of summing flips a few elements by one step.
    case(
        "product_in_steps",
        """(float[256,256] x) => (int32[256,256] y) {
            a = MatMul (x, W)
            b = Mul (a, thousand)
            f = Floor (b)
            y = Cast <to = 6> (f)
        }""",
        W=weights(256, 256),
        thousand=1000.0,
    ),
]

# Importers and passes of the graph took these for something else.
ALIKE = [
    # Moved by half a pixel of another image, before it was scaled.
    case(
        "regions_of_another_scale",
        """(float[1,3,12,12] x) => (float[2,3,4,4] y) {
            y = RoiAlign <
              output_height = 4, output_width = 4, sampling_ratio = 2, spatial_scale = 0.5
            > (x, boxes, images)
        }""",
        opset=16,
        boxes=[[0.0, 0.0, 9.0, 9.0], [2.0, 3.0, 20.0, 21.0]],
        images=[0, 0],
    ),
    # As PyTorch's exporter writes a whole number divided by another.
    case(
        "truth_compared",
        """(int64[4,9] x, bool[9] z) => (int64[4,9] y, bool[9] w) {
            negative = Less (x, zero)
            differ = Equal (negative, always)
            rest = Mod (x, three)
            some = Cast <to = 9> (rest)
            less = And (differ, some)
            one = Cast <to = 7> (less)
            quotient = Div (x, three)
            y = Sub (quotient, one)
            v = Not (z)
            w = Equal (z, v)
        }""",
        zero=0,
        three=3,
        always=np.bool_(True),
    ),
    # It reads what it writes, like a factor.
    case(
        "product_over_an_axis",
        "(float[3,7] x) => (float[3,1] y) {y = ReduceProd (x, axes)}",
        opset=18,
        axes=[1],
    ),
    case(
        "half_samples_of_a_grid",
        "(float16[1,2,5,5] x, float16[1,4,4,2] g) => (float16[1,2,4,4] y) {y = GridSample (x, g)}",
        opset=20,
    ),
    case("half_local_response_norm", "(float16[1,8,5,5] x) => (float16[1,8,5,5] y) {y = LRN <size = 3> (x)}"),
]

CASES = [*RECURRENT, *INTEGERS, *ATTRIBUTES, *QUANTISED, *TRANSFORMED, *ALIKE]
