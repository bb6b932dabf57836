"""Inputs to compare and to measure with: random ones that are valid, or those that a person gave."""

from __future__ import annotations

import io
import math
import re
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tunemesh.shared.errors import BadInput
from tunemesh.stage_workers.measuring.comparison import Array, blocks, is_float, numpy_dtype
from tunemesh.stage_workers.measuring.ranges import Range

SIGNED: Range = (-1.0, 1.0)
"""Floats, where nobody says otherwise."""
POSITIVE: Range = (0.0, 1.0)
"""Where nothing finite comes out otherwise: a logarithm, a root."""
EXPECTED = "output:"
"""In a file of inputs, before the name of an output: what should come out for them."""
EXPECTED_BY = "output-by"
"""In the same file: a text that says who computed that."""
OF_A_SET = re.compile(r"set(\d+):(.+)", re.DOTALL)
"""In the same file, where there are several sets of shapes: for which one an array is, and its name. Sets are
counted from 0."""
ABOVE_ONE: Range = (1.0, 2.0)
"""Where there neither: ``acosh``."""
LARGEST = 4 * 2**30
"""Bytes that the arrays of a file may have."""


def random(
    tensors: Sequence[tuple[str, tuple[int, ...], str]],
    seed: int,
    ranges: Mapping[str, Range],
    floats: Range = SIGNED,
) -> list[Array]:
    """One array for each name, shape and dtype; the same for the same arguments, on every machine.

    Args:
        ranges: by name, half-open; uniform in it.
        floats: the range of floats that are not in ``ranges``.
    """
    generator = np.random.default_rng(seed)
    return [
        _array(shape, dtype, ranges.get(name, floats if is_float(dtype) else (0, 2)), generator)
        for name, shape, dtype in tensors
    ]


def _array(shape: tuple[int, ...], dtype: str, within: Range, generator: np.random.Generator) -> Array:
    least, above = within
    kind = np.uint64 if least >= 0 else np.int64
    made = np.empty(math.prod(shape), numpy_dtype(dtype))
    for block in blocks(made.size):
        size = block.stop - block.start
        made[block] = (
            generator.uniform(least, above, size)
            if is_float(dtype)
            else generator.integers(int(np.ceil(least)), int(np.ceil(above)), size, kind)
        ).astype(made.dtype)
    return made.reshape(shape)


def check_ranges(tensors: Sequence[tuple[str, tuple[int, ...], str]], ranges: Mapping[str, Range]) -> None:
    """Whether ranges that a person gave fit the inputs.

    Raises:
        BadInput: one is of no input, or has no value of its dtype.
    """
    dtypes = {name: dtype for name, _, dtype in tensors}
    for name, (least, above) in ranges.items():
        if name not in dtypes:
            raise BadInput(f"--range {name}: the model has no such input; its inputs are {', '.join(dtypes)}")
        if is_float(dtypes[name]):
            continue
        if np.ceil(least) >= np.ceil(above):
            raise BadInput(f"--range {name}={least:g},{above:g} has no integer; {name} is {dtypes[name]}")
        limits = (0, 1) if dtypes[name] == "bool" else _limits(dtypes[name])
        if np.ceil(least) < limits[0] or np.ceil(above) - 1 > limits[1]:
            raise BadInput(f"--range {name}={least:g},{above:g} does not fit {dtypes[name]}")


def _limits(dtype: str) -> tuple[int, int]:
    info = np.iinfo(numpy_dtype(dtype))
    return int(info.min), int(info.max)


