"""Check what ``make demo`` made: ``python examples/check_demo.py MODELS TUNED``.

Reads ``TUNED/<job>/report.json`` of every job, prints the numbers, runs each ``model.so`` with nothing but
TVM's virtual machine, and compares with what ONNX Runtime makes of the original in ``MODELS``, in outputs and
in latency. Exits with 1 when a model is not at least five times faster than before, computes something else,
or when the mesh never built for one job while it profiled for another. A model that is slower than ONNX
Runtime is no failure, for 64 trials are few, but it is said.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np

LEAST_SPEEDUP = 5.0
TOLERANCE = 1e-4
"""Of the largest output value. Tuned kernels sum in another order than ONNX Runtime's."""
WANTED_JOBS = 2
TURNS, RUNS = 30, 20
"""Of the comparison with ONNX Runtime."""

Span = tuple[float, float]
Array = np.ndarray[Any, Any]
Run = Callable[[], list[Array]]


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


def start(model: Path, library: Path) -> tuple[Run, Run]:
    """The tuned model and ONNX Runtime on the same random inputs; each call computes the outputs once."""
    # Kernels that are tuned for one core still have parallel loops. TVM's pool spreads them over all cores of
    # the machine, which takes longer than it saves. TVM reads the variable once: set it before the import.
    os.environ["TVM_NUM_THREADS"] = "1"
    import onnxruntime
    import tvm

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    inputs = {
        each.name: random.standard_normal(each.shape).astype(np.float32) for each in session.get_inputs()
    }
    machine = tvm.relax.VirtualMachine(tvm.runtime.load_module(str(library)), tvm.cpu())
    entry = machine["main"]
    arguments = [tvm.runtime.tensor(array) for array in inputs.values()]

    def tuned() -> list[Array]:
        result = entry(*arguments)
        return [result.numpy()] if hasattr(result, "numpy") else [each.numpy() for each in result]

    return tuned, lambda: session.run(None, inputs)


def difference(got: list[Array], expected: list[Array]) -> tuple[float, float]:
    """Largest difference, absolute and relative to the largest output."""
    absolute = max(float(np.max(np.abs(g - e))) for g, e in zip(got, expected, strict=True))
    return absolute, absolute / max(float(np.max(np.abs(e))) for e in expected)


def take_turns(runs: Sequence[Run]) -> list[float]:
    """Median seconds of each. They take turns, so that whatever slows the machine down slows all of them."""
    medians: list[list[float]] = [[] for _ in runs]
    for _ in range(TURNS):
        for run, of_run in zip(runs, medians, strict=True):
            times = []
            for _ in range(RUNS):
                began = time.perf_counter()
                run()
                times.append(time.perf_counter() - began)
            of_run.append(statistics.median(times))
    return [statistics.median(of_run) for of_run in medians]


def beside_onnxruntime(ours_s: float, theirs_s: float) -> str:
    """What to print of two latencies in seconds."""
    ratio = ours_s / theirs_s
    comparison = (
        f"{theirs_s / ours_s:.2f}x faster" if ratio <= 1 else f"{ratio:.2f}x SLOWER than ONNX Runtime"
    )
    return f"{ours_s * 1e3:.3f} ms here, ONNX Runtime {theirs_s * 1e3:.3f} ms (one thread each): {comparison}"


def check(models: Path, folder: Path, report: dict[str, Any]) -> list[str]:
    """Print one job's numbers. Returns what is wrong."""
    name = report["job"]
    print(f"\n{name}: {report['trials']} trials in {report['wall_s']:.0f} s")
    before, after = report["latency_before_s"] * 1e3, report["latency_after_s"] * 1e3
    print(f"  latency     {before:.3f} ms -> {after:.3f} ms, {report['speedup']:.1f}x")
    print(f"  difference  {report['largest_difference']:.2g} to the untuned model")
    tuned, onnxruntime = start(models / report["name"], folder / "model.so")
    absolute, relative = difference(tuned(), onnxruntime())
    print(f"              {absolute:.2g} to ONNX Runtime ({relative:.1g} of the largest output)")
    print(f"  beside      {beside_onnxruntime(*take_turns((tuned, onnxruntime)))}")
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
    # The core that `tunemesh tune` measures on by default, for both.
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
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
