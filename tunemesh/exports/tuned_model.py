"""Run a tuned model: ``TunedModel().run({"x": array})``.

Needs the packages apache-tvm-ffi and numpy, and the files beside this one: neither TVM nor Tunemesh.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tvm_ffi

ALIGNMENT = 64
"""Bytes. Kernels load whole vectors: from memory that begins anywhere else they crash."""
_LOADER = "ffi.Module.load_from_bytes.relax.VMExecutable"
_CPU, _POOLED_ALLOCATOR = 1, 2


_BITS = {"bfloat16": "uint16", "float8_e4m3fn": "uint8", "float8_e5m2": "uint8"}
"""Types that numpy knows by the package ml_dtypes only, and what passes their bits on."""


class Input:
    """One input of a model: what it takes, and how an array becomes a tensor of TVM."""

    def __init__(self, name: str, shape: list[int], dtype: str) -> None:
        self.name, self.shape = name, tuple(shape)
        self.dtype = _numpy_dtype(dtype)
        self._of_bits = (dtype, np.dtype(_BITS[dtype])) if dtype in _BITS else None
        self._copy: tuple[np.ndarray[Any, Any], Any] | None = None

    def in_place(self, array: np.ndarray[Any, Any]) -> Any:
        """The tensor with the memory of ``array``, or ``None`` where kernels cannot use it."""
        if not (array.flags.c_contiguous and array.flags.writeable):
            return None
        if self._of_bits is None:
            tensor = tvm_ffi.from_dlpack(array)
        else:
            dtype, bits = self._of_bits
            view = tvm_ffi.get_global_func("runtime.TVMTensorCreateView")
            tensor = view(tvm_ffi.from_dlpack(array.view(bits)), tvm_ffi.Shape(self.shape), dtype, 0)
        return None if tensor.data_ptr() % ALIGNMENT else tensor

    def copied(self, array: np.ndarray[Any, Any]) -> Any:
        """The tensor with a copy of ``array``, in the same memory each time."""
        if self._copy is None:
            buffer = self.buffer()
            self._copy = buffer, self.in_place(buffer)
        np.copyto(self._copy[0], array)
        return self._copy[1]

    def buffer(self) -> np.ndarray[Any, Any]:
        """Zeros that can be used in place."""
        size = math.prod(self.shape) * self.dtype.itemsize
        memory = np.zeros(size + ALIGNMENT, np.uint8)
        begin = -memory.ctypes.data % ALIGNMENT
        return memory[begin : begin + size].view(self.dtype).reshape(self.shape)


class Variant:
    """The model for one set of shapes."""

    def __init__(
        self, main: Any, lock: threading.Lock, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]
    ) -> None:
        self.inputs = [Input(**described) for described in inputs]
        self.outputs = [str(described["name"]) for described in outputs]
        self._main, self._lock = main, lock
        self._not_fresh: list[bool] | None = None

    def call(self, tensors: Sequence[Any]) -> list[Any]:
        """The outputs as TVM's tensors, for inputs that can be used in place. They are the caller's own: a
        model may return a constant, or an input in another shape, and these are copied."""
        with self._lock:
            outputs = _flat(self._main(*tensors))
            if self._not_fresh is None:
                again = _flat(self._main(*tensors))  # while the outputs are held: new ones lie elsewhere
                pairs = zip(outputs, again, strict=True)
                self._not_fresh = [first.data_ptr() == second.data_ptr() for first, second in pairs]
            if not any(self._not_fresh):
                return outputs
            pairs = zip(outputs, self._not_fresh, strict=True)
            return [_copy(tensor) if not_fresh else tensor for tensor, not_fresh in pairs]

    def accept(self, arrays: Sequence[np.ndarray[Any, Any]]) -> None:
        """Refuse what does not fit.

        Raises:
            ValueError: an array has another shape or dtype than its input.
        """
        for each, array in zip(self.inputs, arrays, strict=True):
            if array.dtype != each.dtype or array.shape != each.shape:
                raise ValueError(
                    f"input {each.name!r} is {array.dtype}{list(array.shape)},"
                    f" the model takes {each.dtype}{list(each.shape)}"
                )


class TunedModel:
    """A model that is loaded, and runs as often as it is asked to. Calls from several threads take turns.

    Args:
        folder: holds ``model.so`` and ``signature.json``; by default that of this file.
        runtime: holds TVM's runtime library; by default the same folder.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        runtime: str | os.PathLike[str] | None = None,
    ) -> None:
        home = Path(folder) if folder is not None else Path(__file__).resolve().parent
        # Where the model has threads, they run on the cores that the process has, not on the first ones.
        os.environ.setdefault("TVM_BIND_THREADS", "0")
        (home / "model.so").open("rb").close()  # or OSError, which says what is wrong
        if tvm_ffi.get_global_func(_LOADER, allow_missing=True) is None:
            for name in ("libtvm_runtime.so", "libtvm_runtime_extra.so"):
                ctypes.CDLL(str(Path(runtime or home) / name), ctypes.RTLD_GLOBAL)
        library = tvm_ffi.load_module(home / "model.so", keep_module_alive=False)
        machine = library["vm_load_executable"]()
        machine["vm_initialization"](_CPU, 0, _POOLED_ALLOCATOR)
        lock, self._copies = threading.Lock(), threading.Lock()
        self.variants = [
            Variant(machine[each["function"]], lock, each["inputs"], each["outputs"])
            for each in json.loads((home / "signature.json").read_text())["variants"]
        ]
        self.names = [each.name for each in self.variants[0].inputs]
        self._by_shapes = {tuple(each.shape for each in found.inputs): found for found in self.variants}

    def run(self, inputs: Mapping[str, Any]) -> list[np.ndarray[Any, Any]]:
        """The outputs for ``inputs``, by name, in the order of the model. They are the caller's own.

        Arrays that begin at a multiple of 64 bytes are used in place, others are copied.

        Raises:
            ValueError: an input is missing or unknown, or has another dtype, or a shape that there is not.
        """
        variant, arrays = self._checked(inputs)
        with self._copies:
            pairs = zip(variant.inputs, arrays, strict=True)
            tensors = [each.in_place(array) or each.copied(array) for each, array in pairs]
            return [_array(tensor) for tensor in variant.call(tensors)]

    def bind(self, inputs: Mapping[str, Any]) -> Bound:
        """The model with ``inputs``, which it reads in place each time it runs: change their content, not
        them. :meth:`buffers` makes suitable ones.

        Raises:
            ValueError: as for :meth:`run`; or an array cannot be used in place.
        """
        variant, arrays = self._checked(inputs)
        tensors = []
        for each, array in zip(variant.inputs, arrays, strict=True):
            if (tensor := each.in_place(array)) is None:
                raise ValueError(
                    f"input {each.name!r} cannot be used in place: it must be contiguous and writable, and"
                    f" begin at a multiple of {ALIGNMENT} bytes; buffers() makes such arrays, run() copies"
                )
            tensors.append(tensor)
        return Bound(variant, dict(zip(self.names, arrays, strict=True)), tensors)

    def buffers(self, variant: int = 0) -> dict[str, np.ndarray[Any, Any]]:
        """Arrays for all inputs, by name, that can be bound; filled with zeros. ``variant`` counts the sets
        of shapes that the model has."""
        return {each.name: each.buffer() for each in self.variants[variant].inputs}

    def variant(self, shapes: tuple[tuple[int, ...], ...]) -> Variant:
        """The model for inputs of these shapes.

        Raises:
            ValueError: there is none, and there are several others.
        """
        if (found := self._by_shapes.get(shapes)) is not None:
            return found
        if len(self.variants) == 1:
            return self.variants[0]  # which says what does not fit
        known = "; ".join(map(self._shown, self._by_shapes))
        raise ValueError(
            f"the model has no variant for inputs of the shapes {self._shown(shapes)}; it has: {known}"
        )

    def _checked(self, inputs: Mapping[str, Any]) -> tuple[Variant, list[np.ndarray[Any, Any]]]:
        if not isinstance(inputs, Mapping):
            raise ValueError(f"inputs are given by name, not as {type(inputs).__name__}")
        if len(inputs) > len(self.names):
            unknown = next(name for name in inputs if name not in self.names)
            raise ValueError(f"the model has no input {unknown!r}; its inputs: {', '.join(self.names)}")
        for name in self.names:
            if name not in inputs:
                raise ValueError(f"input {name!r} is missing; given: {', '.join(inputs) or 'none'}")
        arrays = [_as_array(inputs[name]) for name in self.names]
        variant = self.variant(tuple(array.shape for array in arrays))
        variant.accept(arrays)
        return variant, arrays

    def _shown(self, shapes: tuple[tuple[int, ...], ...]) -> str:
        sizes = (",".join(map(str, shape)) or "scalar" for shape in shapes)
        return " ".join(f"{name}={size}" for name, size in zip(self.names, sizes, strict=True))


