"""Use a tuned model in PyTorch: ``TunedModule()`` is a module like any other, for inference on the CPU.

Needs the packages torch, apache-tvm-ffi and numpy, and the files beside this one: neither TVM nor Tunemesh.
"""

from __future__ import annotations

import os
from typing import Any

import torch
import tvm_ffi
from tuned_model import ALIGNMENT, TunedModel


class TunedModule(torch.nn.Module):
    """A tuned model as a module. Inputs and outputs are tensors of the CPU, and share their memory with the
    model, without a copy; an input that is not contiguous, or does not begin at a multiple of 64 bytes, is
    copied. There are no gradients through it.

    Args:
        folder: holds the exported model; by default that of this file.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        super().__init__()
        self._model = TunedModel(folder)
        self._dtypes = [getattr(torch, each.dtype.name) for each in self._model.variants[0].inputs]

    def forward(self, *inputs: torch.Tensor, **named: torch.Tensor) -> Any:
        """The output for the inputs in the order of the model, or by name; several outputs as a tuple.

        Raises:
            ValueError: an input is missing or unknown, is not on the CPU, or has another shape or dtype.
        """
        given = self._in_order(inputs, named)
        variant = self._model.variant(tuple(tuple(tensor.shape) for tensor in given))
        for tensor, each, dtype in zip(given, variant.inputs, self._dtypes, strict=True):
            if tensor.shape != each.shape or tensor.dtype != dtype or tensor.device.type != "cpu":
                raise ValueError(
                    f"input {each.name!r} is {tensor.dtype}{list(tensor.shape)} on {tensor.device},"
                    f" the model takes {dtype}{list(each.shape)} on the cpu"
                )
        # As TVM's own: for tensors of PyTorch it would return tensors of PyTorch.
        outputs = variant.call([tvm_ffi.from_dlpack(_usable(tensor)) for tensor in given])
        tensors = tuple(torch.from_dlpack(tensor) for tensor in outputs)
        return tensors[0] if len(tensors) == 1 else tensors

    def _in_order(
        self, inputs: tuple[torch.Tensor, ...], named: dict[str, torch.Tensor]
    ) -> list[torch.Tensor]:
        names = self._model.names
        if len(inputs) + len(named) != len(names):
            raise ValueError(f"the model takes {len(names)} inputs ({', '.join(names)})")
        for name in names[len(inputs) :]:
            if name not in named:
                raise ValueError(f"input {name!r} is missing; given by name: {', '.join(named)}")
        return [*inputs, *(named[name] for name in names[len(inputs) :])]


def _usable(tensor: torch.Tensor) -> torch.Tensor:
    """``tensor``, or a copy that kernels can use in place."""
    tensor = tensor.detach().contiguous()
    return tensor.clone() if tensor.data_ptr() % ALIGNMENT else tensor
