"""Files that a person names are read, unless that could never end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tunemesh import model_files
from tunemesh.shared import files
from tunemesh.shared.errors import BadInput


def test_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert files.read(tmp_path / "a", "the inputs", 3) == b"abc"


def test_what_is_no_file_is_refused_unread(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "round").symlink_to("round")
    (tmp_path / "long").write_bytes(bytes(4))
    for path, why in [
        (tmp_path / "pipe", "it is no file"),
        (Path("/dev/zero"), "it is no file"),
        (tmp_path, "it is no file"),
        (tmp_path / "round", "Too many levels of symbolic links"),
        (tmp_path / "missing", "No such file"),
        (tmp_path / "long", "it has 0.0 GiB; 0 GiB are allowed"),
        (Path("a\0b"), "embedded null byte"),
    ]:
        with pytest.raises(BadInput, match=rf"^cannot read the inputs .*: {why}"):
            files.read(path, "the inputs", 3)


def test_a_model_whose_file_has_a_name_that_is_no_text_can_be_sent(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff.onnx")
    path.write_bytes(b"model")
    assert model_files.read(path, print).name == "?.onnx"
