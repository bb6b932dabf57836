"""From the text of CUDA C++ to an object that a model can be linked with: code for the GPU, in a program of C
that loads it when it is called first, and launches it.

The driver's library is looked for then, too: what builds a model has none.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from tunemesh.stage_workers.engines.template import compiling
from tunemesh.stage_workers.engines.template.compiling import CompileFailed, CompileTimedOut
from tunemesh.stage_workers.engines.template.cuda.text import KERNEL, Program
from tunemesh.stage_workers.engines.template.machine import Machine
from tunemesh.stage_workers.engines.template.text import DATA, function
from tunemesh.stage_workers.graph import device_code

LIMIT = 120.0
"""Seconds for one program; a usual one takes 0.1 by NVRTC, 1 by nvcc."""
DEVICES = 16
"""Of one process, at most."""

LAUNCH = """\
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <tvm/ffi/c_api.h>
static struct {
  int (*init)(unsigned);
  int (*device)(int *, int);
  int (*context)(void **, int);
  int (*use)(void *);
  int (*load)(void **, const void *);
  int (*find)(void **, void *, const char *);
  int (*launch)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **,
                void **);
} cuda;
static struct { void *context, *kernel; } loaded[DEVICES];
static int failed(const char *what, int status) {
  char text[128];
  snprintf(text, sizeof text, "CUDA: %s failed with error %d", what, status);
  void (*raise)(const char *, const char *) = dlsym(RTLD_DEFAULT, "TVMFFIErrorSetRaisedFromCStr");
  if (raise) raise("RuntimeError", text); else fprintf(stderr, "%s\\n", text);
  return -1;
}
static int found(void) {
  void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
  if (!library) return failed("dlopen of libcuda.so.1", 0);
  *(void **)&cuda.init = dlsym(library, "cuInit");
  *(void **)&cuda.device = dlsym(library, "cuDeviceGet");
  *(void **)&cuda.context = dlsym(library, "cuDevicePrimaryCtxRetain");
  *(void **)&cuda.use = dlsym(library, "cuCtxSetCurrent");
  *(void **)&cuda.load = dlsym(library, "cuModuleLoadData");
  *(void **)&cuda.find = dlsym(library, "cuModuleGetFunction");
  *(void **)&cuda.launch = dlsym(library, "cuLaunchKernel");
  return 0;
}
static int prepare(int number) {
  void *module, *context, *kernel;
  int status, device;
  if (number < 0 || number >= DEVICES) return failed("the number of the device", number);
  if (!cuda.launch && found()) return -1;
  if ((status = cuda.init(0))) return failed("cuInit", status);
  if ((status = cuda.device(&device, number))) return failed("cuDeviceGet", status);
  if ((status = cuda.context(&context, device))) return failed("cuDevicePrimaryCtxRetain", status);
  if ((status = cuda.use(context))) return failed("cuCtxSetCurrent", status);
  if ((status = cuda.load(&module, code))) return failed("cuModuleLoadData", status);
  if ((status = cuda.find(&kernel, module, KERNEL))) return failed("cuModuleGetFunction", status);
  loaded[number].context = context;
  loaded[number].kernel = kernel;
  return 0;
}
static void *stream_of(int number) {
  void *(*get)(int, int) = dlsym(RTLD_DEFAULT, "TVMFFIEnvGetStream");
  return get ? get(kDLCUDA, number) : 0;
}
static int device_of(const TVMFFIAny *argument) {
  const DLTensor *tensor = argument->type_index == kTVMFFITensor
      ? (const DLTensor *)((const char *)argument->v_obj + sizeof(TVMFFIObject))
      : (const DLTensor *)argument->v_ptr;
  return tensor->device.device_id;
}
"""
"""What finds the driver and loads the code, once for each device."""


def compiler() -> str:
    """What compiles CUDA C++ here: ``NVRTC``, ``nvcc``, or nothing."""
    if device_code.library() is not None:
        return "NVRTC"
    return "nvcc" if shutil.which("nvcc") else ""


def compiled(program: Program, architecture: str, parameters: int, symbol: str) -> bytes:
    """The relocatable object that exports ``__tvm_ffi_<symbol>``.

    Raises:
        CompileFailed: there is no compiler, or it fails.
    """
    code = cubin(program.text, architecture)
    host = Machine(0, 1, platform.machine(), ())
    return compiling.compiled(launcher(program, code, parameters, symbol), host)


def cubin(source: str, architecture: str) -> bytes:
    """Code for GPUs of an architecture.

    Raises:
        CompileFailed: there is no compiler, or it fails.
    """
    kind = compiler()
    if not kind:
        raise CompileFailed(f"no compiler for CUDA on this machine: {device_code.WITH}")
    if kind == "NVRTC":
        try:
            return device_code.by_library(source, architecture)
        except RuntimeError as error:
            raise CompileFailed(str(error)) from None
    with tempfile.TemporaryDirectory(prefix="tunemesh-cuda-") as folder:
        text, output = Path(folder, "kernel.cu"), Path(folder, "kernel.cubin")
        text.write_text(source)
        command = ["nvcc", "--cubin", f"-arch={architecture}", "-O3", "-w", "-o", str(output), str(text)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
        except subprocess.TimeoutExpired:
            raise CompileTimedOut(f"nvcc took more than {LIMIT:g} s") from None
        if done.returncode:
            raise CompileFailed(f"nvcc failed: {done.stderr.strip()}")
        return output.read_bytes()


def launcher(program: Program, code: bytes, parameters: int, symbol: str) -> str:
    """The program of C that launches a kernel."""
    x, y, z = program.grid
    lines = [f"const int number = device_of(&given[{parameters - 1}]);"]
    lines += [
        f"if ((number < 0 || number >= {DEVICES} || !loaded[number].kernel) && prepare(number)) return -1;",
        "int status = cuda.use(loaded[number].context);",
        'if (status) return failed("cuCtxSetCurrent", status);',
        f"void *tensors[] = {{{', '.join(f'data(&given[{at}])' for at in range(parameters))}}};",
        f"void *arguments[] = {{{', '.join(f'&tensors[{at}]' for at in range(parameters))}}};",
        f"status = cuda.launch(loaded[number].kernel, {x}, {y}, {z}, {program.threads}, 1, 1, 0, "
        "stream_of(number), arguments, 0);",
        'if (status) return failed("cuLaunchKernel", status);',
    ]
    numbers = ",".join(map(str, code))
    return "\n".join(
        [
            f"#define DEVICES {DEVICES}",
            f'#define KERNEL "{KERNEL}"',
            f"static const unsigned char code[] __attribute__((aligned(64))) = {{{numbers}}};",
            LAUNCH,
            DATA,
            function(symbol, lines),
        ]
    )
