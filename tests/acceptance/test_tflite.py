"""Models of TensorFlow Lite, written here field by field; LiteRT says what they compute."""

from __future__ import annotations

from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from tests.acceptance.direct import AS_GIVEN, assemble, import_model, run
from tunemesh.shared.errors import BadModel
from tunemesh.stage_workers import frontends
from tunemesh.stage_workers.frontends import Source, Variant

RANDOM = np.random.default_rng(4)
TYPES = {
    "float32": schema.TensorType.FLOAT32,
    "int8": schema.TensorType.INT8,
    "int32": schema.TensorType.INT32,
}


class Network:
    """A TFLite model with one subgraph."""

    def __init__(self) -> None:
        self.graph = schema.SubGraphT()
        self.graph.tensors, self.graph.operators = [], []
        self.model = schema.ModelT()
        self.model.version, self.model.subgraphs, self.model.operatorCodes = 3, [self.graph], []
        self.model.buffers = [schema.BufferT()]

    def tensor(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: str = "float32",
        data: Any = None,
        scale: float | None = None,
        signature: tuple[int, ...] | None = None,
    ) -> int:
        made = schema.TensorT()
        made.name, made.shape, made.type = name, list(shape), TYPES[dtype]
        made.shapeSignature = list(signature) if signature else None
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data, dtype).tobytes(), np.uint8)
            self.model.buffers.append(buffer)
            made.buffer = len(self.model.buffers) - 1
        if scale is not None:
            made.quantization = schema.QuantizationParametersT()
            made.quantization.scale, made.quantization.zeroPoint = [scale], [0]
        self.graph.tensors.append(made)
        return len(self.graph.tensors) - 1

    def operator(self, code: int, inputs: list[int], output: int, options: Any, kind: int) -> None:
        made, registered = schema.OperatorT(), schema.OperatorCodeT()
        registered.builtinCode = code
        registered.deprecatedBuiltinCode, registered.version = min(code, 127), 1
        made.opcodeIndex, made.inputs, made.outputs = len(self.model.operatorCodes), inputs, [output]
        made.builtinOptions, made.builtinOptionsType = options, kind
        self.model.operatorCodes.append(registered)
        self.graph.operators.append(made)

    def connect(self, x: int, weights: int, bias: int, y: int, relu: bool = False) -> None:
        options = schema.FullyConnectedOptionsT()
        options.fusedActivationFunction = int(relu)
        code, kind = schema.BuiltinOperator.FULLY_CONNECTED, schema.BuiltinOptions.FullyConnectedOptions
        self.operator(code, [x, weights, bias], y, options, kind)

    def encode(self, inputs: list[int], outputs: list[int]) -> bytes:
        self.graph.inputs, self.graph.outputs = inputs, outputs
        builder = flatbuffers.Builder()
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def convolution() -> bytes:
    net = Network()
    x = net.tensor("image", (1, 8, 8, 3))
    kernel = net.tensor("kernel", (4, 3, 3, 3), data=RANDOM.normal(size=(4, 3, 3, 3)))
    bias = net.tensor("bias", (4,), data=RANDOM.normal(size=4))
    y = net.tensor("features", (1, 4, 4, 4))
    options = schema.Conv2DOptionsT()
    options.strideH = options.strideW = 2
    options.fusedActivationFunction = 1
    kind = schema.BuiltinOptions.Conv2DOptions
    net.operator(schema.BuiltinOperator.CONV_2D, [x, kernel, bias], y, options, kind)
    return net.encode([x], [y])


def dense(signature: tuple[int, ...] | None = None) -> bytes:
    net = Network()
    x = net.tensor("x", (2, 16), signature=signature)
    weights = net.tensor("w", (8, 16), data=RANDOM.normal(size=(8, 16)))
    bias = net.tensor("b", (8,), data=RANDOM.normal(size=8))
    y = net.tensor("y", (2, 8), signature=signature and (-1, 8))
    net.connect(x, weights, bias, y, relu=True)
    return net.encode([x], [y])