class Bound:
    """A model with its inputs."""

    def __init__(self, variant: Variant, inputs: dict[str, Any], tensors: list[Any]) -> None:
        self.inputs = inputs
        self._variant, self._tensors = variant, tensors

    def run(self) -> list[np.ndarray[Any, Any]]:
        """The outputs for what the inputs hold now. They are the caller's own."""
        return [_array(tensor) for tensor in self._variant.call(self._tensors)]


def _as_array(given: Any) -> np.ndarray[Any, Any]:
    if isinstance(given, np.ndarray):
        return given
    array: np.ndarray[Any, Any]
    array = np.from_dlpack(given) if hasattr(given, "__dlpack__") else np.asarray(given)
    return array


def _numpy_dtype(name: str) -> np.dtype[Any]:
    if name in _BITS:
        import ml_dtypes

        name = getattr(ml_dtypes, name)
    return np.dtype(name)


def _flat(result: Any) -> list[Any]:
    """The tensors in what TVM's virtual machine returns: one, or tuples of them."""
    if isinstance(result, tvm_ffi.Tensor):
        return [result]
    return [tensor for field in result for tensor in _flat(field)]


def _copy(tensor: Any) -> Any:
    allocate = tvm_ffi.get_global_func("runtime.TVMTensorAllocWithScope")
    copied = allocate(tvm_ffi.Shape(tensor.shape), tensor.dtype, tensor.device, None)
    tvm_ffi.get_global_func("runtime.TVMTensorCopyFromTo")(tensor, copied)
    return copied


def _array(tensor: Any) -> np.ndarray[Any, Any]:
    """The memory of a tensor as an array."""
    if (dtype := str(tensor.dtype)) in _BITS:
        view = tvm_ffi.get_global_func("runtime.TVMTensorCreateView")
        tensor = view(tensor, tvm_ffi.Shape(tensor.shape), _BITS[dtype], 0)
        return np.from_dlpack(tensor).view(_numpy_dtype(dtype))
    return np.from_dlpack(tensor)
