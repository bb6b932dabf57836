"""Files that no mesh reads are named at once, with the converter to use; PyTorch's are converted here."""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tunemesh import checks, formats, model_files
from tunemesh.shared.errors import BadInput, BadModel


def archive(*names: str) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as made:
        for name in names:
            made.writestr(name, b"content")
    return written.getvalue()


def arrays() -> bytes:
    written = io.BytesIO()
    np.savez(written, x=np.zeros(3))
    return written.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("m.mlir", b"module @jit_f attributes {mhlo.num_partitions = 1 : i32} {\n", "StableHLO.*jax2onnx"),
        ("m.mlir", b"// made by JAX\n#loc = loc(unknown)\nmodule {\n", "StableHLO"),
        ("m.mlirbc", b"ML\xefR\x03", "StableHLO"),
        ("m.h5", b"\x89HDF\r\n\x1a\n\x00", r"Keras.*export\('m.onnx', format='onnx'\)"),
        ("m.keras", archive("metadata.json", "config.json", "model.weights.h5"), "Keras.*format='onnx'"),
        (
            "m.pt",
            archive("m/data.pkl", "m/constants.pkl", "m/code/x.py"),
            r"TorchScript.*torch\.onnx\.export",
        ),
        ("m.pth", archive("m/data.pkl", "m/data/0"), r"torch\.save.*torch\.onnx\.export"),
        ("m.safetensors", b"\x40\x01\0\0\0\0\0\0" + b'{"w":{"dtype":"F32"}}', "safetensors.*no graph"),
        ("m.gguf", b"GGUF\x03\0\0\0", "GGUF"),
        ("m.pkl", b"\x80\x04\x95", "pickle.*skl2onnx"),
        ("m.xml", b'<?xml version="1.0"?>\n<net name="m">', "OpenVINO"),
        ("m.mlmodel", b"\x08\x04\x12\x00", "Core ML"),
        ("m.pb", b"\x0a\x10\x0a\x01x", r"tf2onnx\.convert --graphdef m\.pb"),
        ("m.npz", arrays(), "NumPy"),
        ("m.zip", archive("a/m.onnx"), "unpack it first"),
        ("m.gz", b"\x1f\x8b\x08", "unpack it first"),
        ("m.zip", archive("readme"), "without any model"),
        ("m.pt2", archive("m/archive_format")[:-30], "truncated or damaged"),
        ("m.param", b"7767517\n75 83\n", "ncnn"),
    ],
)
def test_a_file_of_another_kind_is_named_with_what_to_do(name: str, data: bytes, said: str) -> None:
    with pytest.raises(BadModel, match=rf"the model {name} is .*{said}") as caught:
        checks.check_model(name, data, ["metaschedule"])
    assert "\n" not in str(caught.value)
    checks.check_model(name, data, ["mock"])


@pytest.mark.parametrize(
    "data", [b'        {"root_index": 1, "nodes": []}', b"\x08\x08\x12\x07pytorch", b"\x1c\0\0\0TFL3"]
)
def test_what_a_mesh_reads_is_no_problem(data: bytes) -> None:
    assert formats.problem("m", data) == ""


@pytest.mark.parametrize(
    ("inside", "said"),
    [
        ("saved_model.pb", "SavedModel.*tf2onnx.*--saved-model"),
        ("Manifest.json", "Core ML"),
        ("config.json", "optimum-cli export onnx"),
        ("x.bin", "it is no file"),
    ],
)
def test_a_folder_is_named_too(tmp_path: Path, inside: str, said: str) -> None:
    (tmp_path / inside).touch()
    with pytest.raises(BadInput, match=said):
        model_files.read(tmp_path, print)


def test_an_exported_program_needs_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.pt2").write_bytes(archive("m/archive_format", "m/models/model.json"))
    monkeypatch.setitem(sys.modules, "torch", None)
    notes: list[str] = []
    with pytest.raises(BadInput, match=r"pip install 'tunemesh\[torch\]'"):
        model_files.read(tmp_path / "m.pt2", notes.append)
    (note,) = notes
    assert note.startswith(
        "m.pt2 is loaded by torch.export.load in this process, where code in the file may run"
    )


def test_a_model_that_was_converted_before_is_sent_as_it_is() -> None:
    made = model_files.ModelFile(name="m", data=b"{}", samples=b"npz")
    assert model_files.read(made, print) is made
