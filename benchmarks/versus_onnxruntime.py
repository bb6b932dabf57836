"""A tuned model beside ONNX Runtime and beside TVM without tuning, on one core, taking turns.

    tunemesh tune resnet18.onnx --trials 1500 --out tuned
    python -m benchmarks.versus_onnxruntime resnet18.onnx tuned/resnet18

Prints medians, and the median of the ratios within a turn, so that whatever slows the machine down hits all.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from benchmarks import markdown
from tunemesh.shared.messages import Options
from tunemesh.stage_workers.measuring.loading import load, threads
from tunemesh.stage_workers.platforms.protocol import AssembleCall, ImportCall, TargetCall
from tunemesh.stage_workers.platforms.tvm_platform import TvmPlatform

TURNS = 20
RUNS = 3
"""Of the fast ones in each turn; the least counts. TVM without tuning runs once."""
AS_GIVEN: Options = {"layout": "given", "convolutions": "direct", "fusion": "default"}

Inputs = dict[str, np.ndarray[Any, Any]]


def session(model: Path) -> onnxruntime.InferenceSession:
    """ONNX Runtime with all its graph optimisations and one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def compiled(library: bytes, inputs: Inputs, function: str = "main") -> Callable[[], Any]:
    """A model of TVM's, to be run on ``inputs``."""
    import tvm

    machine = tvm.relax.VirtualMachine(load(library), tvm.cpu())
    arguments = [tvm.runtime.tensor(array) for array in inputs.values()]
    main = machine[function]
    return lambda: main(*arguments)


def seconds(run: Callable[[], Any], runs: int) -> float:
    """The least of a few runs."""
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return min(times)


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path, help="the ONNX file")
    parser.add_argument("tuned", type=Path, help="folder of its results, with model.so")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)), help="by default the last")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {arguments.core})

    ort = session(arguments.model)
    random = np.random.default_rng(0)
    inputs = {each.name: random.standard_normal(each.shape).astype(np.float32) for each in ort.get_inputs()}
    platform = TvmPlatform()
    target = platform.resolve_target(TargetCall(target="native")).canonical
    imported = platform.import_model(
        ImportCall(model=arguments.model.read_bytes(), target=target, options=AS_GIVEN)
    )
    untuned = platform.assemble(AssembleCall(model=imported.model, target=target, tasks=[])).untuned
    with threads(target):
        contestants: dict[str, tuple[Callable[[], Any], int]] = {
            "ONNX Runtime": (lambda: ort.run(None, inputs), RUNS),
            "TVM, untuned": (compiled(untuned, inputs), 1),
            "Tunemesh": (compiled((arguments.tuned / "model.so").read_bytes(), inputs), RUNS),
        }
        for run, _ in contestants.values():
            run()
        turns = [{name: seconds(*each) for name, each in contestants.items()} for _ in range(TURNS)]
    body = [
        [
            name,
            f"{1e3 * statistics.median(turn[name] for turn in turns):.3g}",
            f"{statistics.median(turn[name] / turn['ONNX Runtime'] for turn in turns):.3f}",
        ]
        for name in contestants
    ]
    print("\n".join(markdown.table([arguments.model.stem, "ms", "/ ONNX Runtime"], body)))


if __name__ == "__main__":
    main()