def read(data: bytes, name: str = "the file of inputs") -> dict[str, Array]:
    """The arrays of an ``npz`` file, by name.

    Raises:
        BadInput: it is none, or too large, or has arrays of objects.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > LARGEST:
            raise BadInput(f"{name} has {size:,} bytes of arrays; {LARGEST:,} are allowed")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise BadInput(f"{name} is no npz file of arrays, as numpy.savez writes it: {error}") from None


def write(arrays: Mapping[str, Any]) -> bytes:
    """An ``npz`` file of arrays, by name; the same for the same ones. ``numpy.savez`` cannot write those of
    the names of its own parameters, such as ``file``.

    Raises:
        BadInput: something is no array of numbers, or a name is no text.
    """
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for name, array in arrays.items():
            if not isinstance(name, str):
                raise BadInput(f"the name of an input must be text, not {name!r}")
            try:
                with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)
            except ValueError as error:
                raise BadInput(f"the input {name} is no array of numbers: {error}") from None
    return written.getvalue()


def sets(given: Mapping[str, Array]) -> dict[int, dict[str, Array]]:
    """The arrays of a file for each set of shapes that some are marked for, by its number; those without a
    mark are for all. Empty where none has one."""
    marked = {name: found for name in given if (found := OF_A_SET.fullmatch(name))}
    common = {name: array for name, array in given.items() if name not in marked}
    made: dict[int, dict[str, Array]] = {}
    for name, found in marked.items():
        made.setdefault(int(found[1]), dict(common))[found[2]] = given[name]
    return made


def of_set(given: Mapping[str, Array], number: int) -> dict[str, Array]:
    """The arrays of a file that are for one set of shapes.

    Raises:
        BadInput: there are some for other sets only.
    """
    found = sets(given) or {number: dict(given)}
    if number not in found:
        raise BadInput(
            f"--inputs: there are arrays for some sets of shapes, but none called set{number}:NAME"
        )
    return found[number]


def fitting(given: Mapping[str, Array], tensors: Sequence[tuple[str, tuple[int, ...], str]]) -> list[Array]:
    """The arrays that a person gave, in the order of the inputs.

    Raises:
        BadInput: one is missing or unknown, or has another dtype or shape.
    """
    names = {name for name, _, _ in tensors}
    outputs = {name for name in given if name.startswith(EXPECTED)} | {EXPECTED_BY}
    if unknown := sorted(set(given) - names - outputs):
        known = ", ".join(name for name, _, _ in tensors)
        raise BadInput(f"--inputs: the model has no input {unknown[0]}; its inputs are {known}")
    return [_fitting(given, name, shape, dtype) for name, shape, dtype in tensors]


def expected(
    given: Mapping[str, Array], tensors: Sequence[tuple[str, tuple[int, ...], str]]
) -> tuple[str, list[Array]]:
    """The outputs that a file has beside its inputs, in the order of the model, and who computed them; none
    where it has none.

    Raises:
        BadInput: one is missing or unknown, or has another dtype or shape.
    """
    outputs = {name: array for name, array in given.items() if name.startswith(EXPECTED)}
    if not outputs:
        return "", []
    who = str(given[EXPECTED_BY]) if EXPECTED_BY in given else "whoever made the file of inputs"
    wanted = [(f"{EXPECTED}{name}", shape, dtype) for name, shape, dtype in tensors]
    if unknown := sorted(set(outputs) - {name for name, _, _ in wanted}):
        raise BadInput(
            f"--inputs: there is {unknown[0]}, but the outputs are {', '.join(n for n, _, _ in tensors)}"
        )
    return who, [_fitting(outputs, name, shape, dtype) for name, shape, dtype in wanted]


def _fitting(given: Mapping[str, Array], name: str, shape: tuple[int, ...], dtype: str) -> Array:
    array: Any = given.get(name)
    if array is None:
        raise BadInput(f"--inputs: the input {name} is missing; it is {dtype}{list(shape)}")
    wanted = numpy_dtype(dtype)
    if array.dtype.kind == "V" and array.dtype.itemsize == wanted.itemsize:
        array = array.view(wanted)  # NumPy's files know no bfloat16
    if array.shape != tuple(shape) or array.dtype != wanted:
        raise BadInput(
            f"--inputs: the input {name} is {array.dtype}{list(array.shape)},"
            f" the model takes {dtype}{list(shape)}"
        )
    return np.asarray(array, order="C")  # ascontiguousarray makes a number a list of one
