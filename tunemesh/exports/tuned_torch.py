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
        self._inputs = [
            (each.name, torch.Size(each.shape), getattr(torch, each.dtype.name))
            for each in self._model.inputs
        ]

    def forward(self, *inputs: torch.Tensor, **named: torch.Tensor) -> Any:
        """The output for the inputs in the order of the model, or by name; several outputs as a tuple.

        Raises:
            ValueError: an input is missing or unknown, is not on the CPU, or has another shape or dtype.
        """
        # As TVM's own: for tensors of PyTorch it would return tensors of PyTorch.
        given = [tvm_ffi.from_dlpack(tensor) for tensor in self._in_order(inputs, named)]
        outputs = tuple(torch.from_dlpack(tensor) for tensor in self._model.fresh(given))
        return outputs[0] if len(outputs) == 1 else outputs

    def _in_order(
        self, inputs: tuple[torch.Tensor, ...], named: dict[str, torch.Tensor]
    ) -> list[torch.Tensor]:
        if len(inputs) + len(named) != len(self._inputs):
            names = ", ".join(name for name, _, _ in self._inputs)
            raise ValueError(f"the model takes {len(self._inputs)} inputs ({names})")
        given = list(inputs)
        for name, _, _ in self._inputs[len(inputs) :]:
            if name not in named:
                raise ValueError(f"input {name!r} is missing; given by name: {', '.join(named)}")
            given.append(named[name])
        return [self._usable(tensor, *each) for tensor, each in zip(given, self._inputs, strict=True)]

    @staticmethod
    def _usable(tensor: torch.Tensor, name: str, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
        if tensor.shape != shape or tensor.dtype != dtype or tensor.device.type != "cpu":
            raise ValueError(
                f"input {name!r} is {tensor.dtype}{list(tensor.shape)} on {tensor.device},"
                f" the model takes {dtype}{list(shape)} on the cpu"
            )
        tensor = tensor.detach().contiguous()
        return tensor.clone() if tensor.data_ptr() % ALIGNMENT else tensor
