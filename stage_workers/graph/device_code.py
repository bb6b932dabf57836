"""From CUDA C++ to code for a GPU: by NVRTC, NVIDIA's compiler as a library, or by nvcc.

TVM calls NVRTC too, where the package ``cuda-bindings`` is there, but has it read CUDA's headers of the
standard library for a handful of names of types: that takes 0.8 s of the 0.9 s of a small kernel. Here the
compiler finds these names in a few lines of our own. Without NVRTC, nvcc makes code for the one architecture
that is wanted.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
from collections.abc import Mapping
from importlib import util
from pathlib import Path
from typing import Any

from tunemesh.shared.errors import TunemeshError

CALLBACK = "tvm_callback_cuda_compile"
"""TVM's function that compiles: source to bytes."""
WITH = 'install the CUDA toolkit (nvcc), or: pip install "tunemesh[nvrtc]"'
"""What to do where neither is there."""

INTEGERS = """#pragma once
namespace cuda { namespace std {
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;
} }
"""
TRAITS = """#pragma once
namespace cuda { namespace std {
template <bool V> struct constant { static constexpr bool value = V; };
template <class A, class B> struct is_same : constant<false> {};
template <class A> struct is_same<A, A> : constant<true> {};
template <class A, class B> inline constexpr bool is_same_v = is_same<A, B>::value;
template <class T> struct is_integral : constant<false> {};
template <class T> struct is_floating_point : constant<false> {};
template <class T> struct is_signed : constant<false> {};
template <class T> struct is_unsigned : constant<false> {};
#define TUNEMESH_INTEGER(T) \\
  template <> struct is_integral<T> : constant<true> {}; \\
  template <> struct is_signed<T> : constant<((T)-1 < (T)0)> {}; \\
  template <> struct is_unsigned<T> : constant<((T)0 < (T)-1)> {};
#define TUNEMESH_FLOAT(T) \\
  template <> struct is_floating_point<T> : constant<true> {}; \\
  template <> struct is_signed<T> : constant<true> {};
TUNEMESH_INTEGER(bool)
TUNEMESH_INTEGER(char)
TUNEMESH_INTEGER(signed char)
TUNEMESH_INTEGER(unsigned char)
TUNEMESH_INTEGER(short)
TUNEMESH_INTEGER(unsigned short)
TUNEMESH_INTEGER(int)
TUNEMESH_INTEGER(unsigned int)
TUNEMESH_INTEGER(long)
TUNEMESH_INTEGER(unsigned long)
TUNEMESH_INTEGER(long long)
TUNEMESH_INTEGER(unsigned long long)
TUNEMESH_FLOAT(float)
TUNEMESH_FLOAT(double)
template <bool B, class T = void> struct enable_if {};
template <class T> struct enable_if<true, T> { typedef T type; };
template <bool B, class T, class F> struct conditional { typedef T type; };
template <class T, class F> struct conditional<false, T, F> { typedef F type; };
} }
"""
HEADERS: Mapping[str, str] = {"cuda/std/cstdint": INTEGERS, "cuda/std/type_traits": TRAITS}
"""What TVM's code includes, by name."""
BEFORE = """#ifndef INFINITY
#define INFINITY __int_as_float(0x7f800000)
#endif
#ifndef NAN
#define NAN __int_as_float(0x7fffffff)
#endif
"""
"""What nvcc knows by itself."""
OPTIONS = ("-default-device", "--device-int128", "--use_fast_math", "-w")
"""As TVM has it, without warnings."""


def register() -> None:
    """Have TVM compile by :func:`compiled` in this process."""
    import tvm_ffi
    from tvm.support import nvcc  # registers TVM's own first  # noqa: F401

    tvm_ffi.register_global_func(CALLBACK, compiled, override=True)


def compiled(source: str) -> bytes:
    """A cubin for the architecture of the present target, or of the GPU that is there.

    Raises:
        TunemeshError: there is no compiler.
        RuntimeError: the compiler refuses the source; it says why.
    """
    from tvm.support import nvcc
    from tvm.target import Target

    if library() is not None:
        version = nvcc.get_target_compute_version(Target.current(allow_none=True))
        return by_library(str(source), f"sm_{version.replace('.', '')}")
    if shutil.which("nvcc") is None:
        raise TunemeshError(f"no compiler for CUDA on this machine: {WITH}")
    return bytes(nvcc.compile_cuda(str(source), target_format="cubin", compiler="nvcc"))


@functools.cache
def library() -> Any:
    """NVRTC as a module of Python; ``None`` where it is not there."""
    try:
        from cuda.bindings import nvrtc

        nvrtc.nvrtcVersion()
    except (ImportError, RuntimeError):  # the bindings are missing, or what they bind
        return None
    return nvrtc


def version() -> str:
    """NVRTC's version; empty where it is not there."""
    nvrtc = library()
    return "" if nvrtc is None else ".".join(map(str, nvrtc.nvrtcVersion()[1:]))


def by_library(source: str, architecture: str) -> bytes:
    """The cubin of CUDA C++ by NVRTC.

    Args:
        architecture: ``sm_90``.

    Raises:
        RuntimeError: the source is refused; it says why.
    """
    from tvm.support import nvcc

    nvrtc = library()
    options = [f"--gpu-architecture={architecture}", *OPTIONS, *_includes()]
    # Each for itself: NVRTC does not split them at commas.
    options += [f"--ptxas-options={flag}" for flag in nvcc._ptxas_option_flags() if "=" in flag]
    status, program = nvrtc.nvrtcCreateProgram(
        (BEFORE + source).encode(),
        b"tvm_kernels.cu",
        len(HEADERS),
        [text.encode() for text in HEADERS.values()],
        [name.encode() for name in HEADERS],
    )
    _require(nvrtc, status)
    try:
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), [each.encode() for each in options])
        if status:
            raise RuntimeError(f"NVRTC: {_log(nvrtc, program)}")
        status, size = nvrtc.nvrtcGetCUBINSize(program)
        _require(nvrtc, status)
        code = bytearray(size)
        (status,) = nvrtc.nvrtcGetCUBIN(program, code)
        _require(nvrtc, status)
    finally:
        nvrtc.nvrtcDestroyProgram(program)
    return bytes(code)


@functools.cache
def _includes() -> list[str]:
    """The folder of CUDA's headers, where half precision and the like are declared, if there is one: of the
    toolkit, or of NVIDIA's packages for Python."""
    from tvm.support import nvcc

    toolkits = [Path("/usr/local/cuda")]
    with contextlib.suppress(RuntimeError):  # no nvcc
        toolkits.insert(0, Path(nvcc.find_cuda_path()))
    packages = util.find_spec("nvidia")
    places = (packages.submodule_search_locations or []) if packages is not None else []
    folders = [
        *(toolkit / "include" for toolkit in toolkits),
        *(each for place in places for each in sorted(Path(place).glob("*/include"))),
    ]
    return [f"-I{folder}" for folder in folders if Path(folder, "cuda_fp16.h").is_file()][:1]


def _log(nvrtc: Any, program: Any) -> str:
    status, size = nvrtc.nvrtcGetProgramLogSize(program)
    _require(nvrtc, status)
    text = bytearray(size)
    nvrtc.nvrtcGetProgramLog(program, text)
    return text.decode(errors="replace").rstrip("\0").strip()


def _require(nvrtc: Any, status: Any) -> None:
    """Raise what NVRTC says unless it is content."""
    if status:
        raise RuntimeError(f"NVRTC: {nvrtc.nvrtcGetErrorString(status)[1].decode()}")
