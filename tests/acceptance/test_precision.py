"""Products and convolutions in bfloat16, right as far as that is and refused by name; and those of quantised
models in integers. Real TVM."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto

from tests.acceptance import direct
from tests.acceptance.test_layouts import Network
from tests.onnx_models import floats, model, node, value
from tunemesh.shared.errors import BadTarget
from tunemesh.shared.messages import Precision
from tunemesh.stage_workers.graph import dots, models, workloads
from tunemesh.stage_workers.measuring.comparison import Array
from tunemesh.stage_workers.platforms.protocol import Imported

OLD = '{"kind": "llvm", "mcpu": "znver3"}'


@pytest.fixture
def narrow(target: str) -> str:
    """A target that multiplies bfloat16."""
    if not dots.BFLOAT16[0].runs_on(target):
        pytest.skip("this CPU has no avx512_bf16")
    return target


def two_layers() -> bytes:
    net = Network(4, 32)
    hidden = net.op("Relu", net.dense("x", 32, 48))
    return bytes(net.made(net.dense(hidden, 48, 16)).SerializeToString())


def convolutions() -> bytes:
    """One with zeros around it, one with a stride, one of 8 outputs."""
    net = Network(1, 16, 9, 9)
    first = net.op("Relu", net.conv("x", 16, 32, size=3))
    second = net.op("Relu", net.conv(first, 32, 16, size=3, stride=2))
    return bytes(net.made(net.conv(second, 16, 8, size=1)).SerializeToString())


def of_colours() -> bytes:
    """First an image of three channels, one line of pixels behind the other."""
    net = Network(1, 3, 9, 14)
    first = net.op("Relu", net.conv("x", 3, 32, size=5, stride=2))
    # Where it gives 0, it would as well with a little more or less of everything, in single precision.
    return bytes(net.made(net.op("Relu", net.conv(first, 32, 8, size=1))).SerializeToString())


def residual() -> bytes:
    net = Network(4, 32)
    hidden = net.op("Relu", net.dense("x", 32, 32))
    return bytes(net.made(net.op("Add", net.dense(hidden, 32, 32), hidden)).SerializeToString())


def marks(imported: Imported) -> list[str]:
    """The instructions that the tasks of a model can use, one for each that can use any."""
    found = [dots.marks(workloads.load(task.workload)["main"]) for task in imported.tasks]
    return [name for names in found for name in names]


def tuned(made: bytes, target: str, precision: Precision) -> tuple[Imported, bytes]:
    """The model with the first candidate of each task that has an instruction, whether or not it is faster;
    all that are tried are right."""
    imported = direct.import_model(made, target, options={}, precision=precision)
    tasks = []
    for task in imported.tasks:
        if not dots.marks(workloads.load(task.workload)["main"]):
            continue
        proposal = direct.update(task.workload, target, None, [], 2)
        trials = direct.measure(task, target, proposal.schedules)
        assert [each.error for each in trials if each.outcome != "measured"] == []
        tasks.append(direct.tuned_task(task, target, trials[0]))
    return imported, direct.assemble(imported.model, target, tasks).tuned


def relative_error(made: bytes, library: bytes, image: Array) -> float:
    session = onnxruntime.InferenceSession(made, providers=["CPUExecutionProvider"])
    wanted = session.run(None, {session.get_inputs()[0].name: image})[0]
    return float(np.abs(direct.run(library, image) - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize(
    ("made", "tiles"),
    [(two_layers(), [0, 0]), (convolutions(), [6, 6, 0]), (of_colours(), [0, 0])],
)
def test_products_are_as_right_as_bfloat16(narrow: str, made: bytes, tiles: list[int]) -> None:
    imported, library = tuned(made, narrow, precision="bf16")
    (changes,) = models.unpack(imported.model).changes
    assert changes.narrow
    assert len(marks(imported)) == len(tiles)
    # Convolutions of 3x3 may also be computed by Winograd's algorithm, in single precision.
    functions = [workloads.load(task.workload)["main"] for task in imported.tasks]
    assert [workloads.winograd_of(each) for each in functions if dots.marks(each)] == tiles
    shape = onnxruntime.InferenceSession(made).get_inputs()[0].shape
    error = relative_error(made, library, floats(*shape, seed=3))
    assert 2**-16 < error < 2**-6


def test_what_a_product_and_a_sum_read_is_written_once_and_rounded(narrow: str) -> None:
    imported = direct.import_model(residual(), narrow, options={}, precision="bf16")
    functions = [workloads.load(task.workload)["main"] for task in imported.tasks]
    dtypes = [[each.dtype for each in workloads.arguments(function)] for function in functions]
    assert dtypes == [
        ["float32", "bfloat16"],  # the input
        ["bfloat16", "bfloat16", "float32", "bfloat16"],
        ["bfloat16", "bfloat16", "float32", "float32"],  # what is multiplied is the residual, too
    ]


def test_only_what_is_in_bfloat16_is_judged_as_such(narrow: str) -> None:
    """Here nothing fits the instruction: the tolerance of the outputs is as without the option."""
    net = Network(4, 32)
    made = bytes(net.made(net.dense("x", 32, 5)).SerializeToString())
    asked, plain = (direct.import_model(made, narrow, precision=each) for each in ("bf16", "f32"))
    assert not marks(asked)
    assert asked.sample == plain.sample
    packed = models.unpack(asked.model)
    assert not packed.changes[0].narrow
    assert packed.notes[0].startswith(
        "products and convolutions are computed in f32, and not in bf16: none has"
    )


def test_a_model_in_bfloat16_needs_nobody_to_ask(narrow: str) -> None:
    """It rounds as it says itself; only the sums are done at once."""
    weights = floats(32, 48).astype(ml_dtypes.bfloat16)
    x = value("x", TensorProto.BFLOAT16, (4, 32))
    made = model([node("MatMul", ["x", "w"], ["y"])], [x], ("y",), {"w": weights}, opset=18)
    imported = direct.import_model(bytes(made.SerializeToString()), narrow)
    assert len(marks(imported)) == 1


def test_a_target_without_the_instruction_is_refused_by_name() -> None:
    old = direct.resolve_target(OLD)
    with pytest.raises(BadTarget, match=r"--precision bf16: the target znver3 has no avx512_bf16"):
        direct.import_model(two_layers(), old, precision="bf16")
    with pytest.raises(BadTarget, match=r"--precision fp16: the target znver3 has no instruction"):
        direct.import_model(two_layers(), old, precision="fp16")


# -- Integers ------------------------------------------------------------------------------------------------

STEP = 0.05
"""Between two values that a quantised output may have."""


class Quantised:
    """A model of one quantised layer between ``QuantizeLinear`` and ``DequantizeLinear``."""

    def __init__(self, kind: str, data: type, outputs: int = 24) -> None:
        random = np.random.default_rng(5)
        self.shape = (6, 32) if "MatMul" in kind else (1, 16, 7, 7)
        inputs = self.shape[1]
        shape = (inputs, outputs) if "MatMul" in kind else (outputs, inputs, 3, 3)
        scales = random.uniform(0.5, 1, outputs).astype(np.float32) / 100
        axis = 1 if "MatMul" in kind else 0
        net = Network(*self.shape)
        to = (np.float32(STEP), np.uint8(30))
        zero = data(100) if data is np.uint8 else data(-5)
        weights = random.integers(-127, 128, shape).astype(np.int8)
        read = (np.float32(0.02), zero)
        x = net.op("QuantizeLinear", "x", *read)
        none = np.zeros(outputs, np.int8)
        pads = {} if "MatMul" in kind else {"pads": [1, 1, 1, 1]}
        if kind.startswith("QLinear"):
            rounded = net.op(kind, x, *read, weights, scales, none, *to, **pads)
        else:
            scaled = net.op("DequantizeLinear", weights, scales, none, axis=axis)
            product = net.op(kind, net.op("DequantizeLinear", x, *read), scaled, **pads)
            bias = random.standard_normal((outputs, *[1] * (len(self.shape) - 2))).astype(np.float32)
            rounded = net.op("QuantizeLinear", net.op("Relu", net.op("Add", product, bias)), *to)
        self.bytes = bytes(net.made(net.op("DequantizeLinear", rounded, *to)).SerializeToString())


@pytest.fixture
def integral(target: str) -> str:
    """A target that multiplies integers of 8 bits."""
    if not dots.INTEGERS[0].runs_on(target):
        pytest.skip("this CPU has no avx512_vnni")
    return target


@pytest.mark.parametrize(
    ("kind", "data"),
    [("MatMul", np.uint8), ("Conv", np.int8), ("QLinearConv", np.uint8)],
)
def test_quantised_layers_are_computed_in_integers(integral: str, kind: str, data: type) -> None:
    made = Quantised(kind, data)
    imported, library = tuned(made.bytes, integral, precision="f32")
    (changes,) = models.unpack(imported.model).changes
    assert changes.integers
    assert any(name.startswith("tunemesh.dot_int8") for name in marks(imported))
    image = 2 * floats(*made.shape, seed=3)
    session = onnxruntime.InferenceSession(made.bytes, providers=["CPUExecutionProvider"])
    wanted = session.run(None, {"x": image})[0]
    off = np.rint(np.abs(direct.run(library, image) - wanted) / STEP)
    assert wanted.std() > 10 * STEP
    assert off.max() <= 1
    assert off.mean() < 0.01


def test_sums_that_no_float_can_hold_are_exact(integral: str) -> None:
    """All weights are even: that is no scale of an integer."""
    weights = 2 * np.random.default_rng(6).integers(-64, 64, (2048, 16)).astype(np.int8)
    x = value("x", TensorProto.UINT8, (3, 2048))
    nodes = [node("MatMulInteger", ["x", "w", "zero"], ["y"])]
    made = model(nodes, [x], ("y",), {"w": weights, "zero": np.uint8(7)})
    imported, library = tuned(bytes(made.SerializeToString()), integral, precision="f32")
    assert marks(imported)
    data = np.random.default_rng(7).integers(0, 256, (3, 2048)).astype(np.uint8)
    wanted = (data.astype(np.int64) - 7) @ weights.astype(np.int64)
    assert np.array_equal(direct.run(library, data), wanted)


def test_they_stay_floats_where_a_person_says_so(integral: str) -> None:
    made = Quantised("MatMul", np.uint8).bytes
    imported = direct.import_model(made, integral, options={"quantised": "floats"})
    assert not models.unpack(imported.model).changes[0].integers
    assert not marks(imported)


def test_they_stay_floats_where_the_target_has_no_instruction_for_them() -> None:
    imported = direct.import_model(
        Quantised("MatMul", np.uint8).bytes, direct.resolve_target(OLD), options={}
    )
    assert not models.unpack(imported.model).changes[0].integers
    assert not marks(imported)
