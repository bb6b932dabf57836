"""A result and what else runs its model take turns on this machine."""

from __future__ import annotations

import functools
import os
import signal
from pathlib import Path

import msgspec
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.acceptance import direct
from tests.reports import report
from tunemesh import cli, tuning
from tunemesh.comparing import comparison, peers, racing
from tunemesh.comparing.peers import Peer
from tunemesh.comparing.work import Failed, Work
from tunemesh.following import Ending
from tunemesh.model_files import ModelFile
from tunemesh.report import read_report
from tunemesh.shared.errors import BadInput
from tunemesh.shared.messages import Settings
from tunemesh.stage_workers.devices import devices
from tunemesh.stage_workers.frontends.shapes import Variant

WEIGHT = np.random.default_rng(1).standard_normal((8, 6)).astype(np.float32)
DEVICE = f"cpu:{max(os.sched_getaffinity(0))}"
(JUDGE,) = peers.named(["onnxruntime"])
NOBODY = Peer(name="nobody", title="Nobody", package="numpy")
"""Whose process cannot load anything."""


@pytest.fixture(autouse=True)
def _free_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others on this machine may measure meanwhile."""
    monkeypatch.setattr(devices, "lock_folder", lambda: tmp_path)


def model() -> bytes:
    """A product whose number of rows is open."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 6])],
        [numpy_helper.from_array(WEIGHT, "w")],
    )
    opset = helper.make_opsetid("", 17)
    return bytes(helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString())


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory, target: str) -> Path:
    """Of a job for two numbers of rows."""
    folder = tmp_path_factory.mktemp("results") / "small"
    folder.mkdir()
    imported = direct.import_model(
        model(), target, variants=[Variant(shapes={"x": [rows, 8]}) for rows in (4, 2)]
    )
    assembled = direct.assemble(imported.model, target)
    (folder / "model.so").write_bytes(assembled.untuned)
    (folder / "signature.json").write_bytes(assembled.signature)
    (folder / "report.json").write_bytes(msgspec.json.encode(report(target)))
    return folder


def test_a_contestant_that_takes_too_long_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(racing, "READY_LIMIT", 0.01)
    work = Work(runner="nobody", model="", inputs="", outputs="", names=[])
    found = racing.race({"slow": work}, comparison.device_of(DEVICE).cores or (), print)
    assert found.errors == {"slow": "it took more than 0.01 s"}
    assert (found.versions, found.turns) == ({}, [])


def test_a_process_that_dies_is_told_of_with_its_last_words(tmp_path: Path) -> None:
    work = Work(runner="nobody", model="", inputs="", outputs="", names=[])
    folder = tmp_path / "contestant"
    with racing.Contestant(work, sorted(comparison.device_of(DEVICE).cores or ()), folder) as contestant:
        os.kill(contestant.pid, signal.SIGKILL)
        answer = contestant.answer(30.0)
        assert answer == Failed(error="its process ended with status -9")
        assert contestant.turn() == answer


def test_a_model_that_is_no_onnx_file_is_compared_with_nothing(result: Path) -> None:
    given = ModelFile(name="m.json", data=b"{}")
    with pytest.raises(BadInput, match=r"m\.json is no ONNX file: there is nothing here to compare it with"):
        comparison.compare(given, Settings(), result, comparison.device_of(DEVICE), [JUDGE], print)


def test_tune_says_who_is_faster_and_a_peer_that_fails_does_not_stop_the_others(
    result: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def tuned(*_: object) -> list[Ending]:
        return [Ending(result.name, read_report(result))]

    monkeypatch.setattr(tuning, "tune", tuned)
    monkeypatch.setattr(peers, "PEERS", (JUDGE, NOBODY))
    monkeypatch.setattr(comparison, "compare", functools.partial(comparison.compare, turns=2))
    path = tmp_path / "small.onnx"
    path.write_bytes(model())
    arguments = [str(path), "--dim", "rows=4,2", "--device", DEVICE, "--out", str(result.parent)]
    monkeypatch.setattr("sys.argv", ["tunemesh", "tune", *arguments, "--peer", "nobody,onnxruntime"])
    monkeypatch.setenv("COLUMNS", "400")
    assert cli.run() == 0

    most = read_report(result).device_flops
    assert most is not None
    assert 1e9 < most < 1e12  # of one core
    found = read_report(result).compared
    assert [(each.peer, each.shapes["x"]) for each in found] == [
        ("nobody", (4, 8)), ("onnxruntime", (4, 8)), ("nobody", (2, 8)), ("onnxruntime", (2, 8)),
    ]  # fmt: skip
    for each in found:
        assert each.tuned_s > 0
        if each.peer == "nobody":
            assert (each.ratio, each.error) == (None, "KeyError: 'nobody'")
        else:
            assert each.error == ""
            assert each.ratio is not None
            assert each.ratio > 0
            assert each.difference is not None
            assert each.difference < 1e-5 < (each.largest or 0.0)
    printed = capsys.readouterr().out
    assert printed.count("Nobody cannot run the model: KeyError: 'nobody'") == 2
    assert printed.count("; ONNX Runtime 1.") == 2


def test_nothing_is_tuned_where_the_comparison_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "small.onnx"
    path.write_bytes(model())
    monkeypatch.setattr(tuning, "tune", lambda *_: pytest.fail("it was tuned"))
    for more, why in (
        (["--peer", "nobody"], "there is no peer 'nobody' to compare with"),
        (["--engine", "mock", "--target", "mock"], "the mock engine makes no model that could be compared"),
        (["--device", "cpu:4095"], "core 4095 is not on this machine"),
        (["--broker", "amqp://nobody@127.0.0.1:1/x", "--artifacts", str(tmp_path)], "for a mesh of its own"),
    ):
        monkeypatch.setattr("sys.argv", ["tunemesh", "tune", str(path), "--compare", *more])
        assert cli.run() == 2
        assert why in capsys.readouterr().err
