"""Targets: what code is generated for."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from tunemesh.shared.errors import BadTarget

log = logging.getLogger(__name__)

LLVM_LEVEL = 2
"""How much LLVM optimises, where the target does not say. TVM takes 3: a tenth to a fifth more time per
candidate, for kernels that are 3 to 6 % slower (geometric mean of the first 12 candidates each of a matrix
product and a convolution, Zen 4). Schedules have unrolled and vectorised already; some suffer from more."""

LLVM_OPTIONS = ("-dag-maps-huge-region:uint=100", "-licm-mssa-optimization-cap:uint=10")
"""Options of LLVM, where the target names none (``cl-opt``). From how many memory accesses on a block is too
large for the schedulers of instructions to look at every pair (1,000 otherwise). Unrolled schedules have such
blocks: a tenth of all build time, five sixths of the worst; the kernels are as fast. And how many loads of a
loop are compared with all stores of it (100 otherwise), in one pass of several: a twentieth of the time for
convolutions."""

X86_OPTIONS = ("-disable-lsr:bool=1",)
"""More of them for scheduled code on x86, where an address is a sum of two registers in any case: no new
variables of loops are sought to make addresses cheaper. The search takes a fifth to two fifths of the time in
which LLVM makes code of what it has optimised. Of 12 kernels, 6 to 8 schedules each, none is slower
(geometric mean of CPU times 1.00). Products without a schedule are, by a fifth."""

SMALL_IMAGE_OPTIONS = ("-unroll-threshold-default:uint=60",)
"""More of them for sums without a schedule for each pixel of a small image. LLVM writes rows and columns
out (150 instructions at most, before it looks for what becomes simpler), though it is a long sum inside
that takes the time: a quantised convolution of 7x7 pixels with 512 channels takes LLVM 1.0 s, and with this
0.26 s. Of 12 such functions of three networks none is slower by more than a tenth, and all together take
1.02 times as long. Where the sum inside is short, some are, by up to five times."""

CUDA_LIMITS = {
    "max_threads_per_block": 1024,
    "max_shared_memory_per_block": 48 * 1024,
    "registers_per_block": 65536,
    "thread_warp_size": 32,
}
"""Of all NVIDIA GPUs in use, where the target does not say: MetaSchedule makes no schedule without them. Tags
such as nvidia/nvidia-h100 bring their own."""

EXAMPLES = 'say native, a tag such as nvidia/nvidia-h100, or JSON such as {"kind": "llvm", "mcpu": "znver4"}'


def resolve(target: str, cores: int = 1) -> str:
    """The canonical JSON of a target for a device of so many cores; see
    :meth:`stage_workers.platforms.protocol.Platform.resolve_target`."""
    description = _describe(target.strip())
    if description == "native":
        description = _native()
    if description == "cuda" or (isinstance(description, dict) and _lacks_arch(description)):
        raise BadTarget(
            "the target cuda needs an architecture: use a tag such as nvidia/nvidia-h100, "
            'or {"kind": "cuda", "arch": "sm_90"}'
        )
    resolved = _plain(_make(description).export())
    kind = resolved["kind"]
    if kind not in ("llvm", "cuda"):
        raise BadTarget(f"targets of kind {kind} are not supported, only llvm and cuda; {EXAMPLES}")
    if kind == "llvm":
        resolved.setdefault("num-cores", cores)
    else:
        resolved = CUDA_LIMITS | resolved
    return json.dumps(resolved, sort_keys=True)


def load(target: str) -> Any:
    """The TVM target of a canonical JSON text."""
    import tvm

    attributes = json.loads(target)
    if attributes["kind"] == "llvm":
        attributes.setdefault("opt-level", LLVM_LEVEL)
        attributes.setdefault("cl-opt", list(LLVM_OPTIONS))
    return tvm.target.Target(attributes)


def for_schedules(target: str) -> str:
    """A canonical target of a CPU for code that has a schedule."""
    attributes = json.loads(target)
    if architecture(target) in ("x86_64", "i386", "i686"):
        attributes.setdefault("cl-opt", [*LLVM_OPTIONS, *X86_OPTIONS])
    return json.dumps(attributes, sort_keys=True)


def for_small_images(target: str) -> str:
    """A canonical target of a CPU for sums over a small image without a schedule."""
    attributes = json.loads(target)
    attributes.setdefault("cl-opt", [*LLVM_OPTIONS, *SMALL_IMAGE_OPTIONS])
    return json.dumps(attributes, sort_keys=True)


def is_gpu(target: str) -> bool:
    """Whether a canonical target is a GPU."""
    return bool(json.loads(target)["kind"] == "cuda")


def name(target: str) -> str:
    """What people call a canonical target."""
    described = json.loads(target)
    return f"the target {described.get('mcpu') or described.get('arch') or described['kind']}"


def cores(target: str) -> int:
    """Threads that a kernel for a canonical CPU target may use; 1 for a GPU, whose host code is serial."""
    return int(json.loads(target).get("num-cores", 1))


def block_limits(target: str) -> tuple[int, int]:
    """Threads of a block on a canonical GPU target, and bytes that they may share."""
    attributes = load(target).attrs
    return int(attributes["max_threads_per_block"]), int(attributes["max_shared_memory_per_block"])


def has(target: str, feature: str) -> bool:
    """Whether a canonical CPU target has a feature, as LLVM calls it."""
    from tvm.target import codegen

    return bool(codegen.llvm_cpu_has_features(feature, load(target)))


def architecture(target: str) -> str:
    """Of a canonical CPU target, as its triple has it: ``x86_64``, ``aarch64``."""
    return _triple(load(target)).partition("-")[0]


def vector_registers(target: str) -> tuple[int, int]:
    """How many registers hold vectors on a canonical CPU target, and bits of each, as LLVM uses them."""
    # TVM's own answer is 512 for any x86.
    if has(target, "avx512vl"):
        return 32, 256 if has(target, "prefer-256-bit") else 512
    if has(target, "avx"):
        return 16, 256
    return 32 if has(target, "neon") else 16, 128


def here(target: str) -> str:
    """The target for this machine's CPU with as many cores as a canonical CPU target: what is compiled to be
    run where the model is imported."""
    return json.dumps({**_native(), "num-cores": cores(target)}, sort_keys=True)


def device(name: str) -> Any:
    """The TVM device of ``cpu`` or ``cuda:<n>``."""
    import tvm

    kind, _, index = name.partition(":")
    return tvm.runtime.device(kind, int(index or 0))


def _describe(target: str) -> str | dict[str, Any]:
    if not target.startswith("{"):
        return target
    try:
        description = json.loads(target)
    except ValueError as error:
        raise BadTarget(f"the target is not valid JSON: {error}") from None
    if "kind" not in description and "tag" not in description:
        raise BadTarget(f'the target {target} lacks "kind"; {EXAMPLES}')
    return dict(description)


def _lacks_arch(description: dict[str, Any]) -> bool:
    return description.get("kind") == "cuda" and "arch" not in description


def _native() -> dict[str, Any]:
    """This machine's CPU."""
    from tvm.target import codegen

    return {"kind": "llvm", "mcpu": str(codegen.llvm_get_system_cpu())}


def _make(description: str | dict[str, Any]) -> Any:
    import tvm
    from tvm.target import codegen

    try:
        target = tvm.target.Target(description)
    except (ValueError, TypeError, RuntimeError) as error:
        cause = str(error).split(" Target creation from")[0].split(" Known options")[0].rstrip(". ")
        raise BadTarget(f"unknown target: {cause}; {EXAMPLES}") from None
    mcpu = str(target.attrs.get("mcpu", ""))
    # LLVM itself only warns, and then makes code for a CPU of its own choice.
    if target.kind.name == "llvm" and mcpu and not codegen.llvm_is_valid_cpu(mcpu, _triple(target)):
        raise BadTarget(f"LLVM knows no CPU {mcpu} for {_triple(target)}; {EXAMPLES}")
    return target


def _triple(target: Any) -> str:
    from tvm.target import codegen

    return str(target.attrs.get("mtriple", "") or codegen.llvm_get_system_triple())


def _plain(value: Any) -> Any:
    """A TVM container as Python's own; empty tags are dropped, they say nothing."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items() if not (k == "tag" and v == "")}
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return str(value)
    return [_plain(item) for item in value]
