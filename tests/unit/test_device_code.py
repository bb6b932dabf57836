"""Which compiler makes code for GPUs, and what it is given beside the source. No GPU is needed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tunemesh import doctor
from tunemesh.shared.errors import TunemeshError
from tunemesh.stage_workers.graph import device_code

SOURCE = """
#include <cuda/std/cstdint>
#include <cuda/std/type_traits>
static_assert(sizeof(cuda::std::int8_t) == 1 && sizeof(cuda::std::uint8_t) == 1, "");
static_assert(sizeof(cuda::std::int16_t) == 2 && sizeof(cuda::std::uint16_t) == 2, "");
static_assert(sizeof(cuda::std::int32_t) == 4 && sizeof(cuda::std::uint32_t) == 4, "");
static_assert(sizeof(cuda::std::int64_t) == 8 && sizeof(cuda::std::uint64_t) == 8, "");
static_assert(cuda::std::is_signed<cuda::std::int64_t>::value, "");
static_assert(cuda::std::is_unsigned<cuda::std::uint64_t>::value, "");
static_assert(!cuda::std::is_signed<unsigned char>::value && cuda::std::is_signed<float>::value, "");
static_assert(cuda::std::is_integral<bool>::value && !cuda::std::is_integral<double>::value, "");
static_assert(cuda::std::is_floating_point<double>::value && !cuda::std::is_floating_point<int>::value, "");
static_assert(cuda::std::is_same_v<cuda::std::conditional<false, int, float>::type, float>, "");
static_assert(cuda::std::is_same<cuda::std::enable_if<true, int>::type, int>::value, "");
extern "C" __global__ void kernel(float* a) { a[0] = fmaxf(a[1], -INFINITY); }
"""


@pytest.fixture
def without_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_code, "library", lambda: None)


@pytest.mark.usefixtures("without_library")
def test_without_any_compiler_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with pytest.raises(TunemeshError, match=r"no compiler for CUDA.*nvcc.*tunemesh\[nvrtc\]") as raised:
        device_code.compiled(SOURCE)
    assert "\n" not in str(raised.value)


@pytest.mark.usefixtures("without_library")
@pytest.mark.parametrize(("nvcc", "ok"), [("/opt/cuda/bin/nvcc", True), (None, False)])
def test_the_doctor_names_the_compiler_of_a_gpu(
    nvcc: str | None, ok: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = {"nvidia-smi": "/usr/bin/nvidia-smi", "nvcc": nvcc}
    monkeypatch.setattr(shutil, "which", lambda name, path=None: programs.get(name))
    (finding,) = [each for each in doctor.examine() if each.what == "GPU"]
    assert (finding.ok, f"compiler of kernels: {nvcc or 'missing'}" in finding.found) == (ok, True)
    assert "tunemesh[nvrtc]" in finding.advice


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
def test_our_headers_say_what_those_of_the_standard_library_say(tmp_path: Path) -> None:
    for name, text in device_code.HEADERS.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    source = tmp_path / "kernel.cu"
    source.write_text(device_code.BEFORE + SOURCE)
    command = [
        "nvcc",
        "-arch=sm_90",
        "-I",
        str(tmp_path),
        "-ptx",
        "-o",
        str(tmp_path / "kernel.ptx"),
        str(source),
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.skipif(device_code.library() is None, reason="needs NVRTC (the extra nvrtc)")
def test_nvrtc_makes_code_or_says_where_the_source_is_wrong() -> None:
    assert device_code.by_library(SOURCE, "sm_90")[:4] == b"\x7fELF"
    with pytest.raises(RuntimeError, match="nowhere"):
        device_code.by_library('extern "C" __global__ void kernel(float* a) { a[0] = nowhere; }', "sm_90")
