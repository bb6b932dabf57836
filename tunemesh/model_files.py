"""Models as a person has them: a file of some kind, or a module of PyTorch.

What a mesh can read is sent as it is; what only the framework itself can read is converted here, in the
person's own process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from tunemesh import formats
from tunemesh.shared import files
from tunemesh.shared.errors import BadInput, BadModel
from tunemesh.shared.text import one_line
from tunemesh.stage_workers.frontends import external_data
from tunemesh.stage_workers.frontends.limits import MODEL_BYTES
from tunemesh.stage_workers.frontends.shapes import Variant

if TYPE_CHECKING:
    import onnx
    import torch


class ModelFile(Struct, frozen=True, kw_only=True):
    """A model to send.

    Attributes:
        name: of its file, for people.
        data: what is sent.
        settings: those of the job that are for this model alone, by name.
        origin: the list of models that it is from, if any: what is measured for one serves the next.
        files: what it keeps in other files, by the name that it has for each.
        samples: inputs and what its framework makes of them, where that could be found out here: see
            :func:`~stage_workers.frontends.pytorch.samples`.
        samples_for: makes the same for other sets of shapes, where they can be made.
    """

    name: str
    data: bytes
    settings: dict[str, Any] = {}
    origin: str = ""
    files: dict[str, Path] = {}
    samples: bytes | None = None
    samples_for: Callable[[Sequence[Variant]], bytes | None] | None = None


Given = Path | ModelFile
"""A model that somebody wants tuned."""


def read(given: Given, note: Callable[[str], None]) -> ModelFile:
    """What to send of a model. ``note`` is told of what a person should know.

    Raises:
        BadInput: it cannot be read, or is a folder of a framework.
    """
    if isinstance(given, ModelFile):
        return given
    if why := formats.folder_problem(given):
        raise BadModel(f"the model {given} is {why}")
    return from_bytes(given, files.read(given, "model", MODEL_BYTES), note)


def from_bytes(path: Path, data: bytes, note: Callable[[str], None]) -> ModelFile:
    """What to send of the content of a file."""
    name = one_line(path.name)  # the file system knows names that are no text
    if not formats.is_exported_program(data):
        return ModelFile(name=name, data=data, files=external_data.find(path, data))
    note(
        f"{name} is loaded by torch.export.load in this process, where code in the file may run: load"
        " only what you trust; the mesh gets TVM's JSON"
    )
    from tunemesh.stage_workers.frontends import pytorch

    return from_program(name, pytorch.load(data))


def from_onnx(model: onnx.ModelProto) -> ModelFile:
    """What to send of a model of the package ``onnx``.

    Raises:
        BadModel: it is too large for one file, or keeps data in other files.
    """
    try:
        data = model.SerializeToString()
    except ValueError as error:
        raise BadModel(f"the model cannot be written as bytes: {error}; save it and give the path") from None
    if any(each.external_data for each in model.graph.initializer):
        raise BadModel("the model keeps data in other files: save it and give the path")
    return ModelFile(name=f"{model.graph.name or 'model'}.onnx", data=data)


def from_program(name: str, program: Any) -> ModelFile:
    """What to send of a program that PyTorch has exported.

    Raises:
        BadModel: it cannot be converted.
    """
    from tunemesh.stage_workers import frontends
    from tunemesh.stage_workers.frontends import pytorch

    data = pytorch.convert(program)

    def samples_for(variants: Sequence[Variant]) -> bytes | None:
        signatures = [frontends.read(frontends.Source(data), each)[1] for each in variants]
        return pytorch.samples(program, [{i.name: i.shape for i in each.inputs} for each in signatures])

    return ModelFile(name=name, data=data, samples=pytorch.samples(program), samples_for=samples_for)


def from_module(module: torch.nn.Module, example_inputs: Any, dynamic_shapes: Any = None) -> ModelFile:
    """What to send of a PyTorch module, or of a program that was exported from one.

    Raises:
        BadInput: it lacks example inputs, or cannot be converted.
    """
    from tunemesh.stage_workers.frontends import pytorch

    torch = pytorch.require()
    if isinstance(module, torch.export.ExportedProgram):
        return from_program("program", module)
    if example_inputs is None:
        raise BadInput("a module of PyTorch needs example inputs: tunemesh.model(module, (tensor, ...))")
    inputs = tuple(example_inputs) if isinstance(example_inputs, tuple | list) else (example_inputs,)
    program = pytorch.export(module, inputs, dynamic_shapes)
    return from_program(type(module).__name__, program)
