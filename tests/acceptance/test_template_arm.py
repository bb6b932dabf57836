"""The same templates for ARM: compiled by Debian's cross compiler, run by qemu. Right results only: how fast
they are, an emulator cannot say."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from tests.acceptance import direct, test_template_shapes
from tests.acceptance.test_template_kernels import winograd
from tests.acceptance.test_template_shapes import Array, Case

COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
TARGET = '{"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "neoverse-n1", "num-cores": 1}'
MISSING = [name for name in (COMPILER, EMULATOR) if not shutil.which(name)]
LIMIT = 60.0

MAIN = """
#include <stdio.h>
static float *tensor(TVMFFIAny *to, DLTensor *made, long elements) {{
  *made = (DLTensor){{.data = aligned_alloc(64, (elements * 4 + 63) / 64 * 64)}};
  to->type_index = kTVMFFIDLTensorPtr; to->v_ptr = made;
  return made->data;
}}
int main(void) {{
  static const long sizes[] = {{{sizes}}};
  enum {{ COUNT = sizeof sizes / sizeof *sizes }};
  TVMFFIAny given[COUNT] = {{0}}, result = {{0}}; DLTensor made[COUNT];
  for (int i = 0; i < COUNT; ++i) {{
    float *data = tensor(&given[i], &made[i], sizes[i]);
    if (i + 1 < COUNT && fread(data, 4, sizes[i], stdin) != sizes[i]) return 2;
  }}
  {packs}
  if (__tvm_ffi_main(0, given, COUNT, &result)) return 3;
  return fwrite(made[COUNT - 1].data, 4, sizes[COUNT - 1], stdout) != sizes[COUNT - 1];
}}
"""
PACK = """{{ TVMFFIAny packed[2] = {{given[{weight}]}}; DLTensor made; result.v_int64 = sizes[{weight}];
    {count} tensor(&packed[1], &made, result.v_int64);
    if (__tvm_ffi_prepack_{weight}(0, packed, 2, &result)) return 4;
    given[{weight}].v_ptr = memcpy(malloc(sizeof made), &made, sizeof made); }}"""


def by_winograd(_: random.Random) -> Case:
    def reference(image: Array, weights: Array) -> Array:
        around = np.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)))
        return np.asarray(
            np.einsum("nyxcij,ijco->nyxo", sliding_window_view(around, (3, 3), (1, 2)), weights)
        )

    return winograd((1, 11, 10, 12), 20, (1, 1, 1, 1)), [1], reference


KINDS = {**test_template_shapes.KINDS, "winograd": by_winograd}


@pytest.mark.skipif(bool(MISSING), reason=f"needs {' and '.join(MISSING)}")
@pytest.mark.parametrize("kind", KINDS)
def test_kernels_for_arm_give_what_the_definition_gives(kind: str, tmp_path: Path) -> None:
    from tvm import te

    from tunemesh.stage_workers.engines.template import tuning
    from tunemesh.stage_workers.graph import workloads

    draw = random.Random(kind)
    tensors, weights, reference = KINDS[kind](draw)
    function = te.create_prim_func(tensors)
    function = function.with_attr(workloads.WEIGHTS, weights) if weights else function
    if kind == "winograd":
        function = function.with_attr(workloads.WINOGRAD, 4)
    taken = tuning.taken(workloads.pack(workloads.of_function(function)), direct.resolve_target(TARGET))
    assert (taken.machine.architecture, taken.machine.lanes) == ("aarch64", 4)
    values = taken.space.values(draw.choice(list(taken.space.all())))
    shapes = [tuple(int(extent) for extent in tensor.shape) for tensor in tensors]
    chance = np.random.default_rng(0)
    inputs = [chance.normal(0, 1, shape).astype(np.float32) for shape in shapes[:-1]]
    text = taken.template.source(taken.operator, values, "main")
    packs = taken.template.packs(taken.operator, values)
    out = _run(text, shapes, packs, inputs, tmp_path)
    np.testing.assert_allclose(out, reference(*inputs), rtol=2e-4, atol=2e-4)


def _run(
    text: str, shapes: Sequence[tuple[int, ...]], packs: Sequence[int], inputs: Sequence[Array], folder: Path
) -> Array:
    """The output of a program of C."""
    import tvm_ffi.libinfo

    sizes = ", ".join(str(int(np.prod(shape))) for shape in shapes)
    packing = []
    for weight in packs:
        name = f"__tvm_ffi_prepack_{weight}_elements"
        count = f"{name}(0, 0, 0, &result);" if name in text else ""
        packing.append(PACK.format(weight=weight, count=count))
    source = "#include <stdlib.h>\n#include <string.h>\n" + text
    source += MAIN.format(sizes=sizes, packs="\n  ".join(packing))
    include = {tvm_ffi.libinfo.find_include_path(), tvm_ffi.libinfo.find_dlpack_include_path()}
    program = folder / "kernel"
    command = [COMPILER, "-O1", "-std=gnu11", "-w", "-static", *(f"-I{path}" for path in sorted(include))]
    command += ["-x", "c", "-", "-lm", "-o", str(program)]
    subprocess.run(command, input=source.encode(), check=True, timeout=LIMIT)
    given = b"".join(each.tobytes() for each in inputs)
    ran = subprocess.run(
        [EMULATOR, str(program)], input=given, capture_output=True, check=True, timeout=LIMIT
    )
    return np.frombuffer(ran.stdout, np.float32).reshape(shapes[-1])
