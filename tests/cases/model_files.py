"""What files of strangers hold besides operators: functions, control flow, shapes, unusual inputs and
outputs."""

from __future__ import annotations

import numpy as np
import onnx

from tests.cases.case import Case, case, model, renamed, weights

PRODUCT = "(float[8,32] x) => (float[8,32] y) {y = MatMul (x, W)}"
SQUARE = weights(32, 32)

FILES = [
    # `torch.onnx.export` writes this by default since 2.9.
    case(
        "external_data",
        "(float[8,64] x) => (float[8,64] y) {a = MatMul (x, W)  y = Relu (a)}",
        external=True,
        W=weights(64, 64),
    ),
    case(
        "local_function",
        "(float[8,32] x) => (float[8,32] y) {a = MatMul (x, W)  y = local.Square (a)}",
        functions='<domain: "local", opset_import: ["": 17]> Square (a) => (b) {b = Mul (a, a)}',
        W=SQUARE,
    ),
]

# Shape arithmetic as exporters write it for a batch and a sequence of any length.
DYNAMIC_SHAPES = [
    case(
        "dynamic_heads",
        """(float[b,s,32] x) => (float[b,4,s,s] y) {
            a = MatMul (x, W)
            shape = Shape (x)
            b0 = Gather (shape, zero)
            s0 = Gather (shape, one)
            b1 = Unsqueeze (b0, axis)
            s1 = Unsqueeze (s0, axis)
            wanted = Concat <axis = 0> (b1, s1, heads)
            r = Reshape (a, wanted)
            q = Transpose <perm = [0, 2, 1, 3]> (r)
            k = Transpose <perm = [0, 2, 3, 1]> (r)
            y = MatMul (q, k)
        }""",
        shapes={"x": [2, 12, 32]},
        W=SQUARE,
        zero=0,
        one=1,
        axis=[0],
        heads=[4, 8],
    ),
    # As torch 2.13 writes it.
    case(
        "dynamic_torch",
        """(float[b,s,32] x) => (float y) {
            d0 = Shape <start = 0, end = 1> (x)
            d1 = Shape <start = 1, end = 2> (x)
            wanted = Concat <axis = 0> (d0, d1, heads)
            a = MatMul (x, W)
            r = Reshape <allowzero = 1> (a, wanted)
            y = ReduceSum <keepdims = 0> (r)
        }""",
        opset=20,
        shapes={"x": [4, 4, 32]},
        W=SQUARE,
        heads=[4, 8],
    ),
    case(
        "dynamic_causal_mask",
        """(float[b,s,32] x) => (float[b,s,s] y) {
            shape = Shape (x)
            length = Gather (shape, one)
            places = Range (zero, length, one)
            rows = Unsqueeze (places, first)
            columns = Unsqueeze (places, second)
            mask = LessOrEqual (rows, columns)
            a = MatMul (x, W)
            turned = Transpose <perm = [0, 2, 1]> (a)
            scores = MatMul (a, turned)
            masked = Where (mask, scores, far)
            y = Softmax <axis = -1> (masked)
        }""",
        shapes={"x": [4, 4, 32]},
        W=SQUARE,
        zero=0,
        one=1,
        first=[0],
        second=[1],
        far=-1e9,
    ),
]


def chain(length: int) -> str:
    """An unrolled recurrence of this many steps, a matrix product in every fiftieth."""
    steps = [
        f"h{step + 1} = MatMul (h{step}, W)" if step % 50 == 0 else f"h{step + 1} = Add (h{step}, bias)"
        for step in range(length)
    ]
    lines = "\n".join(steps)
    return f"(float[4,16] h0) => (float[4,16] y) {{\n{lines}\ny = Tanh (h{length})\n}}"


DEEP = [
    case(f"deep_{length}", chain(length), W=weights(16, 16), bias=weights(16, scale=0.001))
    for length in (500, 2000, 6000)
]

CONTROL_FLOW = [
    case(
        "if",
        """(float[8,32] x) => (float[8,32] y) {
            sum = ReduceSum <keepdims = 0> (x)
            positive = Greater (sum, zero)
            q = If (positive) <
                then_branch = then () => (float[8,32] t) {t = MatMul (x, W)},
                else_branch = else () => (float[8,32] e) {e = Mul (x, two)}
            >
            y = MatMul (q, W)
        }""",
        W=SQUARE,
        two=2.0,
        zero=0.0,
    ),
    # As in silero-vad, which has a branch for every sampling rate.
    case(
        "if_of_a_constant",
        """(float[8,32] x) => (float[8,32] y) {
            always = Constant <value = bool {1}> ()
            q = If (always) <
                then_branch = then () => (float[8,32] t) {t = MatMul (x, W)},
                else_branch = else () => (float[8,32] e) {e = Relu (x)}
            >
            y = MatMul (q, W)
        }""",
        W=SQUARE,
    ),
    case(
        "loop",
        """(float[8,32] x) => (float[8,32] y) {
            y = Loop (count, always, x) <
                body = body (int64 step, bool go, float[8,32] state) => (bool goes, float[8,32] next) {
                    product = MatMul (state, W)
                    next = Tanh (product)
                    goes = Identity (go)
                }
            >
        }""",
        W=SQUARE,
        count=5,
        always=True,
    ),
]

