"""What a device is said to be: the same on every start, and another for another machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunemesh.shared.errors import Unavailable
from tunemesh.stage_workers.devices import conditions
from tunemesh.stage_workers.devices.conditions import conditions_of
from tunemesh.stage_workers.devices.devices import Device

X86 = """processor : 0
cpu family : 26
model : 2
model name : AMD EPYC 9R45
stepping : 1
cpu MHz : {mhz}
flags : fpu smep sse4_2 avx fma {more} f16c

processor : 1
model name : AMD EPYC 9R45
"""
ARM = "processor : 0\nFeatures : fp asimd sve2 i8mm crc32\nCPU implementer : 0x41\nCPU part : 0xd4f\n"


def machine(folder: Path, cpuinfo: str, last: str = "32768K") -> Path:
    (folder / "proc").mkdir(parents=True)
    (folder / "proc" / "cpuinfo").write_text(cpuinfo)
    for number, (kind, level, size) in enumerate(
        [("Data", "1", "48K"), ("Instruction", "1", "32K"), ("Unified", "3", last)]
    ):
        index = folder / f"sys/devices/system/cpu/cpu1/cache/index{number}"
        index.mkdir(parents=True)
        for name, value in (("type", kind), ("level", level), ("size", size)):
            (index / name).write_text(f"{value}\n")
    return folder


def device(*cores: int) -> Device:
    return Device("cpu:1", "cpu", (), frozenset(cores))


def test_a_cpu_is_its_model_its_vector_units_its_caches_and_its_cores(tmp_path: Path) -> None:
    found = conditions_of(device(1), machine(tmp_path, X86.format(mhz=2600, more="avx512f")))
    assert found.device == (
        "AMD EPYC 9R45 (cpu family 26, model 2, stepping 1); avx avx512f f16c fma sse4_2;"
        " L1 48K L3 32768K; 1 core"
    )
    assert "apache-tvm 0." in found.versions
    assert not found.cache_flush


def test_it_is_the_same_at_another_clock_rate_and_another_one_with_other_parts(tmp_path: Path) -> None:
    def described(name: str, *cores: int, mhz: int = 2600, more: str = "", last: str = "32768K") -> str:
        place = machine(tmp_path / name, X86.format(mhz=mhz, more=more), last)
        return conditions_of(device(*cores), place).id

    same = described("a", 1)
    assert described("b", 1, mhz=3700) == same
    others = [described("c", 1, 2), described("d", 1, more="avx2"), described("e", 1, last="16384K")]
    assert len({same, *others}) == 4


def test_an_arm_says_less(tmp_path: Path) -> None:
    found = conditions_of(device(1), machine(tmp_path, ARM))
    assert found.device == "(CPU implementer 0x41, CPU part 0xd4f); asimd i8mm sve2; L1 48K L3 32768K; 1 core"


def test_a_gpu_is_its_name_its_memory_and_its_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 81559 MiB, 560.35.05'\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    gpu = Device("cuda:0", "cuda:0", ())
    assert conditions_of(gpu).device == "NVIDIA H100 80GB HBM3; 81559 MiB; driver 560.35.05"
    smi.write_text("#!/bin/sh\nexit 9\n")
    with pytest.raises(Unavailable, match="nvidia-smi does not describe cuda:0"):
        conditions_of(gpu)


def test_a_machine_that_says_nothing_is_described_all_the_same(tmp_path: Path) -> None:
    assert conditions_of(device(1), tmp_path).device.endswith("1 core")
    assert conditions.versions().startswith("tunemesh ")
