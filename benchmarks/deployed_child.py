"""``python -m benchmarks.deployed_child WAY FOLDER``: run a model as a person would, and print the median of
its latency in seconds.

``plain`` needs TVM only; the others are kinds of export. Nothing of Tunemesh is imported.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SECONDS = 1.0
LEAST_RUNS = 11

Call = Callable[[], Any]


def inputs(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Random floats; zeros of all other types, which are valid as indices."""
    random = np.random.default_rng(0)
    made = {}
    for each in json.loads((folder / "signature.json").read_text())["variants"][0]["inputs"]:
        draw = random.standard_normal if "float" in each["dtype"] else np.zeros
        made[each["name"]] = draw(each["shape"]).astype(each["dtype"])
    return made


def plain(folder: Path) -> Call:
    """In TVM's virtual machine, without a variable in the environment."""
    import tvm

    function = json.loads((folder / "signature.json").read_text())["variants"][0]["function"]
    module = tvm.runtime.load_module(str(folder / "model.so"))
    main = tvm.relax.VirtualMachine(module, tvm.cpu())[function]
    tensors = [tvm.runtime.tensor(array) for array in inputs(folder).values()]
    return lambda: main(*tensors)


def python(folder: Path) -> Call:
    """By its own loader, with bound inputs."""
    sys.path.insert(0, str(folder))
    from tuned_model import TunedModel

    model = TunedModel()
    bound = model.bind(model.buffers())
    for name, array in inputs(folder).items():
        bound.inputs[name][...] = array
    return lambda: bound.run()


def torch(folder: Path) -> Call:
    """As a module."""
    sys.path.insert(0, str(folder))
    import torch
    from tuned_torch import TunedModule

    module = TunedModule()
    tensors = [torch.from_numpy(array).clone() for array in inputs(folder).values()]
    return lambda: module(*tensors)


def onnx(folder: Path) -> Call:
    """In ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(folder / "libtuned_model.so"))
    session = onnxruntime.InferenceSession(
        str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )
    given = inputs(folder)
    return lambda: session.run(None, given)


WAYS: dict[str, Callable[[Path], Call]] = {"plain": plain, "python": python, "torch": torch, "onnx": onnx}


def median(run: Call) -> float:
    """Of about a second of runs, after those that warm up."""
    for _ in range(3):
        run()
    times: list[float] = []
    while len(times) < LEAST_RUNS or sum(times) < SECONDS:
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


if __name__ == "__main__":
    print(median(WAYS[sys.argv[1]](Path(sys.argv[2]))))
