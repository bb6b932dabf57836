"""Every contestant's way to load a model and to run it, as its documentation says for the lowest latency.

Inputs are bound before, wherever a library can do that; so what is measured is the model.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from tunemesh.comparing.work import TUNED, Work

Array = npt.NDArray[Any]
Inputs = Mapping[str, Array]


class Loaded(Struct, frozen=True, kw_only=True):
    """A model that can be run.

    Attributes:
        version: of the library that runs it.
        run: once; what it returns is of no interest.
        outputs: run it and give the outputs in the order of the model.
    """

    version: str
    run: Callable[[], Any]
    outputs: Callable[[], list[Array]]


def load(work: Work, inputs: Inputs) -> Loaded:
    """The model of ``work``, ready to run on ``inputs``.

    Raises:
        Exception: whatever the library raises that cannot run it.
    """
    return _RUNNERS[work.runner](work, inputs)


def _tuned(work: Work, inputs: Inputs) -> Loaded:
    """In TVM's virtual machine, as the documentation says, without Tunemesh."""
    import tvm

    library = tvm.runtime.load_module(str(Path(work.model, "model.so")))
    main = tvm.relax.VirtualMachine(library, tvm.cpu())[work.function]
    tensors = [tvm.runtime.tensor(array) for array in inputs.values()]

    def flat(result: Any) -> list[Array]:
        if hasattr(result, "numpy"):
            return [result.numpy()]
        return [array for each in result for array in flat(each)]

    return Loaded(version=tvm.__version__, run=lambda: main(*tensors), outputs=lambda: flat(main(*tensors)))


def _onnxruntime(work: Work, inputs: Inputs) -> Loaded:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = work.threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(work.model, options, providers=["CPUExecutionProvider"])
    fed = dict(inputs)
    return Loaded(
        version=onnxruntime.__version__,
        run=lambda: session.run(None, fed),
        outputs=lambda: [np.asarray(each) for each in session.run(None, fed)],
    )


def _openvino(work: Work, inputs: Inputs, precision: str = "f32") -> Loaded:
    import openvino

    core = openvino.Core()
    model = core.read_model(work.model)
    model.reshape({name: list(array.shape) for name, array in inputs.items()})
    told = {
        "INFERENCE_NUM_THREADS": work.threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
    }
    compiled = core.compile_model(model, "CPU", told)
    request = compiled.create_infer_request()
    for name, array in inputs.items():
        request.get_tensor(name).data[...] = array

    def outputs() -> list[Array]:
        request.infer()
        return [np.array(request.get_tensor(each).data) for each in compiled.outputs]

    return Loaded(
        version=importlib.metadata.version("openvino"),
        run=lambda: request.infer(share_outputs=True),
        outputs=outputs,
    )


def _openvino_bf16(work: Work, inputs: Inputs) -> Loaded:
    return _openvino(work, inputs, "bf16")


def _inductor(work: Work, inputs: Inputs) -> Loaded:
    import torch
    import torch._inductor.config as told

    from tunemesh.comparing.torch_graph import module_of

    torch.set_num_threads(work.threads)
    told.freezing = True  # weights are constants, which it packs
    told.compile_threads = 1
    shapes = {name: array.shape for name, array in inputs.items()}
    compiled = torch.compile(module_of(Path(work.model), shapes), fullgraph=True)
    tensors = [torch.from_numpy(array.copy()) for array in inputs.values()]

    def run() -> Any:
        with torch.no_grad():
            return compiled(*tensors)

    return Loaded(
        version=str(torch.__version__),
        run=run,
        outputs=lambda: [each.numpy() for each in run()],
    )


_RUNNERS: dict[str, Callable[[Work, Inputs], Loaded]] = {
    TUNED: _tuned,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "openvino-bf16": _openvino_bf16,
    "inductor": _inductor,
}
