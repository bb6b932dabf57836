"""Check what ``make demo`` made: ``python examples/check_demo.py MODELS TUNED``.

Reads ``TUNED/<job>/report.json`` of every job, prints the numbers, runs each ``model.so`` with nothing but
TVM's virtual machine, and compares with what ONNX Runtime makes of the original in ``MODELS``. Exits with 1
when a model is not at least five times faster than before, computes something else, or when the mesh never
built for one job while it profiled for another.
"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import tvm

LEAST_SPEEDUP = 5.0
TOLERANCE = 1e-4
"""Of the largest output value. Tuned kernels sum in another order than ONNX Runtime's."""
WANTED_JOBS = 2

Span = tuple[float, float]


def spans(report: dict[str, Any], stage: str) -> list[Span]:
    """When steps of ``stage`` ran, merged where they overlap, in order."""
    merged: list[Span] = []
    for start, end in sorted(
        (s["started"], s["finished"]) for s in report["timeline"] if s["stage"] == stage
    ):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def overlap(left: list[Span], right: list[Span]) -> float:
    """Seconds in which something of both goes on."""
    return sum(max(0.0, min(a[1], b[1]) - max(a[0], b[0])) for a in left for b in right)


def run_tuned(library: Path, inputs: list[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
    """What a tuned model computes, by TVM alone."""
    machine = tvm.relax.VirtualMachine(tvm.runtime.load_module(str(library)), tvm.cpu())
    result = machine["main"](*(tvm.runtime.tensor(array) for array in inputs))
    return [result.numpy()] if hasattr(result, "numpy") else [each.numpy() for each in result]


def difference(model: Path, library: Path) -> tuple[float, float]:
    """Largest difference to ONNX Runtime on random inputs, absolute and relative to the largest output."""
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    inputs = [random.standard_normal(each.shape).astype(np.float32) for each in session.get_inputs()]
    expected = session.run(None, {e.name: a for e, a in zip(session.get_inputs(), inputs, strict=True)})
    got = run_tuned(library, inputs)
    absolute = max(float(np.max(np.abs(g - e))) for g, e in zip(got, expected, strict=True))
    return absolute, absolute / max(float(np.max(np.abs(e))) for e in expected)


def check(models: Path, folder: Path, report: dict[str, Any]) -> list[str]:
    """Print one job's numbers. Returns what is wrong."""
    name = report["job"]
    print(f"\n{name}: {report['trials']} trials in {report['wall_s']:.0f} s")
    before, after = report["latency_before_s"] * 1e3, report["latency_after_s"] * 1e3
    print(f"  latency     {before:.3f} ms -> {after:.3f} ms, {report['speedup']:.1f}x")
    print(f"  difference  {report['largest_difference']:.2g} to the untuned model")
    absolute, relative = difference(models / report["name"], folder / "model.so")
    print(f"              {absolute:.2g} to ONNX Runtime ({relative:.1g} of the largest output)")
    for queue, use in sorted(report["resources"].items()):
        print(
            f"  {queue:<20} {use['steps']:>3} steps, busy {use['busy_s']:6.1f} s, {use['utilisation']:4.0%}"
        )
    wrong = []
    if report["speedup"] < LEAST_SPEEDUP:
        wrong.append(f"{name}: {report['speedup']:.1f}x faster, expected {LEAST_SPEEDUP:g}x")
    # Not "greater than": NaN must not pass.
    if not relative <= TOLERANCE:
        wrong.append(f"{name}: differs from ONNX Runtime by {relative:.2g}, allowed {TOLERANCE:g}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description="Check what the demo made.")
    parser.add_argument("models", type=Path, help="folder of the original models")
    parser.add_argument("tuned", type=Path, help="folder with one folder per job")
    chosen = parser.parse_args()
    reports = {
        path.parent: json.loads(path.read_text()) for path in sorted(chosen.tuned.glob("*/report.json"))
    }
    wrong = [
        problem for folder, report in reports.items() for problem in check(chosen.models, folder, report)
    ]
    if len(reports) < WANTED_JOBS:
        wrong.append(f"{len(reports)} reports in {chosen.tuned}, expected {WANTED_JOBS}")
    shared = sum(
        overlap(spans(one, "build"), spans(other, "profile"))
        for one, other in permutations(reports.values(), 2)
    )
    print(f"\nbuilding for one job while profiling for another: {shared:.1f} s")
    if shared <= 0:
        wrong.append("builds and profiles of different jobs never overlapped")
    for problem in wrong:
        print(f"error: {problem}", file=sys.stderr)
    print("the demo FAILED" if wrong else "the demo passed")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
