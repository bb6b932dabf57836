"""A finished model where people run it: in Python, and as each kind of export in an environment that has only
what the export says it needs."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from packaging.requirements import Requirement

import tunemesh
from tests.acceptance import direct
from tests.reports import report
from tunemesh import exporting, job_commands
from tunemesh.exports.tuned_model import TunedModel
from tunemesh.session import Tuned
from tunemesh.shared.errors import BadInput, TunemeshError
from tunemesh.stage_workers.frontends.shapes import Variant
from tunemesh.stage_workers.graph import compilation
from tunemesh.stage_workers.graph.signatures import Signature, Signatures, Tensor

Arrays = dict[str, np.ndarray[Any, Any]]

ROWS, COLUMNS = (4, 2), 6
TABLE = np.random.default_rng(1).standard_normal((10, COLUMNS)).astype(np.float32)
CONSTANT = np.arange(3, dtype=np.float32)


def odd_model() -> bytes:
    """Two inputs of different types; outputs that are computed, an input in another shape, and a constant.
    The number of rows is open."""
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("Add", ["rows", "x"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["y"]),
        helper.make_node("Reshape", ["x", "flat"], ["same"]),
        helper.make_node("Identity", ["constant"], ["fixed"]),
    ]
    weights = {"table": TABLE, "constant": CONSTANT, "flat": np.array([-1], np.int64)}
    graph = helper.make_graph(
        nodes,
        "odd",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", COLUMNS]),
            helper.make_tensor_value_info("ids", TensorProto.INT64, ["rows"]),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", COLUMNS]),
            helper.make_tensor_value_info("same", TensorProto.FLOAT, None),
            helper.make_tensor_value_info("fixed", TensorProto.FLOAT, [3]),
        ],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    opset = helper.make_opsetid("", 17)
    return bytes(helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString())


def inputs(seed: int, rows: int = ROWS[0]) -> Arrays:
    random = np.random.default_rng(seed)
    return {
        "x": random.standard_normal((rows, COLUMNS)).astype(np.float32),
        "ids": random.integers(0, len(TABLE), rows),
    }


def outputs(given: Arrays) -> list[np.ndarray[Any, Any]]:
    """What the model computes, by numpy."""
    return [np.maximum(TABLE[given["ids"]] + given["x"], 0), given["x"].reshape(-1), CONSTANT]


def assert_right(got: Iterable[Any], given: Arrays) -> None:
    for one, expected in zip(got, outputs(given), strict=True):
        np.testing.assert_allclose(one, expected, rtol=1e-5, atol=1e-6)


def misaligned(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A copy that begins 4 bytes after a multiple of 64."""
    memory = np.empty(array.nbytes + 128, np.uint8)
    begin = -memory.ctypes.data % 64 + 4
    copied = memory[begin : begin + array.nbytes].view(array.dtype).reshape(array.shape)
    copied[...] = array
    return copied


