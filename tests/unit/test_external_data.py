"""Weights in files of their own: the client finds them beside the model, a worker reads what was sent."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.unit.stage_calls import expect, step
from tunemesh import tuning
from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.errors import ArtifactError, BadModel
from tunemesh.shared.messages import Blob, Failure, ImportWork, Level
from tunemesh.stage_workers.frontends import Source, external_data, limits
from tunemesh.stage_workers.frontends.onnx import checks, tensors
from tunemesh.stage_workers.platforms.mock_platform import MockPlatform
from tunemesh.stage_workers.platforms.protocol import ImportCall, Imported
from tunemesh.stage_workers.stages import Context, run_stage


def saved(folder: Path, **options: Any) -> Path:
    """A model whose two weights lie in other files."""
    weights = [numpy_helper.from_array(np.arange(6, dtype=np.float32) + i, f"w{i}") for i in range(2)]
    nodes = [helper.make_node("Add", ["x", "w0"], ["a"]), helper.make_node("Mul", ["a", "w1"], ["y"])]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [6]) for name in "xy"]
    made = helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], weights))
    path = folder / "m.onnx"
    onnx.save_model(made, path, save_as_external_data=True, size_threshold=0, **options)
    return path


def loaded(path: Path, files: dict[str, Path]) -> list[Any]:
    model = onnx.load_model_from_string(path.read_bytes())
    checks.check(model, files)
    return [tensors.load(weight, tensors.Files(files)).tolist() for weight in model.graph.initializer]


@pytest.mark.parametrize("options", [{"location": "m.data"}, {"all_tensors_to_one_file": False}])
def test_what_lies_beside_a_model_is_found_and_read(tmp_path: Path, options: dict[str, Any]) -> None:
    path = saved(tmp_path, **options)
    files = external_data.find(path, path.read_bytes())
    assert len(files) == (1 if options == {"location": "m.data"} else 2)
    assert loaded(path, files) == [[0, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6]]


def test_a_model_in_one_file_needs_no_other(tmp_path: Path) -> None:
    path = saved(tmp_path, location="m.data")
    whole = onnx.load(path).SerializeToString()
    assert external_data.find(path, whole) == {}
    assert external_data.find(path, b'{"location": "m.data"}') == {}


def renamed(path: Path, name: str) -> bytes:
    model = onnx.load_model_from_string(path.read_bytes())
    for weight in model.graph.initializer:
        weight.external_data[0].value = name
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret", "a/../../secret", "", "..\\secret"])
def test_a_client_reads_no_file_outside_of_the_models_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_bytes(b"x" * 100)
    (tmp_path / "in" / "a").mkdir(parents=True)
    path = saved(tmp_path / "in", location="m.data")
    with pytest.raises(BadModel, match="which is no file of its folder"):
        external_data.find(path, renamed(path, name))


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"x" * 100)
    (tmp_path / "in").mkdir()
    path = saved(tmp_path / "in", location="m.data")
    (tmp_path / "in" / "m.data").unlink()
    (tmp_path / "in" / "m.data").symlink_to(tmp_path / "secret")
    with pytest.raises(BadModel, match="a link out of its folder"):
        external_data.find(path, path.read_bytes())


def test_links_of_a_hub_are_followed_to_where_the_model_lies(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    snapshot.mkdir()
    saved(blobs, location="m.data")
    for name in ("m.onnx", "m.data"):
        (snapshot / name).symlink_to(blobs / name)
    path = snapshot / "m.onnx"
    assert list(external_data.find(path, path.read_bytes())) == ["m.data"]


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path, location="m.data")
    (tmp_path / "m.data").unlink()
    with pytest.raises(BadModel, match=r"'m\.data', which is not there: put it beside the model"):
        external_data.find(path, path.read_bytes())


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    path = saved(tmp_path, location="m.data")
    (tmp_path / "m.data").unlink()
    os.mkfifo(tmp_path / "m.data")
    with pytest.raises(BadModel, match="which is no file"):
        external_data.find(path, path.read_bytes())


def test_too_much_is_refused_by_the_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, location="m.data")
    monkeypatch.setattr(external_data, "MODEL_BYTES", 100)
    with pytest.raises(BadModel, match="GiB with its files"):
        external_data.find(path, path.read_bytes())


@pytest.mark.parametrize(
    ("key", "value"),
    [("offset", "1000000"), ("offset", "-8"), ("offset", "8x"), ("length", "4"), ("length", "1e9")],
)
def test_a_tensor_that_does_not_lie_in_its_file_is_named(tmp_path: Path, key: str, value: str) -> None:
    path = saved(tmp_path, location="m.data")
    model = onnx.load_model_from_string(path.read_bytes())
    weight = model.graph.initializer[0]
    entry = next(each for each in weight.external_data if each.key == key)
    entry.value = value
    with pytest.raises(BadModel, match="w0"):
        tensors.load(weight, tensors.Files({"m.data": tmp_path / "m.data"}))


def test_a_tensor_counts_by_its_shape_not_by_what_it_says(tmp_path: Path, monkeypatch: Any) -> None:
    path = saved(tmp_path, location="m.data")
    model = onnx.load_model_from_string(path.read_bytes())
    monkeypatch.setattr(limits, "CONSTANT_BYTES", 40)
    with pytest.raises(BadModel, match="bytes of constants"):
        checks.check(model, {"m.data": tmp_path / "m.data"})


def test_a_worker_opens_what_came_along_and_nothing_else(tmp_path: Path, monkeypatch: Any) -> None:
    path = saved(tmp_path, location="m.data")
    monkeypatch.chdir(tmp_path)  # the file is here, but it was not sent
    model = onnx.load_model_from_string(path.read_bytes())
    with pytest.raises(BadModel, match="did not come with"):
        tensors.load(model.graph.initializer[0], tensors.Files())
    assert Source(b"").files == {}


def test_a_worker_puts_files_where_it_wants_and_removes_them(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the model calls them is only a name, even where it looks like a path."""
    (tmp_path / "in").write_bytes(b"weights")
    files = {"../../etc/passwd": context.store.put_file(tmp_path / "in")}
    seen: dict[str, str] = {}

    def spied(_platform: object, call: ImportCall) -> Imported:
        seen.update(call.files)
        assert Path(seen["../../etc/passwd"]).read_bytes() == b"weights"
        raise BadModel("seen")

    monkeypatch.setattr(MockPlatform, "import_model", spied)
    work = ImportWork(model=context.store.put(b"tasks: []"), files=files)
    assert expect(Failure, run_stage(step(work), context)).error == "seen"
    assert "passwd" not in seen["../../etc/passwd"]
    assert not Path(seen["../../etc/passwd"]).exists()


