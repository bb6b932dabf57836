"""What kernels are made for, as templates and compilers need to know it."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from tunemesh.stage_workers.graph import targets

FEATURES = (
    "avx", "avx2", "fma", "f16c", "bmi", "bmi2", "lzcnt", "popcnt", "sse4.2",
    "avx512f", "avx512vl", "avx512bw", "avx512dq", "avx512cd", "avx512vnni", "avx512bf16",
)  # fmt: skip
"""Of x86, that code for it may use: as LLVM and compilers of C call them."""


@dataclass(frozen=True)
class Machine:
    """A CPU.

    Attributes:
        registers: that hold vectors.
        lanes: floats in one.
        architecture: ``x86_64``, ``aarch64``, as the target's triple begins.
        flags: that tell a compiler of C what the CPU can do, and ``THREADS`` where it has several cores.
        cores: that a kernel may use.
    """

    registers: int
    lanes: int
    architecture: str
    flags: tuple[str, ...]
    cores: int = 1


@functools.lru_cache(maxsize=8)
def of_target(target: str) -> Machine:
    """The CPU of a canonical target.

    LLVM knows newer CPUs than compilers of C that came with a system do, so that these are told what the CPU
    can do, and not its name.
    """
    registers, bits = targets.vector_registers(target)
    architecture = targets.architecture(target)
    flags: tuple[str, ...] = ()
    if architecture == "x86_64":
        flags = tuple(f"-m{name}" for name in FEATURES if targets.has(target, name))
    cores = targets.cores(target)
    if cores > 1:
        flags = (*flags, "-DTHREADS")
    return Machine(registers, bits // 32, architecture, flags, cores)
