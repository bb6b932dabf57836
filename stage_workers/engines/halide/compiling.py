"""From a pipeline with a schedule to an object that a model can be linked with.

Halide's machine code takes its own description of tensors, and calls its runtime. A few lines of C stand
between: they describe the tensors, whose shapes are known, and are what is left of the runtime.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import halide as hl

from tunemesh.stage_workers.engines.halide.pipelines import Pipeline
from tunemesh.stage_workers.engines.halide.roles import Factor, Roles
from tunemesh.stage_workers.engines.protocol import prepack_name
from tunemesh.stage_workers.engines.template import compiling
from tunemesh.stage_workers.engines.template.compiling import CompileFailed
from tunemesh.stage_workers.engines.template.machine import Machine
from tunemesh.stage_workers.engines.template.operators import Operator
from tunemesh.stage_workers.engines.template.text import DATA, function

FEATURES = {
    "-mavx": "avx",
    "-mavx2": "avx2",
    "-mfma": "fma",
    "-mf16c": "f16c",
    "-msse4.2": "sse41",
}
"""Of Halide's targets, by what tells a compiler of C so."""
SKYLAKE = {"-mavx512f", "-mavx512vl", "-mavx512bw", "-mavx512dq", "-mavx512cd"}
TEMPORARY = "/tmp"
WITHOUT = ("no_runtime", "no_asserts", "no_bounds_query")
ARCHITECTURES = {"x86_64": "x86-64-linux", "aarch64": "arm-64-linux"}

RUNTIME = """\
#include <tvm/ffi/c_api.h>
#include <HalideRuntime.h>
#define HERE __attribute__((visibility("hidden")))
void *aligned_alloc(size_t, size_t);
void free(void *);
HERE void *halide_malloc(void *context, size_t size) { return aligned_alloc(128, (size + 255) / 128 * 128); }
HERE void halide_free(void *context, void *memory) { free(memory); }
HERE int halide_error_out_of_memory(void *context) { return -1; }
HERE int halide_do_par_for(void *context, halide_task_t task, int from, int count, uint8_t *closure) {
  int failed = 0;
  for (int i = from; i < from + count && !failed; ++i) failed = task(context, i, closure);
  return failed;
}
"""
"""What is left of Halide's runtime: memory, and loops that an autoscheduler would have run in parallel."""


def supported(machine: Machine) -> bool:
    """Whether Halide can make code for a CPU."""
    return machine.architecture in ARCHITECTURES


def has_temporary_files() -> bool:
    """Whether Halide can make its temporary files: wherever others are made, it takes ``/tmp``."""
    try:
        Path(tempfile.mkdtemp(dir=TEMPORARY)).rmdir()
    except OSError:
        return False
    return True


def target_of(machine: Machine) -> Any:
    """A CPU as Halide describes it."""
    flags = set(machine.flags)
    features = [name for flag, name in FEATURES.items() if flag in flags]
    if flags >= SKYLAKE:
        features += ["avx512", "avx512_skylake"]
    return hl.Target("-".join([ARCHITECTURES[machine.architecture], *features, *WITHOUT]))


def compiled(operator: Operator, roles: Roles, pipeline: Pipeline, machine: Machine, symbol: str) -> bytes:
    """The relocatable object that exports ``__tvm_ffi_<symbol>`` and what packs weights for it.

    Raises:
        CompileFailed: Halide refuses the schedule, or there is no compiler of C.
    """
    inner = f"halide_{symbol}"
    around = compiling.compiled(shim(operator, roles, symbol, inner), machine, [include()])
    with tempfile.TemporaryDirectory(prefix="tunemesh-halide-") as folder:
        code = Path(folder, "code.o")
        try:
            arguments = list(pipeline.parameters)
            pipeline.output.compile_to_object(str(code), arguments, inner, target_of(machine))
        except hl.HalideError as error:
            raise CompileFailed(f"Halide refuses the schedule: {str(error).strip()}") from None
        return _joined([code.read_bytes(), around], [symbol, *_prepacks(roles, symbol)], folder)