ENDS = [
    case(
        "scalar_input",
        "(float[8,32] x, float t) => (float[8,32] y) {a = MatMul (x, W)  y = Mul (a, t)}",
        W=SQUARE,
    ),
    case(
        "same_output_twice",
        "(float[8,32] x) => (float[8,32] y, float[8,32] again) {y = MatMul (x, W)  again = Identity (y)}",
        W=SQUARE,
    ),
    case(
        "output_is_a_copy_of_the_input",
        "(float[8,32] x) => (float[8,32] y, float[8,32] copy) {y = MatMul (x, W)  copy = Identity (x)}",
        W=SQUARE,
    ),
    case(
        "output_is_the_input",
        "(float[8,32] x) => (float[8,32] y, float[8,32] x) {y = MatMul (x, W)}",
        W=SQUARE,
    ),
    case(
        "constant_output",
        """(float[8,32] x) => (float[8,32] y, int64[3] k) {
            y = MatMul (x, W)
            k = Constant <value = int64[3] {1, 2, 3}> ()
        }""",
        W=SQUARE,
    ),
    case(
        "weights_output",
        "(float[8,32] x) => (float[8,32] y, float[32,32] W) {y = MatMul (x, W)}",
        W=SQUARE,
    ),
    case("unused_input", "(float[8,32] x, int64 rate) => (float[8,32] y) {y = MatMul (x, W)}", W=SQUARE),
    case(
        "uint8_image",
        """(uint8[1,32,32,3] x) => (float[1,16,32,32] y) {
            f = Cast <to = 1> (x)
            t = Transpose <perm = [0, 3, 1, 2]> (f)
            y = Conv <pads = [1, 1, 1, 1]> (t, K)
        }""",
        K=weights(16, 3, 3, 3),
    ),
    case(
        "string_input",
        '(string[3] x) => (string[3] y) {y = StringNormalizer <case_change_action = "LOWER"> (x)}',
        refused="the input x holds strings, which cannot be computed with",
    ),
    case(
        "double",
        "(double[8,32] x) => (double[8,32] y) {y = MatMul (x, W)}",
        W=weights(32, 32, dtype=np.float64),
    ),
    case(
        "shape_output",
        "(float[8,32] x) => (float[8,32] y, int64[2] s) {y = MatMul (x, W)  s = Shape (x)}",
        W=SQUARE,
    ),
    Case(
        "names_with_punctuation",
        lambda: renamed(
            model(
                "(float[8,32] x, float[8,32] b) => (float[8,32] y) {a = MatMul (x, W)  y = Add (a, b)}",
                {"W": SQUARE},
            ),
            {"x": "a.b", "b": "a/b:0", "a": "a_b", "y": "out=1"},
        ),
    ),
    case("empty_batch", "(float[0,32] x) => (float[0,32] y) {y = MatMul (x, W)}", W=SQUARE, untunable=True),
]

# Of these the library was one that no loader takes.
WITHOUT_KERNELS = [
    case("copy_of_the_input_only", "(float[4,8] x) => (float[4,8] y) {y = Identity (x)}", untunable=True),
    case("constants_only", "() => (float[32,32] y) {y = Relu (W)}", W=SQUARE, untunable=True),
    case(
        "empty_weights",
        "(float[4,8] x) => (float[4,8] y, float[4,0] E) {a = MatMul (x, W)  y = Concat <axis = 1> (E, a)}",
        W=weights(8, 8),
        E=np.zeros((4, 0), np.float32),
    ),
]


def twice_a_weight() -> onnx.ModelProto:
    made = model(PRODUCT, {"W": SQUARE})
    made.graph.initializer.append(made.graph.initializer[0])
    return made


def without_outputs() -> onnx.ModelProto:
    made = model(PRODUCT, {"W": SQUARE})
    del made.graph.output[:]
    return made


def optional_input() -> onnx.ModelProto:
    made = model("(float[2] x) => (bool y) {y = OptionalHasElement (x)}", {}, opset=18)
    kind = onnx.helper.make_optional_type_proto(made.graph.input[0].type)
    made.graph.input[0].CopyFrom(onnx.helper.make_value_info("x", kind))
    return made


DAMAGED = [
    Case("weight_twice", twice_a_weight, refused="two weights are called W"),
    Case("no_outputs", without_outputs, refused="names no output"),
    Case("optional_input", optional_input, refused="x is no tensor, but a value of the kind optional"),
    case(
        "copy_of_itself",
        "(float[8] x) => (float[8] y) {a = Relu (x)  b = Identity (a)  a = Identity (b)  y = Frob (a)}",
        refused="no such operator",
    ),
    case("no_operators", "(float[8] x) => (float[8] x) {}", refused="has no operators"),
]

DATA_DEPENDENT = [
    case(
        "non_max_suppression",
        """(float[1,3,32,32] x) => (int64[n,3] y) {
            map = Conv <strides = [4, 4]> (x, K)
            rows = Reshape (map, flat)
            boxes = Transpose <perm = [0, 2, 1]> (rows)
            scores = Slice (rows, zero, one, one)
            y = NonMaxSuppression (boxes, scores, most, overlap)
        }""",
        K=weights(4, 3, 4, 4),
        flat=[1, 4, 64],
        zero=[0],
        one=[1],
        most=10,
        overlap=0.5,
    ),
    case("non_zero", "(float[8,32] x) => (int64[2,n] y) {a = MatMul (x, W)  y = NonZero (a)}", W=SQUARE),
    case(
        "rows_of_places",
        "(float[8,32] x) => (int64[n] y) {i = NonZero (x)  y = Gather (i, zero)}",
        zero=0,
        refused="the Gather node y: the shape of i depends on the data; end the model before it",
    ),
    case(
        "top_k_of_a_computed_count",
        """(float[8,32] x) => (float[8,32] v, int64[8,32] j) {
            a = MatMul (x, W)
            shape = Shape (a)
            count = Gather (shape, last)
            v, j = TopK <axis = -1> (a, count)
        }""",
        W=SQUARE,
        last=[1],
    ),
]

CASES = [*FILES, *DYNAMIC_SHAPES, *DEEP, *CONTROL_FLOW, *ENDS, *DAMAGED, *DATA_DEPENDENT]