@pytest.fixture(scope="module")
def folder(target: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result of a job, as ``tune`` writes it."""
    variants = [Variant(dims={"rows": rows}) for rows in ROWS]
    imported = direct.import_model(odd_model(), target, variants=variants)
    assembled = direct.assemble(imported.model, target)
    made = tmp_path_factory.mktemp("result") / "odd"
    made.mkdir()
    (made / "model.so").write_bytes(assembled.tuned)
    (made / "signature.json").write_bytes(assembled.signature)
    (made / "report.json").write_bytes(msgspec.json.encode(report(target)))
    return made


@pytest.fixture(scope="module")
def tuned(folder: Path) -> Tuned:
    return tunemesh.load(folder)


def test_a_result_runs_on_arrays_that_lie_anywhere(tuned: Tuned) -> None:
    for rows in (*ROWS, *ROWS):
        given = inputs(rows, rows)
        assert_right(tuned.run(given), given)
    given = inputs(1)
    assert_right(tuned.run({name: misaligned(array) for name, array in given.items()}), given)
    assert_right(tuned.run({"x": np.asfortranarray(given["x"]), "ids": given["ids"]}), given)
    for array in given.values():
        array.flags.writeable = False
    assert_right(tuned.run(given), given)


def test_outputs_are_the_callers_own(tuned: Tuned) -> None:
    first, second = inputs(1), inputs(2)
    kept = tuned.run(first)
    assert_right(tuned.run(second), second)
    assert_right(kept, first)
    for output in kept:
        output[...] = 99  # also the constant, and the input in another shape
    assert_right(tuned.run(first), first)

    bound = tuned.bind()
    for name, array in first.items():
        bound.inputs[name][...] = array
    kept = bound.run()
    bound.inputs["x"][...] = 7
    assert_right(kept, first)


def test_threads_take_turns(tuned: Tuned) -> None:
    def work(seed: int) -> None:
        given = inputs(seed, ROWS[seed % 2])
        for _ in range(30):
            assert_right(tuned.run(given), given)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(8))) == [None] * 8


def test_bound_inputs_are_read_in_place(tuned: Tuned) -> None:
    bound = tuned.bind()
    for seed in (1, 2):
        given = inputs(seed)
        for name, array in given.items():
            bound.inputs[name][...] = array
        assert_right(bound.run(), given)
    assert tuned.bind(variant=1).inputs["x"].shape == (ROWS[1], COLUMNS)
    again = tuned.bind(bound.inputs)
    bound.inputs["ids"][...] = 0
    assert_right(again.run(), bound.inputs)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"x": None}, "input 'x' is missing; given: ids$"),
        ({"z": CONSTANT}, "the model has no input 'z'; its inputs: x, ids$"),
        ({"x": np.zeros((4, COLUMNS))}, r"input 'x' is float64\[4, 6\], the model takes float32\[4, 6\]$"),
        ({"ids": np.zeros(3, np.int64)}, r"the shapes x=4,6 ids=3; it has: x=4,6 ids=4; x=2,6 ids=2$"),
    ],
)
def test_a_bad_input_is_named_in_one_line(tuned: Tuned, change: dict[str, Any], said: str) -> None:
    given = {name: array for name, array in (inputs(1) | change).items() if array is not None}
    for use in (tuned.run, tuned.bind):
        with pytest.raises(BadInput, match=said):
            use(given)


def test_what_cannot_be_read_in_place_is_not_bound(tuned: Tuned) -> None:
    buffers = tuned.bind().inputs
    locked = buffers["x"].view()
    locked.flags.writeable = False
    for unusable in (misaligned(buffers["x"]), np.asfortranarray(buffers["x"]), locked):
        with pytest.raises(BadInput, match="input 'x' cannot be used in place"):
            tuned.bind({**buffers, "x": unusable})


def test_a_type_that_numpy_does_not_know_itself_goes_through(target: str, tmp_path: Path) -> None:
    import ml_dtypes
    import tvm
    from tvm import relax

    x = relax.Var("x", relax.TensorType((4, 8), "bfloat16"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            turned = builder.emit_te(tvm.topi.transpose, x)
            both = builder.emit_output(relax.Tuple([turned, builder.emit(relax.op.reshape(x, (32,)))]))
        builder.emit_func_output(both)
    (tmp_path / "model.so").write_bytes(compilation.compile_model(builder.get(), target))
    signature = Signature(
        [Tensor("x", (4, 8), "bfloat16")], [Tensor(each, (), "bfloat16") for each in ("turned", "flat")]
    )
    (tmp_path / "signature.json").write_bytes(msgspec.json.encode(Signatures([signature])))
    model = TunedModel(tmp_path, exporting.runtime_folder())
    given = np.arange(32).reshape(4, 8).astype(ml_dtypes.bfloat16)
    bound = model.bind(model.buffers())
    bound.inputs["x"][...] = given
    for turned, flat in (model.run({"x": given}), bound.run()):
        assert turned.dtype == flat.dtype == ml_dtypes.bfloat16
        assert (turned == given.T).all()
        assert (flat == given.reshape(-1)).all()


def test_inputs_without_names_are_refused(tuned: Tuned) -> None:
    with pytest.raises(BadInput, match="by name, not as list"):
        tuned.run([1])  # type: ignore[arg-type]


def test_a_result_that_lacks_its_model_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_bytes((folder / "report.json").read_bytes())
    with pytest.raises(BadInput, match="cannot read the tuned model"):
        tunemesh.load(tmp_path).run({})
    with pytest.raises(BadInput, match="cannot export"):
        tunemesh.load(tmp_path).export("python", tmp_path / "to")


def test_the_command_exports_a_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    job_commands.export(str(folder), "torch")
    assert capsys.readouterr().out == "odd-torch\n"
    assert {"model.so", "signature.json", "tuned_torch.py", "README.md"} <= {
        path.name for path in (tmp_path / "odd-torch").iterdir()
    }
    with pytest.raises(BadInput, match="no kind of export 'rust'; known: python, cpp, torch, onnx"):
        job_commands.export(str(folder), "rust")
    with pytest.raises(BadInput, match="holds no result"):
        job_commands.export(str(tmp_path), "cpp")
    with pytest.raises(BadInput, match="holds the result itself"):
        job_commands.export(str(folder), "cpp", folder / ".." / folder.name)


def test_an_export_without_a_compiler_says_what_is_missing(
    tuned: Tuned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TunemeshError, match="needs make and a C"):
        tuned.export("onnx", tmp_path / "to")
    for name, program in (
        ("make", "#!/bin/sh\necho 'op.cc:1: error: no such thing' >&2\nexit 1\n"),
        ("c++", ""),
    ):
        (tmp_path / name).write_text(program)
        (tmp_path / name).chmod(0o755)
    with pytest.raises(
        TunemeshError, match=r"c\+\+ cannot compile the operator: op.cc:1: error: no such thing$"
    ):
        tuned.export("onnx", tmp_path / "to")


def test_names_are_strings_of_cpp() -> None:
    assert exporting.cpp_literal('a"\\b?é\n') == r'"a\042\134b\077\303\251\012"'


ALONE = """
import importlib.util
assert not importlib.util.find_spec("tunemesh") and not importlib.util.find_spec("tvm")
"""


class Environment:
    """A virtual environment with some of the packages that are installed here, and nothing else."""

    def __init__(self, folder: Path, distributions: Iterable[str]) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=60)
        self.python = folder / "bin" / "python"
        (self._packages,) = (folder / "lib").glob("python*/site-packages")
        for name in distributions:
            self._add(name)

    def _add(self, name: str) -> None:
        found = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in found.files or []} - {"..", "__pycache__"}:
            link = self._packages / top
            if not link.exists():
                link.symlink_to(str(found.locate_file(top)))
        for text in found.requires or []:
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                self._add(needed.name)

    def run(self, folder: Path, program: str) -> None:
        """Run ``program`` as a file of ``folder``, for each set of shapes: it finds its inputs there, and
        writes its outputs there."""
        (folder / "program.py").write_text(ALONE + program)
        for rows in ROWS:
            given = inputs(3, rows)
            for name, array in given.items():
                np.save(folder / f"{name}.npy", array)
            ended = subprocess.run(
                [self.python, "program.py"], cwd=folder, env={}, capture_output=True, text=True, timeout=120
            )
            assert ended.returncode == 0, ended.stderr
            assert_right([np.load(folder / f"output{i}.npy") for i in range(3)], given)


def requirements(folder: Path) -> list[str]:
    return [Requirement(line).name for line in (folder / "requirements.txt").read_text().splitlines()]


def test_an_export_for_python_runs_with_what_it_asks_for(tuned: Tuned, tmp_path: Path) -> None:
    folder = tuned.export("python", tmp_path / "export")
    assert requirements(folder) == ["apache-tvm-ffi", "numpy"]
    Environment(tmp_path / "venv", requirements(folder)).run(
        folder,
        """
import numpy as np
from tuned_model import TunedModel
given = {name: np.load(name + ".npy") for name in ("x", "ids")}
for i, output in enumerate(TunedModel().run(given)):
    np.save(f"output{i}", output)
""",
    )


def test_an_export_for_cpp_builds_and_runs(tuned: Tuned, tmp_path: Path) -> None:
    folder = tuned.export("cpp", tmp_path / "export")
    built = subprocess.run(["make", "run"], cwd=folder, capture_output=True, text=True, timeout=300)
    assert (built.returncode, built.stderr) == (0, "")  # no warning

    def run(*files: str) -> subprocess.CompletedProcess[str]:
        command = [folder / "run", *files]
        return subprocess.run(command, cwd=folder, env={}, capture_output=True, text=True, timeout=60)

    for rows in ROWS:
        given = inputs(3, rows)
        for name, array in given.items():
            array.tofile(folder / name)
        ended = run("x", "ids")
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout.splitlines()[0] == "y -> output0.bin"
        shapes = [each.shape for each in outputs(given)]
        got = [np.fromfile(folder / f"output{i}.bin", np.float32) for i in range(3)]
        assert_right([one.reshape(shape) for one, shape in zip(got, shapes, strict=True)], given)
    assert run("ids", "x").stderr == (
        "error: the files do not fit the inputs, which have so many bytes: x 96 ids 32; or x 48 ids 16\n"
    )


def test_an_export_for_onnx_runs_in_onnx_runtime(tuned: Tuned, tmp_path: Path) -> None:
    folder = tuned.export("onnx", tmp_path / "export")
    onnx.checker.check_model(onnx.load(folder / "model.onnx"))
    Environment(tmp_path / "venv", ["onnxruntime"]).run(
        folder,
        """
import numpy as np, onnxruntime
options = onnxruntime.SessionOptions()
options.register_custom_ops_library("./libtuned_model.so")
session = onnxruntime.InferenceSession("model.onnx", options, providers=["CPUExecutionProvider"])
given = {each.name: np.load(each.name + ".npy") for each in session.get_inputs()}
for i, output in enumerate(session.run(None, given)):
    np.save(f"output{i}", output)
""",
    )


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs PyTorch")
def test_an_export_for_torch_is_a_module(tuned: Tuned, tmp_path: Path) -> None:
    folder = tuned.export("torch", tmp_path / "export")
    assert requirements(folder) == ["apache-tvm-ffi", "numpy", "torch"]
    Environment(tmp_path / "venv", requirements(folder)).run(
        folder,
        """
import numpy as np, torch
from tuned_torch import TunedModule

class Pipeline(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.before, self.model = torch.nn.Identity(), TunedModule()
    def forward(self, x, ids):
        return self.model(self.before(x), ids=ids)

x, ids = (torch.from_numpy(np.load(name + ".npy")) for name in ("x", "ids"))
pipeline = Pipeline().eval()
first = pipeline(x.requires_grad_(), ids)
pipeline(torch.zeros_like(x), torch.zeros_like(ids))
assert all(isinstance(output, torch.Tensor) and not output.requires_grad for output in first)
for i, output in enumerate(pipeline(torch.cat([x, x])[len(x):], ids)):  # begins anywhere
    assert torch.equal(output, first[i])
    np.save(f"output{i}", output)
for bad, said in (((x.double(), ids), "input 'x' is torch.float64"), ((x,), "takes 2 inputs (x, ids)")):
    try:
        TunedModule()(*bad)
    except ValueError as error:
        assert said in str(error), error
    else:
        raise AssertionError(said)
""",
    )
