"""Run a finished model in the caller's own process: what a person does with the result."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunemesh.shared.errors import BadInput
from tunemesh.stage_workers.graph import models
from tunemesh.stage_workers.measuring import loading
from tunemesh.stage_workers.measuring.comparison import Array


class Program:
    """A model that is loaded, and runs as often as it is asked to.

    Args:
        artifact: the model as a shared object.
        signature: names, shapes and dtypes of its inputs.

    Raises:
        BadInput: a file cannot be read.
    """

    def __init__(self, artifact: Path, signature: Path) -> None:
        import tvm

        try:
            self._signatures = models.unpack_signatures(signature.read_bytes())
            module = loading.load(artifact.read_bytes())
        except OSError as error:
            raise BadInput(f"cannot read the tuned model: {error}") from None
        self._device = tvm.cpu()
        machine = tvm.relax.VirtualMachine(module, self._device)
        self._functions = {each.function: machine[each.function] for each in self._signatures.variants}

    def run(self, inputs: Mapping[str, Array]) -> list[Array]:
        """The outputs of the model for ``inputs`` (by name), in the order of the model: of the variant that
        was made for their shapes.

        Raises:
            BadInput: an input is missing or unknown, or has another shape or dtype than any
                variant takes.
        """
        import tvm

        variants = self._signatures.variants
        if len(variants) == 1:
            signature = variants[0]
        else:
            signature = self._signatures.fitting({name: given.shape for name, given in inputs.items()})
        if unknown := sorted(set(inputs) - {tensor.name for tensor in signature.inputs}):
            known = ", ".join(tensor.name for tensor in signature.inputs)
            raise BadInput(f"the model has no input {unknown[0]!r}; its inputs: {known}")
        arguments: list[Any] = []
        for tensor in signature.inputs:
            given = inputs.get(tensor.name)
            if given is None:
                raise BadInput(f"input {tensor.name!r} is missing")
            if tuple(given.shape) != tuple(tensor.shape) or str(given.dtype) != tensor.dtype:
                raise BadInput(
                    f"input {tensor.name!r} is {given.dtype}{list(given.shape)},"
                    f" the model takes {tensor.dtype}{list(tensor.shape)}"
                )
            arguments.append(tvm.runtime.tensor(given, device=self._device))
        return loading.flatten(self._functions[signature.function](*arguments))
