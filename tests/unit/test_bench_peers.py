"""What the benchmark beside other runtimes makes of its results."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest

from benchmarks.peers import __main__ as command
from benchmarks.peers import shares, tables
from benchmarks.peers.results import Result, Version
from benchmarks.peers.shares import Share
from tests.reports import report
from tunemesh.comparing.limits import Limits
from tunemesh.report import Compared
from tunemesh.shared.errors import TunemeshError

LIMITS = Limits(flops=100e9, triad=20e9, copy=25e9)


def version(name: str = "tuned", ratio: float = 1.0) -> Version:
    return Version(
        name=name, options=[], latency_s=2e-3 * ratio, untuned_s=1.0, ratio=ratio, difference=1e-6, trials=64,
        wall_s=90.0, rejected=False,
    )  # fmt: skip


def peer(name: str, title: str, ratio: float | None) -> Compared:
    latency = None if ratio is None else 2e-3 / ratio
    return Compared(
        peer=name, title=title, version="1", shapes={"x": (1,)}, tuned_s=2e-3, latency_s=latency, ratio=ratio,
        difference=3e-6, largest=1.0, error="" if ratio else "no such operator",
    )  # fmt: skip


def result(network: str, *compared: Compared, variants: list[Version] | None = None) -> Result:
    share = Share(name="conv", weight=2, seconds=1e-3, flops=5e7, size=2.5e6)
    return Result(
        network=network, machine={"cpu_model": "CPU"}, limits=LIMITS, tuned=version(),
        variants=variants or [], compared=list(compared), shares=[share],
    )  # fmt: skip


def test_the_best_peer_is_the_fastest_that_is_as_precise_as_the_model() -> None:
    rivals = (
        peer("onnxruntime", "ONNX Runtime", 1.1),
        peer("openvino", "OpenVINO", 1.3),
        peer("openvino-bf16", "OpenVINO in bf16", 2.5),
        peer("inductor", "inductor", None),
    )
    found = tables.best(result("a", *rivals))
    assert found is not None
    assert found.peer == "openvino"
    assert tables.best(result("a", peer("inductor", "inductor", None))) is None


def test_the_summary_has_everybody_and_the_geometric_mean() -> None:
    results = [
        result("a", peer("onnxruntime", "ONNX Runtime", 0.5)),
        result("b", peer("onnxruntime", "ONNX Runtime", 2.0), peer("inductor", "inductor", None)),
    ]
    headers, _, first, second, mean = tables.summary(results)
    assert headers.startswith("| ms | untuned | ONNX Runtime | PyTorch's inductor | tuned | tuned / best |")
    assert first == "| a | 1,000 | 4 |  | 2 | 0.50 | 3.0e-06 | 64 | 1.5 min |"
    assert second == "| b | 1,000 | 1 |  | 2 | 2.00 | 3.0e-06 | 64 | 1.5 min |"
    assert "1.00" in mean
    assert tables.failures(results) == ["b: inductor cannot run it: no such operator"]
    assert tables.geometric_mean([0.5, 2.0, 8.0]) == pytest.approx(2.0)


def test_a_task_is_beside_what_its_core_can_do() -> None:
    (share,) = result("a").shares
    assert share.of_peak(LIMITS) == pytest.approx(0.5)
    assert share.of_bandwidth(LIMITS) == pytest.approx(0.1)
    assert tables.tasks(result("a"), LIMITS)[-1] == "| conv | 2 | 1,000.0 | 100% | 50 | 50% | 2.5 | 10% |"


def test_a_variant_is_beside_the_usual_result() -> None:
    lines = tables.document([result("a", variants=[version("exact", 1.5)])])
    assert "| a, exact | 3 | 1.50 | 1.0e-06 | 64 | 1.5 min |" in lines
    assert tables.variants([result("a")]) == []


@pytest.mark.parametrize("text", ["exact", "tuned=--math exact", "=--math exact", "a b=--x"])
def test_a_variant_has_a_name_of_its_own_and_options(text: str) -> None:
    with pytest.raises(ValueError, match="should look like exact="):
        command._variant(text)
    assert command._variant("exact=--math exact") == ("exact", "--math exact")


PATIENT = """
import signal, sys, time
signal.signal(signal.SIGINT, lambda *_: sys.exit(CODE))
open("started", "w").write(" ".join(sys.argv[1:]))
time.sleep(60)
"""


@pytest.mark.parametrize("code", [0, 3])
def test_tuning_is_stopped_like_a_person_does_it(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "python"
    script.write_text(f"#!{sys.executable} -SE{PATIENT.replace('CODE', str(code))}")
    script.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command.sys, "executable", str(script))
    arguments = (Path("dlrm.onnx"), tmp_path / "out", "cpu:0", 7, 0.01, ["--seed", "3"])
    if code:
        with pytest.raises(TunemeshError, match="tuning dlrm failed: tunemesh tune ended with status 3"):
            command.tune(*arguments)
    else:
        command.tune(*arguments)
    given = (tmp_path / "started").read_text()
    assert given.startswith("-m tunemesh tune dlrm.onnx ")
    assert given.endswith(
        "--device cpu:0 --trials 7 --known never --overwrite --range sparse=0,1000 --seed 3"
    )


def test_tasks_without_a_line_in_the_database_have_no_shares(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_bytes(msgspec.json.encode(report("native")))
    (tmp_path / shares.WORKLOADS).write_text("{}\n{}\n")
    assert shares.of_result(tmp_path) == []
