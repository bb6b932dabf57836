"""Run a finished model in the caller's own process: what a person does with the result."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunemesh.shared.errors import BadInput
from tunemesh.stage_workers.graph import models
from tunemesh.stage_workers.graph.validation import flatten
from tunemesh.stage_workers.measuring import loading
from tunemesh.stage_workers.measuring.comparison import Array


def run_model(artifact: Path, signature: Path, inputs: Mapping[str, Array]) -> list[Array]:
    """The outputs of the model for ``inputs`` (by name), in the order of the model.

    Raises:
        BadInput: a file cannot be read; an input is missing or unknown, or has another shape or dtype.
    """
    import tvm

    try:
        wanted = models.unpack_signature(signature.read_bytes()).inputs
        module = loading.load(artifact.read_bytes())
    except OSError as error:
        raise BadInput(f"cannot read the tuned model: {error}") from None
    if unknown := sorted(set(inputs) - {tensor.name for tensor in wanted}):
        raise BadInput(
            f"the model has no input {unknown[0]!r}; its inputs: {', '.join(t.name for t in wanted)}"
        )
    device = tvm.cpu()
    arguments: list[Any] = []
    for tensor in wanted:
        given = inputs.get(tensor.name)
        if given is None:
            raise BadInput(f"input {tensor.name!r} is missing")
        if tuple(given.shape) != tuple(tensor.shape) or str(given.dtype) != tensor.dtype:
            raise BadInput(
                f"input {tensor.name!r} is {given.dtype}{list(given.shape)},"
                f" the model takes {tensor.dtype}{list(tensor.shape)}"
            )
        arguments.append(tvm.runtime.tensor(given, device=device))
    machine = tvm.relax.VirtualMachine(module, device)
    return flatten(machine["main"](*arguments))
