"""Who says what a model should compute: the framework that it comes from, not TVM.

A judge runs the model as it was handed in. It is called where the model is imported, in the sandbox, since
neither the model nor what reads it is trusted.
"""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tunemesh.stage_workers import frontends
from tunemesh.stage_workers.frontends import Source
from tunemesh.stage_workers.graph.errors import first_line, reraise_memory_error
from tunemesh.stage_workers.measuring import comparison, noise
from tunemesh.stage_workers.measuring.comparison import Array

KEPT_INSIDE = 1 << 20
"""Bytes up to which a weight stays in the model that ONNX Runtime is given. Larger ones are inputs of it: it
would make two copies of every weight that it knows, for each session."""
ROUNDING = frozenset({"Ceil", "Floor", "Round"})
"""Operators that round to whole numbers, beside those whose names say that they quantise."""
REFERENCE_AT_MOST = 64 * 2**20
"""Bytes of weights up to which a model is left to ``onnx.reference``, which is slow."""


class NoJudge(Exception):
    """Nobody can say what the model should compute; the text says why."""


class Judge(Protocol):
    """Runs a model as its own framework does.

    Attributes:
        name: and version, for people.
        steps: that quantised values may be off, since operators round inside.
        rounds: whether the model rounds to whole numbers on its way. A few changes then say little of a
            single element: whether a step flips in front of it is chance.
    """

    name: str
    steps: int
    rounds: bool

    def run(self, inputs: Mapping[str, Array]) -> list[Array]:
        """The outputs in the order of the model."""

    def moved(self, inputs: Mapping[str, Array], pairs: int) -> list[list[Array]]:
        """The outputs after each of ``pairs`` random changes of what is read, and after its opposite; see
        :mod:`.comparison`."""


def judge(source: Source) -> Judge:
    """The judge of a model.

    Raises:
        NoJudge: its format has none, or it cannot run the model.
    """
    frontend = frontends.frontend_of(source)
    if frontend == "relax_json":
        raise NoJudge("a model in TVM's JSON has no framework to compare with")
    try:
        if frontend == "tflite":
            return LiteRT(source.model)
        return _of_onnx(source.model, source.files)
    except NoJudge:
        raise
    except Exception as error:  # frameworks raise what they like
        reraise_memory_error(error)
        raise NoJudge(first_line(error)) from None


def _of_onnx(model: bytes, files: Mapping[str, Path]) -> Judge:
    import onnx

    parsed = onnx.load_model_from_string(model)
    try:
        return OnnxRuntime(parsed, files)
    except ImportError:
        refused = "onnxruntime is not installed (pip install onnxruntime)"
    except Exception as error:  # what it does not implement, it says in exceptions of its own
        reraise_memory_error(error)
        refused = f"ONNX Runtime cannot run it: {first_line(error)}"
    if len(model) + sum(path.stat().st_size for path in files.values()) > REFERENCE_AT_MOST:
        raise NoJudge(refused)
    try:
        _take_in(parsed, files)
        return OnnxReference(parsed)
    except Exception as error:  # as above
        reraise_memory_error(error)
        raise NoJudge(f"{refused}; onnx.reference neither: {first_line(error)}") from None