def quantised() -> bytes:
    net = Network()
    x = net.tensor("x", (4, 16), "int8", scale=0.05)
    weights = net.tensor("w", (8, 16), "int8", RANDOM.integers(-127, 127, (8, 16)), scale=0.01)
    bias = net.tensor("b", (8,), "int32", RANDOM.integers(-500, 500, 8), scale=0.05 * 0.01)
    y = net.tensor("y", (4, 8), "int8", scale=0.1)
    net.connect(x, weights, bias, y)
    return net.encode([x], [y])


def judged(model: bytes, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """What LiteRT computes."""
    interpreter = Interpreter(model_content=model)
    interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    return np.asarray(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))


@pytest.mark.parametrize("options", [AS_GIVEN, {}], ids=["as-given", "default"])
def test_a_convolution_computes_what_it_does_in_litert(target: str, options: dict[str, str]) -> None:
    model = convolution()
    x = RANDOM.normal(size=(1, 8, 8, 3)).astype(np.float32)
    imported = import_model(model, target, options)
    got = run(assemble(imported.model, target).untuned, x)
    np.testing.assert_allclose(got, judged(model, x), rtol=1e-5, atol=1e-5)


def test_eight_bit_integers_differ_by_one_step_at_most(target: str) -> None:
    model = quantised()
    x = RANDOM.integers(-127, 127, (4, 16)).astype(np.int8)
    got = run(assemble(import_model(model, target).model, target).untuned, x)
    expected = judged(model, x)
    assert got.dtype == expected.dtype == np.int8
    assert len(np.unique(expected)) > 8
    assert np.abs(got.astype(int) - expected.astype(int)).max() <= 1


def test_an_open_dimension_is_fixed_by_the_shape(target: str) -> None:
    model = dense((-1, 16))
    with pytest.raises(BadModel, match=r"the input x has a dynamic shape .* --shape x=1,16"):
        import_model(model, target)
    imported = import_model(model, target, shapes={"x": [5, 16]})
    assert imported.judged[0].judge.startswith("LiteRT")
    x = RANDOM.normal(size=(5, 16)).astype(np.float32)
    got = run(assemble(imported.model, target).untuned, x)
    np.testing.assert_allclose(got, judged(model, x), rtol=1e-5, atol=1e-5)


def test_names_are_those_of_the_file(target: str) -> None:
    _, signature = frontends.read(Source(convolution()), Variant())
    assert [each.name for each in signature.inputs + signature.outputs] == ["image", "features"]


def sparse() -> bytes:
    net = Network()
    x = net.tensor("x", (2, 16))
    weights = net.tensor("w", (8, 16), data=RANDOM.normal(size=(8, 16)))
    net.graph.tensors[weights].sparsity = schema.SparsityParametersT()
    y = net.tensor("y", (2, 8))
    net.connect(x, weights, net.tensor("b", (8,), data=np.zeros(8)), y)
    return net.encode([x], [y])


def custom() -> bytes:
    net = Network()
    x, y = net.tensor("x", (2, 16)), net.tensor("y", (2, 16))
    net.operator(schema.BuiltinOperator.CUSTOM, [x], y, None, 0)
    net.model.operatorCodes[0].customCode = b"FlexErf"
    return net.encode([x], [y])


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (dense()[:300], "truncated or damaged"),
        (b"\x1c\x00\x00\x00TFL3" + b"\xff" * 300, "truncated or damaged"),
        (Network().encode([], []), "has no operators"),
        (sparse(), "tensor w .* is sparse"),
        (custom(), "FlexErf"),
    ],
)
def test_what_cannot_be_imported_is_named_in_one_line(target: str, model: bytes, said: str) -> None:
    with pytest.raises(BadModel, match=said) as caught:
        import_model(model, target)
    assert "\n" not in str(caught.value)