def test_files_that_are_too_large_are_not_fetched(context: Context) -> None:
    files = {"w": Blob("0" * 64, limits.MODEL_BYTES + 1)}
    work = ImportWork(model=context.store.put(b"tasks: []"), files=files)
    assert "the files of the model have" in expect(Failure, run_stage(step(work), context)).error


def test_a_request_names_what_the_store_has(tmp_path: Path) -> None:
    path = saved(tmp_path, location="m.data")
    plan = tuning.Plan(target="native", level=Level(trials=8), out=tmp_path)
    (read,) = tuning.read_models([path], plan)
    assert read.files == {"m.data": tmp_path / "m.data"}
    store = ArtifactStore(str(tmp_path / "store"))
    request = tuning.make_request("job", read, plan, store)
    assert request.problem() == ""
    store.save(request.files["m.data"], tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "m.data").read_bytes()
    inline = msgspec.structs.replace(request, files={"m.data": Blob("0" * 64, 1, b"x")})
    assert inline.problem() == "the files of a model go through the artifact store"


def test_a_store_takes_files_and_gives_them_back(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path / "store"))
    for content in (b"", b"weights" * 100_000):
        (tmp_path / "in").write_bytes(content)
        blob = store.put_file(tmp_path / "in")
        assert blob.data is None
        store.save(blob, tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == content


def test_a_file_that_is_damaged_in_the_store_is_not_handed_out(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("tunemesh.shared.artifacts.READ_PAUSES", ())
    store = ArtifactStore(str(tmp_path / "store"))
    (tmp_path / "in").write_bytes(b"weights")
    blob = store.put_file(tmp_path / "in")
    (tmp_path / "store" / blob.sha256[:2] / blob.sha256).write_bytes(b"Weights")
    with pytest.raises(ArtifactError, match="is damaged"):
        store.save(blob, tmp_path / "out")
    with pytest.raises(ArtifactError, match="is not in"):
        store.save(Blob("0" * 64, 7), tmp_path / "out")
