"""Templates in CUDA C++: what they compute, by an emulator; what a GPU allows; and what becomes of them."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.acceptance import cuda_emulator, direct
from tests.acceptance.test_metaschedule_engine import matrix_product
from tests.acceptance.test_template_kernels import OPERATORS, SMALL, placeholder, product, task_of
from tunemesh.shared.messages import Candidate, Trial
from tunemesh.stage_workers.engines.protocol import BuildCall, ExportCall, TaskRef, TaskTrials, UpdateCall
from tunemesh.stage_workers.engines.template import TemplateEngine
from tunemesh.stage_workers.engines.template.cuda import compiling

ENGINE = TemplateEngine()
EMULATED = {
    "product": "cuda-product",
    "one row": "cuda-product",
    "SiLU": "cuda-product",
    "batched": "cuda-product",
    "1x1, channels first": "cuda-product",
    "3x3, channels first, stride 2": "cuda-product",
    "depthwise": "cuda-points",
    "maximum": "cuda-points",
    "softmax": "cuda-rowwise",
    "layer normalisation": "cuda-rowwise",
}
"""Operators, and the template of each."""

needs_compiler = pytest.mark.skipif(not compiling.compiler(), reason="no compiler for CUDA on this machine")


@pytest.fixture(scope="module")
def target() -> str:
    direct.PLATFORM.preload()
    return direct.resolve_target("nvidia/nvidia-h100")


def workload_of(tensors: list[Any], fast: bool, target: str) -> bytes:
    import tvm
    from tvm import te

    from tunemesh.stage_workers.graph import fast_math, workloads

    module = tvm.IRModule({"main": te.create_prim_func(tensors)})
    module = fast_math.mark(module, target) if fast else module
    return workloads.pack(workloads.of_function(module["main"]))


def expected(tensors: list[Any], inputs: list[cuda_emulator.Array]) -> cuda_emulator.Array:
    """What TVM's code for a CPU computes."""
    import tvm
    from tvm import te

    out = tvm.runtime.tensor(np.zeros([int(extent) for extent in tensors[-1].shape], np.float32))
    compiled = tvm.compile(tvm.IRModule({"main": te.create_prim_func(tensors)}), target="llvm")
    compiled["main"](*map(tvm.runtime.tensor, inputs), out)
    return np.asarray(out.numpy())


@pytest.mark.skipif(shutil.which("g++") is None, reason="no compiler of C++ on this machine")
@pytest.mark.parametrize("name", EMULATED)
def test_kernels_compute_what_the_task_says(name: str, target: str, tmp_path: Path) -> None:
    from tunemesh.stage_workers.engines.template import tuning

    made, _, fast = OPERATORS[name]
    tensors = made()
    task = tuning.taken_by_gpu(workload_of(tensors, fast, target), target)
    assert task.template.name == EMULATED[name]
    genome = random.Random(name).choice(list(task.space.all()))
    program = task.template.program(task.operator, task.space.values(genome))
    chance = np.random.default_rng(0)
    shapes = [tuple(int(extent) for extent in tensor.shape) for tensor in tensors]
    inputs = [chance.normal(0, 1, shape).astype(np.float32) for shape in shapes[:-1]]
    found = cuda_emulator.run(program, inputs, shapes[-1], tmp_path)
    np.testing.assert_allclose(found, expected(tensors, inputs), rtol=1e-4, atol=1e-4)


def test_the_emulator_finds_a_thread_that_does_not_wait(target: str, tmp_path: Path) -> None:
    from dataclasses import replace

    from tunemesh.stage_workers.engines.template import tuning

    task = tuning.taken_by_gpu(workload_of(product(17, 50, 23), False, target), target)
    program = task.template.program(task.operator, task.space.values(next(task.space.all())))
    wrong = replace(program, text=program.text.replace("__syncthreads();", "if (thread) __syncthreads();"))
    inputs = [np.ones((17, 23), np.float32), np.ones((23, 50), np.float32)]
    with pytest.raises(AssertionError, match="wait where others do not"):
        cuda_emulator.run(wrong, inputs, (17, 50), tmp_path)


@pytest.mark.parametrize("name", ["product of a weight", "3x3", "depthwise", "softmax"])
def test_every_kernel_can_be_launched(name: str, target: str) -> None:
    from tunemesh.stage_workers.engines.template import tuning

    made, _, fast = OPERATORS[name]
    task = tuning.taken_by_gpu(workload_of(made(), fast, target), target)
    genomes = list(task.space.all())
    for genome in random.Random(0).sample(genomes, min(60, len(genomes))):
        program = task.template.program(task.operator, task.space.values(genome))
        assert 1 <= program.threads <= 1024
        assert program.threads % 32 == 0
        assert program.shared <= 48 * 1024
        assert f"__launch_bounds__({program.threads})" in program.text
        assert all(1 <= count <= 65535 for count in program.grid[1:])


