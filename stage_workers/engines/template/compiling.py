"""From the text of C to machine code."""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from cachetools import LRUCache

from tunemesh.shared.text import clip
from tunemesh.stage_workers.engines.compilers import MISSING, compiler
from tunemesh.stage_workers.engines.protocol import BuildOutcome
from tunemesh.stage_workers.engines.template.machine import Machine
from tunemesh.stage_workers.graph import linking

LIMIT = 60.0
"""Seconds for one program; a usual one takes a tenth of one."""
KEPT_BYTES = 32 * 2**20
"""Of machine code that a process remembers by the text that it came from."""
FLAGS = (
    "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fwrapv", "-fPIC",
    "-fno-asynchronous-unwind-tables", "-fno-stack-protector", "-std=gnu11", "-w", "-c", "-x", "c", "-",
)  # fmt: skip
"""Nothing that changes what a formula gives: the order of sums is the template's, and NaN stays NaN."""
OF_GCC = ("-O1", "-fexpensive-optimizations", "-fcaller-saves")
"""What kernels need of ``-O2``, which takes gcc 12 a third longer for kernels that are no faster (seven
operators, two kernels each): multiply-adds, and registers that are saved only where another function is
called."""
OF_OTHERS = ("-O2",)

_known: LRUCache[str, bytes] = LRUCache(KEPT_BYTES, getsizeof=len)


class CompileFailed(Exception):
    """A program could not be compiled. The text is what the compiler said."""


class CompileTimedOut(CompileFailed):
    """It took too long."""


def compiled(source: str, machine: Machine, headers: Sequence[str] = ()) -> bytes:
    """The relocatable object of a program.

    Args:
        headers: folders of what it includes beside TVM-FFI's.

    Raises:
        CompileFailed: there is no compiler, or it fails.
    """
    import tvm_ffi.libinfo

    found = compiler(machine.architecture)
    if found is None:
        raise CompileFailed(MISSING)
    include = {tvm_ffi.libinfo.find_include_path(), tvm_ffi.libinfo.find_dlpack_include_path(), *headers}
    level = OF_GCC if "gcc" in Path(found).resolve().name else OF_OTHERS
    command = [found, *level, *FLAGS, *machine.flags, *(f"-I{folder}" for folder in sorted(include))]
    key = hashlib.sha256("\0".join([*command, source]).encode()).hexdigest()
    code = _known.get(key)
    if code is None:
        code = _run(command, source)
        if len(code) <= KEPT_BYTES:
            _known[key] = code
    return code


def outcome_of(compile_: Callable[[], bytes]) -> BuildOutcome:
    """What became of a candidate: the shared object of the code that ``compile_`` returns, or why there is
    none."""
    try:
        code = compile_()
    except CompileTimedOut as error:
        return BuildOutcome(outcome="build-timed-out", error=str(error))
    except CompileFailed as error:
        return BuildOutcome(outcome="build-failed", error=clip(str(error)))
    return BuildOutcome(artifact=linking.link_objects([code]))


def forget() -> None:
    """Compile anew what was compiled before: searches that are compared pay for their own."""
    _known.clear()


def _run(command: list[str], source: str) -> bytes:
    with tempfile.TemporaryDirectory(prefix="tunemesh-template-") as folder:
        output = Path(folder, "kernel.o")
        try:
            done = subprocess.run(
                [*command, "-o", str(output)],
                input=source,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=LIMIT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise CompileTimedOut(f"the compiler took more than {LIMIT:g} s") from None
        if done.returncode:
            raise CompileFailed(f"{Path(command[0]).name} failed: {done.stderr.strip()}")
        return output.read_bytes()
