"""A module of PyTorch, its exported program, and its ONNX file are the same model."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm_ffi

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install -e '.[dev-torch]'")

import tunemesh
from tests.acceptance.direct import PLATFORM, assemble, import_model, run
from tunemesh import model_files, tuning
from tunemesh.model_files import ModelFile
from tunemesh.shared.errors import BadInput, BadModel
from tunemesh.shared.messages import Settings
from tunemesh.stage_workers import frontends
from tunemesh.stage_workers.frontends import Source, Variant, pytorch, shapes
from tunemesh.stage_workers.platforms.protocol import ImportCall, Imported

# PyTorch warns of its own.
pytestmark = pytest.mark.filterwarnings("default")


class Network(torch.nn.Module):
    """A convolution with batch norm, attention, and a product: what importers read in different ways."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(8)
        self.attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = torch.nn.Linear(8, 5)
        torch.nn.init.normal_(self.norm.running_mean)
        torch.nn.init.uniform_(self.norm.running_var, 0.5, 2)

    def forward(self, image: Any) -> Any:
        features = torch.relu(self.norm(self.convolution(image)))
        tokens = features.flatten(2).transpose(1, 2)
        mixed = self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return self.head(mixed.mean(1)), features


@pytest.fixture(scope="module")
def network() -> Any:
    torch.manual_seed(0)
    return Network()


@pytest.fixture(scope="module")
def image() -> Any:
    return torch.randn(2, 3, 8, 8)


@pytest.fixture(scope="module")
def converted(network: Any, image: Any) -> ModelFile:
    return model_files.from_module(network, image)


@pytest.fixture(scope="module")
def imported(converted: ModelFile, target: str) -> Imported:
    return PLATFORM.import_model(ImportCall(model=converted.data, target=target, inputs=converted.samples))


def outputs(imported: Imported, target: str, *inputs: Any) -> list[Any]:
    import tvm

    from tunemesh.stage_workers.measuring import loading

    library = assemble(imported.model, target).untuned
    machine = tvm.relax.VirtualMachine(loading.load(library), tvm.cpu())
    return [each.numpy() for each in machine["main"](*map(tvm.runtime.tensor, inputs))]


