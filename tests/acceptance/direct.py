"""Calls of the engine MetaSchedule and of TVM's platform in this process, without a broker: real TVM, real
kernels, one core."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import onnxruntime

from tunemesh.shared.messages import Candidate, Options, Precision, Settings, Trial
from tunemesh.stage_workers.engines.metaschedule import MetaScheduleEngine
from tunemesh.stage_workers.engines.protocol import (
    BuildCall,
    BuildOutcome,
    PartCall,
    Proposal,
    UpdateCall,
)
from tunemesh.stage_workers.frontends.shapes import Variant
from tunemesh.stage_workers.platforms.protocol import (
    AssembleCall,
    Assembled,
    ConfirmCall,
    ExtractedTask,
    ImportCall,
    Imported,
    ProfileCall,
    ProfileOutcome,
    ReferenceCall,
    TargetCall,
    TunedTask,
    UntunedCall,
    ValidateCall,
    Validated,
)
from tunemesh.stage_workers.platforms.tvm_platform import TvmPlatform

ENGINE = MetaScheduleEngine()
PLATFORM = TvmPlatform()
QUICK = Settings(repeats=2, min_repeat_ms=5)
AS_GIVEN: Options = {"layout": "given", "convolutions": "direct", "fusion": "default", "products": "given"}


def resolve_target(given: str) -> str:
    return PLATFORM.resolve_target(TargetCall(target=given)).canonical


def import_model(
    model: bytes,
    target: str,
    options: Options = AS_GIVEN,
    shapes: Mapping[str, list[int]] | None = None,
    variants: list[Variant] | None = None,
    math: Literal["fast", "exact"] = "fast",
    precision: Precision = "f32",
) -> Imported:
    return PLATFORM.import_model(
        ImportCall(
            model=model,
            target=target,
            variants=variants or [Variant(shapes=dict(shapes or {}))],
            options=options,
            math=math,
            precision=precision,
        )
    )


def update(
    workload: bytes,
    target: str,
    search: bytes | None,
    trials: list[Trial],
    want: int,
    *,
    seed: int = 1,
    options: Options | None = None,
    prior: bytes | None = None,
) -> Proposal:
    return ENGINE.update(
        UpdateCall(
            workload=workload,
            target=target,
            search=search,
            trials=trials,
            want=want,
            seed=seed,
            options=options or {},
            prior=prior,
        )
    )


def build(workload: bytes, target: str, schedule: bytes) -> BuildOutcome:
    return ENGINE.build(BuildCall(workload=workload, target=target, schedule=schedule))


def profile(
    task: ExtractedTask,
    target: str,
    artifact: bytes,
    settings: Settings = QUICK,
    best: float | None = None,
    device: str = "cpu",
) -> ProfileOutcome:
    return PLATFORM.profile(profile_call(task, target, artifact, settings, best, device))


def profile_call(
    task: ExtractedTask,
    target: str,
    artifact: bytes,
    settings: Settings = QUICK,
    best: float | None = None,
    device: str = "cpu",
) -> ProfileCall:
    return ProfileCall(
        workload=task.workload,
        target=target,
        artifact=artifact,
        untuned=task.untuned,
        device=device,
        settings=settings,
        best=best,
    )


def profile_untuned(task: ExtractedTask, target: str) -> ProfileOutcome:
    return PLATFORM.profile_untuned(
        UntunedCall(workload=task.workload, target=target, untuned=task.untuned, device="cpu", settings=QUICK)
    )


def confirm(
    task: ExtractedTask, target: str, artifacts: list[bytes], device: str = "cpu"
) -> list[ProfileOutcome]:
    return PLATFORM.confirm(
        ConfirmCall(
            workload=task.workload,
            target=target,
            artifacts=artifacts,
            untuned=task.untuned,
            device=device,
            settings=QUICK,
        )
    ).outcomes


def reference(target: str, device: str) -> list[float]:
    return PLATFORM.reference(ReferenceCall(target=target, device=device)).latencies


def tuned_task(task: ExtractedTask, target: str, trial: Trial) -> TunedTask:
    """A task with the schedule of ``trial``."""
    symbol = f"tunemesh_{task.key}"
    call = PartCall(workload=task.workload, target=target, schedule=trial.candidate.schedule, symbol=symbol)
    return TunedTask(workload=task.workload, symbol=symbol, part=ENGINE.part(call), latency=trial.latency)


def assemble(
    model: bytes,
    target: str,
    tasks: list[TunedTask] | None = None,
    objects: list[bytes] | None = None,
    untuned: bytes = b"",
) -> Assembled:
    call = AssembleCall(model=model, target=target, tasks=tasks or [], objects=objects or [], untuned=untuned)
    return PLATFORM.assemble(call)


def validate(tuned: bytes, untuned: bytes, signature: bytes, target: str, sample: bytes = b"") -> Validated:
    return PLATFORM.validate(
        ValidateCall(
            tuned=tuned,
            untuned=untuned,
            signature=signature,
            target=target,
            device="cpu",
            sample=sample,
            settings=QUICK,
        )
    )


def measure(task: ExtractedTask, target: str, schedules: list[tuple[str, bytes]]) -> list[Trial]:
    """Build and profile candidates."""
    trials = []
    for index, (key, schedule) in enumerate(schedules):
        built = build(task.workload, target, schedule)
        assert built.artifact is not None, built.error
        profiled = profile(task, target, built.artifact)
        trials.append(
            Trial(
                candidate=Candidate(index, key, schedule),
                outcome=profiled.outcome,
                latencies=profiled.latencies,
                error=profiled.error,
            )
        )
    return trials


def matrix_product(scale: float = 1.0, size: int = 64) -> bytes:
    """A TIR function in TVM's JSON."""
    import tvm
    from tvm import te

    a = te.placeholder((size, size), name="a")
    b = te.placeholder((size, size), name="b")
    k = te.reduce_axis((0, size), name="k")
    c = te.compute((size, size), lambda i, j: te.sum(a[i, k] * b[k, j] * scale, axis=k), name="c")
    return str(tvm.ir.save_json(te.create_prim_func([a, b, c]))).encode()


def run(library: bytes, *inputs: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The output of a compiled model, in TVM's own virtual machine."""
    import tvm

    from tunemesh.stage_workers.measuring import loading

    machine = tvm.relax.VirtualMachine(loading.load(library), tvm.cpu())
    return np.asarray(machine["main"](*map(tvm.runtime.tensor, inputs)).numpy())


def assert_computes_the_same(model: bytes, compiled: bytes) -> None:
    """Against ONNX Runtime, the independent judge."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (value,) = session.get_inputs()
    image = np.random.default_rng(7).standard_normal(value.shape).astype(np.float32)
    expected = session.run(None, {value.name: image})[0]
    np.testing.assert_allclose(run(compiled, image), expected, rtol=1e-4, atol=1e-5)
