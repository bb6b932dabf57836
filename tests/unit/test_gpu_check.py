"""The check for machines with a GPU, as far as that goes without one."""

from __future__ import annotations

import json
import stat
import subprocess
import time
from pathlib import Path

import pytest

from benchmarks import gpu_check
from benchmarks.gpu_check import NO_GPU, Check, Missing, Part


def with_smi(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose only command is this ``nvidia-smi``."""
    folder.mkdir()
    if script:
        smi = folder / "nvidia-smi"
        smi.write_text(f"#!/bin/sh\n{script}\n")
        smi.chmod(smi.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder))


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("", "no NVIDIA GPU: nvidia-smi is not on the PATH; install NVIDIA's driver"),
        ("echo No devices were found; exit 6", "no NVIDIA GPU: nvidia-smi says 'No devices were found'"),
    ],
)
def test_without_a_gpu_it_says_so_and_that_is_no_failure(
    script: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with_smi(tmp_path / "bin", script, monkeypatch)
    out = tmp_path / "found" / "check.json"
    assert gpu_check.main(["--out", str(out)]) == NO_GPU
    assert json.loads(out.read_text())["machine"]["missing"] == said
    assert said in capsys.readouterr().out


def test_the_machine_is_told_by_what_nvidia_smi_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_smi(tmp_path / "bin", "echo 'NVIDIA H100 80GB HBM3, 580.1, 81559 MiB, 9.0, 1980 MHz'", monkeypatch)
    found = gpu_check.machine(1.0)
    assert found["gpu"]["compute_cap"] == "9.0"
    assert found["gpus"] == 1
    assert json.loads(gpu_check.target_of("9.0")) == {"kind": "cuda", "arch": "sm_90"}


def test_a_part_that_fails_leaves_the_others_and_what_is_found_so_far(tmp_path: Path) -> None:
    check = Check(out=tmp_path / "check.json", deadline=time.monotonic() + 60)

    def slow(limit: float) -> Part:
        raise subprocess.TimeoutExpired("tune", 7.0)

    def lacks(_limit: float) -> Part:
        raise Missing("PyTorch is not installed")

    def breaks(_limit: float) -> Part:
        assert len(json.loads(check.out.read_text())) == 2  # a run that ends here has the first two
        raise ZeroDivisionError("x")

    for name, part in {
        "slow": slow,
        "lacks": lacks,
        "breaks": breaks,
        "wrong": lambda _: {"ok": False},
    }.items():
        check.run(name, part)
    check.run("right", lambda limit: {"limit": limit})
    found = json.loads(check.out.read_text())
    assert {name: each["ok"] for name, each in found.items()} == {
        "slow": False,
        "lacks": None,
        "breaks": False,
        "wrong": False,
        "right": True,
    }
    assert found["slow"]["error"] == "did not end in 7 s"
    assert found["breaks"]["error"] == "ZeroDivisionError: x"
    assert 50 < found["right"]["limit"] <= 60


def test_an_engine_that_lacks_something_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(Missing, match="install gcc or clang"):
        gpu_check.mesh(tmp_path, "{}", "template", [], 1.0)