def test_a_module_computes_what_pytorch_does_and_the_samples_say_so(
    network: Any, image: Any, converted: ModelFile, imported: Imported, target: str
) -> None:
    assert network.training  # it was exported for inference, and is as it was
    assert converted.samples is not None
    samples = dict(np.load(io.BytesIO(converted.samples)))
    assert sorted(samples) == ["image", "output-by", "output:output0", "output:output1"]
    np.testing.assert_array_equal(samples["image"], image.numpy())
    network.eval()
    with torch.no_grad():
        expected = [each.numpy() for each in network(image)]
    network.train()
    for number, wanted in enumerate(expected):
        np.testing.assert_allclose(samples[f"output:output{number}"], wanted, rtol=1e-5, atol=1e-6)
    for got, wanted in zip(outputs(imported, target, image.numpy()), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_pytorch_is_the_judge_of_what_comes_with_its_outputs(
    converted: ModelFile, imported: Imported, target: str
) -> None:
    (judgement,) = imported.judged
    assert judgement.judge == f"PyTorch {torch.__version__}"
    assert [check.units < 1 for check in judgement.outputs] == [True, True]
    assert converted.samples is not None
    changed = dict(np.load(io.BytesIO(converted.samples)))
    changed["output:output1"] = changed["output:output1"] * 1.01
    written = io.BytesIO()
    np.savez(written, **changed)
    with pytest.raises(BadModel, match=rf"output1.*PyTorch {torch.__version__[:4]}"):
        PLATFORM.import_model(ImportCall(model=converted.data, target=target, inputs=written.getvalue()))


def test_a_file_of_an_exported_program_is_the_same_model(
    network: Any, image: Any, converted: ModelFile, tmp_path: Path
) -> None:
    torch.export.save(pytorch.export(network, (image,)), tmp_path / "m.pt2")
    notes: list[str] = []
    read = model_files.read(tmp_path / "m.pt2", notes.append)
    assert "torch.export.load" in notes[0]
    assert read.samples is not None
    one, other = (frontends.read(Source(each.data), Variant())[0] for each in (read, converted))
    assert tvm_ffi.structural_equal(one, other)


def test_its_onnx_file_gives_the_same_result_and_the_same_tasks_but_for_attention(
    network: Any, image: Any, imported: Imported, target: str, tmp_path: Path
) -> None:
    pytest.importorskip("onnxscript", reason="torch.onnx.export needs it: pip install -e '.[dev-torch]'")
    network.eval()
    torch.onnx.export(network, (image,), tmp_path / "m.onnx", verbose=False)
    network.train()
    read = model_files.read(tmp_path / "m.onnx", print)
    assert list(read.files) == ["m.onnx.data"]  # the exporter's default
    files = {name: str(path) for name, path in read.files.items()}
    theirs = PLATFORM.import_model(ImportCall(model=read.data, files=files, target=target))
    both = [outputs(each, target, image.numpy()) for each in (theirs, imported)]
    for one, other in zip(*both, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    keys = {task.key for task in theirs.tasks}
    assert "fused_conv2d_add_relu" in [task.name for task in imported.tasks if task.key in keys]


def test_open_dimensions_are_fixed_by_shapes(target: str) -> None:
    batch = torch.export.Dim("batch", min=1, max=64)
    module = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.ReLU())
    made = model_files.from_module(module, torch.randn(2, 6), [{0: batch}])
    with pytest.raises(BadModel, match=r"input input has a dynamic shape .* --shape input=1,6"):
        import_model(made.data, target)
    x = np.random.default_rng(0).normal(size=(7, 6)).astype(np.float32)
    imported = import_model(made.data, target, shapes={"input": [7, 6]})
    got = run(assemble(imported.model, target).untuned, x)
    with torch.no_grad():
        np.testing.assert_allclose(got, module(torch.from_numpy(x)).numpy(), rtol=1e-4, atol=1e-5)


class Words(torch.nn.Module):
    """Inputs that must stay valid: rows of a table, a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(10, 6)

    def forward(self, ids: Any, mask: Any, scale: Any) -> Any:
        return (self.table(ids) * mask[..., None] * scale[:, None]).sum(1)


def test_pytorch_judges_every_set_of_shapes(target: str) -> None:
    batch = torch.export.Dim("batch", min=1, max=64)
    given = torch.arange(10).reshape(2, 5), torch.ones(2, 5) > 0, torch.rand(2, 1)
    made = model_files.from_module(Words(), given, [{0: batch}] * 3)
    settings = Settings(shapes={"ids": [[3, 5], [4, 5]]})
    sent = tuning.with_fitting_samples(made, settings)

    def judged(inputs: bytes | None) -> Imported:
        wanted = shapes.variants(settings)
        return PLATFORM.import_model(
            ImportCall(model=sent.data, target=target, variants=wanted, inputs=inputs)
        )

    found = judged(sent.samples).judged
    assert [each.judge for each in found] == [f"PyTorch {torch.__version__}"] * 2
    assert [each.outputs[0].elements for each in found] == [18, 24]
    assert sent.samples is not None
    changed = dict(np.load(io.BytesIO(sent.samples)))
    changed["set1:output:output0"][3] *= 1.01
    written = io.BytesIO()
    np.savez(written, **changed)
    with pytest.raises(BadModel, match=r"output0.*PyTorch"):
        judged(written.getvalue())


@pytest.mark.parametrize(
    ("source", "inputs", "said"),
    [
        (torch.nn.ReLU(), None, "needs example inputs"),
        ([1, 2], None, "a model of onnx or a module of PyTorch, not builtins.list"),
        (torch.nn.Linear(3, 4), torch.zeros(2, 5), r"torch\.export cannot export the module: "),
    ],
)
def test_what_cannot_be_converted_is_refused_in_one_line(source: Any, inputs: Any, said: str) -> None:
    with pytest.raises(BadInput, match=said) as caught:
        tunemesh.model(source, inputs)
    assert "\n" not in str(caught.value)


class Function(torch.nn.Module):
    """A function of tensors, as a module."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, *tensors: Any) -> Any:
        return self.function(*tensors)


X = torch.linspace(-2, 2, 12).reshape(3, 4)
WHOLE = torch.arange(12).reshape(3, 4)
PROMOTED = {
    "product": (lambda x: x + torch.arange(4) * 1.5, X),
    "function": (lambda x: x * torch.exp(-torch.arange(4) * 1.5), X),
    "comparison": (lambda x, i: torch.where(i > 0.5, x, -x), X, WHOLE),
    "quotient": (lambda x, i: x + i / 3, X, WHOLE),
    "power": (lambda i: i**0.5, WHOLE),
    "halves": (lambda h, x: h * x, X.half(), X),
    "truth": (lambda b, x: b * x, WHOLE > 4, X),
}


@pytest.mark.parametrize("kind", PROMOTED)
def test_whole_numbers_that_meet_a_float_become_floats(kind: str, target: str) -> None:
    """TVM takes the type of the first operand, so that 1.5 would be 1."""
    function, *tensors = PROMOTED[kind]
    program = pytorch.export(Function(function), tuple(tensors))
    imported = PLATFORM.import_model(
        ImportCall(model=pytorch.convert(program), target=target, inputs=pytorch.samples(program))
    )
    assert [each.judge.partition(" ")[0] for each in imported.judged] == ["PyTorch"]


def test_what_tvm_knows_otherwise_is_written_in_other_operators(target: str) -> None:
    """Whole numbers and one that is no tensor, shifts, a factor that is left out; and a number comes out."""

    def all_of_them(i: Any, x: Any) -> Any:
        divided = [torch.div(i - 6, 4, rounding_mode=mode) for mode in ("floor", "trunc")]
        return *divided, (i - 6) // 4, i << 2, i >> 1, torch.nn.functional.selu(x), i.float().mean()

    program = pytorch.export(Function(all_of_them), (WHOLE, X))
    imported = PLATFORM.import_model(
        ImportCall(model=pytorch.convert(program), target=target, inputs=pytorch.samples(program))
    )
    (judgement,) = imported.judged
    assert judgement.judge.startswith("PyTorch")
    assert [each.elements for each in judgement.outputs] == [12] * 6 + [1]


def test_a_mask_may_begin_as_infinity(target: str) -> None:
    def masked(x: Any) -> Any:
        return torch.softmax(x @ x.T + torch.full((3, 3), float("-inf")).triu(1), -1)

    program = pytorch.export(Function(masked), (X,))
    imported = PLATFORM.import_model(
        ImportCall(model=pytorch.convert(program), target=target, inputs=pytorch.samples(program))
    )
    assert imported.judged[0].outputs[0].units < 1
