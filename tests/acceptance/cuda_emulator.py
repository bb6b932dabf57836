"""Runs kernels of CUDA C++ on a CPU, to see what they compute: the threads of a block take turns, each up to
where all wait for each other. It is no GPU: it says nothing of speed, nor of what takes a GPU to fail."""

from __future__ import annotations

import ctypes
import itertools
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tunemesh.stage_workers.engines.template.cuda.text import KERNEL, Program

Array = npt.NDArray[np.float32]
NUMBERS = itertools.count()
AROUND = 64
"""Elements around each tensor that nobody may touch."""

BEFORE = r"""
#include <math.h>
#include <stdlib.h>
#include <ucontext.h>
#define __global__
#define __shared__ static
#define __launch_bounds__(threads)
struct float2 { float x, y; };
struct float4 { float x, y, z, w; };
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static struct { unsigned x, y, z; } threadIdx, blockIdx;
static ucontext_t scheduler, *now;
static void __syncthreads() { swapcontext(now, &scheduler); }
"""
AFTER = r"""
static float **given;
static bool done[1024];
static void thread(int number) { CALL; done[number] = true; }
extern "C" int run(float **tensors, unsigned x, unsigned y, unsigned z, int threads) {
  static ucontext_t contexts[1024];
  static char *stacks[1024];
  given = tensors;
  for (blockIdx.z = 0; blockIdx.z < z; ++blockIdx.z)
  for (blockIdx.y = 0; blockIdx.y < y; ++blockIdx.y)
  for (blockIdx.x = 0; blockIdx.x < x; ++blockIdx.x) {
    for (int i = 0; i < threads; ++i) {
      if (!stacks[i]) stacks[i] = (char *)malloc(16384);
      done[i] = false;
      getcontext(&contexts[i]);
      contexts[i].uc_stack.ss_sp = stacks[i];
      contexts[i].uc_stack.ss_size = 16384;
      contexts[i].uc_link = &scheduler;
      makecontext(&contexts[i], (void (*)())thread, 1, i);
    }
    for (int left = threads; left;) {
      int ended = 0;
      for (int i = 0; i < threads; ++i) {
        if (done[i]) return -1;  // others still wait
        threadIdx.x = i;
        now = &contexts[i];
        swapcontext(&scheduler, now);
        ended += done[i];
      }
      if (ended && ended < threads) return -1;
      left -= ended;
    }
  }
  return 0;
}
"""


def run(program: Program, inputs: Sequence[Array], shape: Sequence[int], folder: Path) -> Array:
    """What a kernel computes. Whatever is around its tensors is NaN."""
    library = folder / f"emulated{next(NUMBERS)}.so"
    call = f"{KERNEL}({', '.join(f'given[{at}]' for at in range(len(inputs) + 1))})"
    source = BEFORE + program.text + AFTER.replace("CALL", call)
    command = [
        "g++",
        "-w",
        "-ffp-contract=off",
        "-shared",
        "-fPIC",
        "-x",
        "c++",
        "-",
        "-o",
        str(library),
    ]
    subprocess.run(command, input=source, text=True, check=True, timeout=60)
    tensors = [_within(each.ravel()) for each in inputs]
    tensors.append(_within(np.full(int(np.prod(shape)), np.nan, np.float32)))
    pointer = ctypes.POINTER(ctypes.c_float)
    places = [each[AROUND:].ctypes.data_as(pointer) for each in tensors]
    status = ctypes.CDLL(str(library)).run((pointer * len(places))(*places), *program.grid, program.threads)
    assert status == 0, "some threads of a block wait where others do not"
    out = tensors[-1]
    assert np.isnan(out[:AROUND]).all()
    assert np.isnan(out[-AROUND:]).all()
    return out[AROUND:-AROUND].reshape(shape)


def _within(values: Array) -> Array:
    return np.pad(values, AROUND, constant_values=np.nan)