def test_knobs_are_searched_and_can_be_read(target: str) -> None:
    workload = workload_of(product(64, 128, 96), False, target)
    assert ENGINE.objection(TaskRef(workload=workload, target=target, name="", key="")) in (
        "",
        f"no compiler for CUDA on this machine: {compiling.device_code.WITH}",
    )
    call = UpdateCall(workload=workload, target=target, want=3, seed=1)
    schedules = ENGINE.update(call).schedules
    assert all(name.startswith("cuda-product.") for name, _ in schedules)
    source = ENGINE.source(BuildCall(workload=workload, target=target, schedule=schedules[0][1]))
    assert source.language == "CUDA C++"
    assert "__global__" in source.text
    trial = Trial(candidate=Candidate(0, *schedules[0]), outcome="measured", latencies=[1e-5])
    files = ENGINE.export(
        ExportCall(target=target, tasks=[TaskTrials(workload=workload, trials=[trial])])
    ).files
    assert list(files) == ["00-cuda-product.cu"]


def test_without_a_compiler_for_cuda_it_says_so_in_one_line(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "compiler", lambda: "")
    workload = workload_of(product(64, 128, 96), False, target)
    why = ENGINE.objection(TaskRef(workload=workload, target=target, name="", key=""))
    assert why.startswith("no compiler for CUDA on this machine: install the CUDA toolkit")
    call = UpdateCall(workload=workload, target=target, want=1, seed=1)
    ((_, schedule),) = ENGINE.update(call).schedules
    built = ENGINE.build(BuildCall(workload=workload, target=target, schedule=schedule))
    assert built.outcome == "build-failed"


def test_what_no_template_knows_is_left_to_others(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from tvm import te

    monkeypatch.setattr(compiling, "compiler", lambda: "nvcc")
    a = placeholder(16, 64)
    turned = workload_of([a, te.compute((64, 16), lambda i, j: a[j, i])], False, target)
    small = [workload_of(SMALL[name](), True, target) for name in ("bf16, GELU", "int8, exact")]
    why = [
        ENGINE.objection(TaskRef(workload=each, target=target, name="", key="")) for each in (turned, *small)
    ]
    assert why == [
        "no template fits: it sums nothing up",
        *["no template fits: it is not in single precision"] * 2,
    ]


@needs_compiler
def test_a_model_for_a_gpu_is_linked_with_them(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct, "ENGINE", ENGINE)
    imported = direct.import_model(matrix_product(size=64), target)
    (task,) = imported.tasks
    call = UpdateCall(workload=task.workload, target=target, want=1, seed=3)
    ((name, schedule),) = ENGINE.update(call).schedules
    built = ENGINE.build(BuildCall(workload=task.workload, target=target, schedule=schedule))
    assert built.artifact is not None, built.error
    trial = Trial(candidate=Candidate(0, name, schedule), outcome="measured", latencies=[1e-3])
    tuned = direct.tuned_task(task, target, trial)
    model = tmp_path / "model.so"
    model.write_bytes(direct.assemble(imported.model, target, [tuned]).tuned)
    symbols = subprocess.run(["nm", "-D", str(model)], capture_output=True, text=True, check=True).stdout
    assert f"__tvm_ffi_{tuned.symbol}" in symbols


@pytest.mark.gpu
@pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="no NVIDIA GPU on this machine")
@pytest.mark.parametrize("name", EMULATED)
def test_a_gpu_computes_what_the_task_says(name: str) -> None:
    from tunemesh.stage_workers.engines.template import schedules, tuning

    target = direct.resolve_target("nvidia/nvidia-h100")
    made, weights, fast = OPERATORS[name]
    task = task_of(made(), weights, fast, target)
    taken = tuning.taken_by_gpu(task.workload, target)
    genomes = list(taken.space.all())
    for genome in random.Random(name).sample(genomes, min(3, len(genomes))):
        _, schedule = schedules.packed(taken.template.name, taken.space, genome)
        built = ENGINE.build(BuildCall(workload=task.workload, target=target, schedule=schedule))
        assert built.artifact is not None, built.error
        profiled = direct.profile(task, target, built.artifact, device="cuda:0")
        assert profiled.outcome == "measured", (schedule, profiled.error)