class OnnxRuntime:
    """ONNX Runtime on one core, without its optimisations: what the operators mean, literally."""

    def __init__(self, model: Any, files: Mapping[str, Path]) -> None:
        import onnxruntime

        self.name = f"ONNX Runtime {onnxruntime.__version__}"
        self.steps = _steps(model)
        self.rounds = _rounds(model.graph)
        skeleton, self._weights = _without_weights(model, files)
        self._changes = noise.fits(model)
        self._noisy = noise.noisy(skeleton, 0) if self._changes else skeleton
        _weights_to_inputs(self._noisy.graph, self._weights)
        self._first = self._session()

    def run(self, inputs: Mapping[str, Array]) -> list[Array]:
        return self._run(self._first, inputs, 0.0)

    def moved(self, inputs: Mapping[str, Array], pairs: int) -> list[list[Array]]:
        if not self._changes:
            return _moved_by_inputs(self, inputs, pairs)
        # The random numbers of both begin alike, and go on alike.
        pair = self._session(), self._session()
        return [
            self._run(session, inputs, scale)
            for _ in range(pairs)
            for session, scale in zip(pair, (1.0, -1.0), strict=True)
        ]

    def _session(self) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.enable_cpu_mem_arena = False
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return onnxruntime.InferenceSession(
            self._noisy.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def _run(self, session: Any, inputs: Mapping[str, Array], scale: float) -> list[Array]:
        fed = {noise.fed(self._noisy, name): array for name, array in inputs.items()}
        if self._changes:
            fed[noise.SCALE] = np.asarray(scale, np.float32)
        return list(session.run(None, {**fed, **self._weights}))


def _steps(model: Any) -> int:
    return int(any(node.op_type.startswith("QLinear") for node in model.graph.node))


def _rounds(graph: Any) -> bool:
    """Whether a graph, or one inside it, has an operator that rounds to whole numbers."""
    return any(
        node.op_type in ROUNDING
        or "Quantize" in node.op_type
        or node.op_type.startswith("QLinear")
        or any(map(_rounds, noise.inside(node)))
        for node in graph.node
    )


def _without_weights(model: Any, files: Mapping[str, Path]) -> tuple[Any, dict[str, Array]]:
    """A model whose large weights are named only, and these."""
    import onnx

    from tunemesh.stage_workers.frontends.onnx import tensors

    opened = tensors.Files(files)
    skeleton = onnx.ModelProto()
    for field, value in model.ListFields():
        if field.name != "graph":
            _copy(skeleton, field, value)
    weights = {}
    for field, value in model.graph.ListFields():
        if field.name != "initializer":
            _copy(skeleton.graph, field, value)
    used = _used(model.graph)
    for tensor in model.graph.initializer:
        if tensor.name not in used:
            continue  # ONNX Runtime has left it out when it looks for it
        external = tensors.is_external(tensor)
        if (tensors.size(tensor) if external else tensors.stored(tensor)) <= KEPT_INSIDE:
            skeleton.graph.initializer.append(tensors.inside(tensor, opened))
            continue
        array = tensors.load(tensor, opened)
        if array.dtype.type.__module__ != "numpy":  # small floats, of which ONNX Runtime takes no arrays
            skeleton.graph.initializer.append(onnx.numpy_helper.from_array(array, tensor.name))
            continue
        weights[tensor.name] = array
        named = skeleton.graph.initializer.add(
            name=tensor.name,
            data_type=tensor.data_type,
            dims=tensor.dims,
            data_location=onnx.TensorProto.EXTERNAL,
        )
        named.external_data.add(key="location", value="given")
    return skeleton, weights


def _weights_to_inputs(graph: Any, weights: Mapping[str, Array]) -> None:
    """Make the weights that are named only inputs of a graph."""
    import onnx

    kept = [each for each in graph.initializer if each.name not in weights]
    listed = {each.name for each in graph.input}  # where each weight is one, as in the oldest models
    for each in graph.initializer:
        if each.name in weights and each.name not in listed:
            graph.input.append(onnx.helper.make_tensor_value_info(each.name, each.data_type, each.dims))
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _used(graph: Any) -> set[str]:
    """Names that something in a graph, or in one inside it, reads or gives."""
    found = {value.name for value in graph.output}
    for node in graph.node:
        found.update(node.input)
        for inner in noise.inside(node):
            found |= _used(inner)
    return found


def _copy(message: Any, field: Any, value: Any) -> None:
    if hasattr(value, "add") or hasattr(value, "extend"):
        getattr(message, field.name).extend(value)
    elif field.message_type is not None:
        getattr(message, field.name).CopyFrom(value)
    else:
        setattr(message, field.name, value)


def _take_in(model: Any, files: Mapping[str, Path]) -> None:
    """Put what lies in files into the model."""
    from tunemesh.stage_workers.frontends.onnx import tensors

    opened = tensors.Files(files)
    for tensor in model.graph.initializer:
        if tensors.is_external(tensor):
            tensor.CopyFrom(tensors.inside(tensor, opened))


class OnnxReference:
    """The ``onnx`` package's own evaluator."""

    def __init__(self, model: Any) -> None:
        import onnx

        self.name = f"onnx.reference {onnx.__version__}"
        self.steps = _steps(model)
        self.rounds = _rounds(model.graph)
        self._model = model
        self._evaluator = _evaluator(model)

    def run(self, inputs: Mapping[str, Array]) -> list[Array]:
        return [np.asarray(each) for each in self._evaluator.run(None, dict(inputs))]

    def moved(self, inputs: Mapping[str, Array], pairs: int) -> list[list[Array]]:
        if not noise.fits(self._model):
            return _moved_by_inputs(self, inputs, pairs)
        found = []
        for number in range(pairs):
            changed = noise.noisy(self._model, number)
            evaluator = _evaluator(changed)
            fed = {noise.fed(changed, name): array for name, array in inputs.items()}
            for scale in (1.0, -1.0):
                outputs = evaluator.run(None, {**fed, noise.SCALE: np.asarray(scale, np.float32)})
                found.append([np.asarray(each) for each in outputs])
        return found


def _evaluator(model: Any) -> Any:
    """ONNX's evaluator, with an ``Erf`` that keeps the digits of double precision: its own gives single."""
    from onnx.reference import ReferenceEvaluator
    from onnx.reference.op_run import OpRun

    class Erf(OpRun):  # type: ignore[misc]
        op_domain = ""

        def _run(self, x: Array) -> tuple[Array]:
            return (np.vectorize(math.erf, otypes=[np.float64])(x).astype(x.dtype),)

    return ReferenceEvaluator(model, new_ops=[Erf])


class LiteRT:
    """What TensorFlow Lite is called now."""

    def __init__(self, model: bytes) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError:
            raise NoJudge(
                "a TFLite model is compared with LiteRT, which is not installed (pip install ai-edge-litert)"
            ) from None
        self.name = f"LiteRT {importlib.metadata.version('ai-edge-litert')}"
        self.steps = 1
        self._interpreter = Interpreter(model_content=model, num_threads=1)
        self._interpreter.allocate_tensors()
        tensors = self._interpreter.get_tensor_details()
        self.rounds = any(detail["dtype"] in (np.int8, np.uint8) for detail in tensors)

    def run(self, inputs: Mapping[str, Array]) -> list[Array]:
        wanted = self._interpreter.get_input_details()
        resized = False
        for detail, array in zip(wanted, inputs.values(), strict=True):
            if tuple(detail["shape"]) != array.shape:
                self._interpreter.resize_tensor_input(detail["index"], array.shape)
                resized = True
        if resized:
            self._interpreter.allocate_tensors()
        for detail, array in zip(wanted, inputs.values(), strict=True):
            self._interpreter.set_tensor(detail["index"], array)
        self._interpreter.invoke()
        return [
            np.array(self._interpreter.get_tensor(detail["index"]))
            for detail in self._interpreter.get_output_details()
        ]

    def moved(self, inputs: Mapping[str, Array], pairs: int) -> list[list[Array]]:
        return _moved_by_inputs(self, inputs, pairs)


def _moved_by_inputs(judge: Judge, inputs: Mapping[str, Array], pairs: int) -> list[list[Array]]:
    """What :meth:`Judge.moved` gives where only the inputs can be changed."""
    names = list(inputs)

    def run(arrays: Sequence[Array]) -> list[Array]:
        return judge.run(dict(zip(names, arrays, strict=True)))

    return comparison.tried(run, list(inputs.values()), pairs)