def statement(pipeline: Pipeline, machine: Machine) -> str:
    """The loops that Halide makes of a pipeline, for people."""
    with tempfile.TemporaryDirectory(prefix="tunemesh-halide-") as folder:
        path = Path(folder, "loops.stmt")
        pipeline.output.compile_to_lowered_stmt(
            str(path), list(pipeline.parameters), hl.StmtOutputFormat.Text, target_of(machine)
        )
        return path.read_text()


def include() -> str:
    """The folder with Halide's headers."""
    return str(Path(hl.__file__).parent / "include")


def _prepacks(roles: Roles, symbol: str) -> list[str]:
    return [
        f"{prefix_of(symbol)}{prepack_name(each.operand.parameter)}" for each in roles.factors if each.packing
    ]


def prefix_of(symbol: str) -> str:
    """Before the names of functions that pack for ``symbol``."""
    return "" if symbol == "main" else f"{symbol}_"


def shim(operator: Operator, roles: Roles, symbol: str, inner: str) -> str:
    """The program between TVM-FFI's calling convention and Halide's."""
    sizes, spatial = operator.parameters, roles.spatial
    shapes = [[(size, 1)] for size in sizes[:-1]]
    shapes.append([(operator.axes[axis].extent, operator.output.strides[axis]) for axis in spatial])
    lines = []
    for number, shape in enumerate(shapes):
        dimensions = ", ".join(f"{{0, {extent}, {stride}, 0}}" for extent, stride in shape)
        lines += [
            f"halide_dimension_t d{number}[] = {{{dimensions}}};",
            f"halide_buffer_t b{number} = {{.host = (uint8_t *)data(&given[{number}]), "
            f".type = {{halide_type_float, 32, 1}}, .dimensions = {len(shape)}, .dim = d{number}}};",
        ]
    given = ", ".join(f"&b{number}" for number in range(len(shapes)))
    lines.append(f"if ({inner}({given})) return -1;")
    declared = ", ".join(["halide_buffer_t *"] * len(shapes))
    packs = [_prepack(each, symbol) for each in roles.factors if each.packing]
    return "\n".join([RUNTIME, DATA, f"int {inner}({declared});", function(symbol, lines), *packs])


def _prepack(factor: Factor, symbol: str) -> str:
    """The function that puts a weight into the order of a kernel."""
    lines = ["const float *const from = data(&given[0]);", "float *const to = data(&given[1]);"]
    source, target = [str(factor.offset)], []
    for number, (extent, stride, place) in enumerate(
        zip(factor.extents, factor.strides, factor.packing, strict=True)
    ):
        lines.append(f"for (long c{number} = 0; c{number} < {extent}; ++c{number})")
        source.append(f"c{number} * {stride}")
        if place.block:
            target.append(f"c{number} / {place.block} * {place.outer}")
            target.append(f"c{number} % {place.block} * {place.inner}")
        else:
            target.append(f"c{number} * {place.inner}")
    lines.append(f"to[{' + '.join(target)}] = from[{' + '.join(source)}];")
    return function(f"{prefix_of(symbol)}{prepack_name(factor.operand.parameter)}", lines)


def _joined(objects: Sequence[bytes], symbols: Sequence[str], folder: str) -> bytes:
    """One object of several, that exports these symbols and nothing else."""
    files = []
    for number, each in enumerate(objects):
        files.append(str(Path(folder, f"part{number}.o")))
        Path(files[-1]).write_bytes(each)
    output = str(Path(folder, "joined.o"))
    kept = [f"--keep-global-symbol=__tvm_ffi_{symbol}" for symbol in symbols]
    for command in (["ld", "-r", "-o", output, *files], ["objcopy", *kept, output]):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=compiling.LIMIT)
        if done.returncode:
            raise CompileFailed(f"{command[0]} failed: {done.stderr.strip()}")
    return Path(output).read_bytes()
