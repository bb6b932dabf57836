"""The report of a job, for tests that only need one."""

from __future__ import annotations

from tunemesh.report import Report


def report(target: str) -> Report:
    """Of a job that has tuned nothing for ``target``."""
    return Report(
        job="odd", name="odd.onnx", target=target, trials=0, budget=1, stopped=False, latency_before_s=2e-6,
        latency_after_s=1e-6, rejected_s=None, speedup=2.0, largest_difference=0.0, drift=0.0, wall_s=1.0,
        outputs=[], judged=[], notes=[], variants=[], tasks=[], resources={}, timeline=[],
    )  # fmt: skip
