"""Every test that the ``onnx`` package has for an operator: is it imported, and is the result right?

    python -m benchmarks.onnx_nodes
    python -m benchmarks.onnx_nodes --only conv --only pool --list wrong

A test is a model of one operator with inputs and the outputs that are expected. Many of them have as inputs
what is part of the model in practice: axes, sizes, scales. Where the model cannot be imported because of
that, it is tried again with its small integer inputs as constants. ``--folded`` makes constants of all
inputs, to test what is computed at import.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import json
import multiprocessing
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import numpy_helper

from benchmarks import markdown
from tunemesh.shared.errors import BadModel
from tunemesh.stage_workers import frontends
from tunemesh.stage_workers.frontends import Source, Variant
from tunemesh.stage_workers.graph import compilation, optimisation, targets
from tunemesh.stage_workers.graph.changes import NONE
from tunemesh.stage_workers.measuring import loading

Outcome = Literal["right", "wrong", "refused"]

LIMIT = 60.0
"""Seconds for one test."""

COMPILER = (RuntimeError, ValueError, TypeError, AttributeError)
"""What TVM raises, whose errors are those of Python and of its own that are derived from them."""

FEW = 64
"""Elements of an integer input that may be a constant in practice."""

ROUNDING = {"float16": 2e-3, "bfloat16": 1.6e-2}
"""Two units in the last place, relative."""


@dataclass(frozen=True, slots=True)
class Found:
    """What became of one test."""

    test: str
    outcome: Outcome
    how: Literal["as given", "constants", "folded"]
    text: str = ""


def tests(only: Sequence[str]) -> Iterator[Any]:
    """Those of the package, without those whose names have none of the given parts."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        from onnx.backend.test.loader import load_model_tests

        found = load_model_tests(kind="node")
    for test in found:
        if not only or any(part in test.name for part in only):
            yield test


def in_a_child(test: Any, target: str, folded: bool) -> Found:
    """:func:`try_test` in a process of its own: a kernel may crash or never end."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=lambda: theirs.send(asdict(try_test(test, target, folded))))
    child.start()
    theirs.close()
    try:
        if ours.poll(LIMIT):
            return Found(**ours.recv())
        text = f"it did not end within {LIMIT:.0f} s"
    except EOFError:
        child.join(LIMIT)
        text = f"its process ended with status {child.exitcode}"
    finally:
        child.kill()
        child.join(LIMIT)
    return Found(test.name, "wrong", "as given", text)


def try_test(test: Any, target: str, folded: bool) -> Found:
    """Import, run and compare one test, with constants where that is needed."""
    inputs, outputs = ([array_of(value) for value in values] for values in test.data_sets[0])
    if folded:
        return attempt(test, inputs, outputs, set(range(len(inputs))), target, "folded")
    found = attempt(test, inputs, outputs, set(), target, "as given")
    few = {
        i
        for i, value in enumerate(inputs)
        if i
        and isinstance(value, (np.ndarray, np.generic))
        and value.dtype.kind in "ib"
        and value.size <= FEW
    }
    floats = {
        i
        for i, value in enumerate(inputs)
        if i and isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind == "f" and value.size <= 8
    }
    for constants in (few, few | floats):
        if found.outcome != "refused":
            break
        if constants and len(constants) < len(inputs):
            found = attempt(test, inputs, outputs, constants, target, "constants")
    return found


def array_of(value: Any) -> Any:
    """An array, where a value is one or a message that holds one."""
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def attempt(
    test: Any, inputs: Sequence[Any], outputs: Sequence[Any], constants: set[int], target: str, how: Any
) -> Found:
    """One try, with these inputs as constants."""
    model = onnx.ModelProto.FromString(test.model.SerializeToString())
    given: dict[str, Any] = {}
    try:
        declared = list(model.graph.input)
        for index, (value, array) in enumerate(zip(declared, inputs, strict=True)):
            if index in constants and array is not None:
                model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), value.name))
                model.graph.input.remove(value)
            else:
                given[value.name] = array
        shapes = {
            name: list(array.shape)
            for name, array in given.items()
            if isinstance(array, (np.ndarray, np.generic))
        }
        module, _ = frontends.read(Source(model.SerializeToString()), Variant(shapes=shapes))
    except BadModel as error:
        return Found(test.name, "refused", how, str(error))
    try:
        main = compiled(module, target)
    except (BadModel, *COMPILER) as error:
        return Found(test.name, "refused", how, f"cannot be compiled: {str(error).splitlines()[:1]}")
    try:
        results = run(main, list(given.values()), target)
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        return Found(test.name, "wrong", how, f"{type(error).__name__}: {str(error).splitlines()[:1]}")
    text = differences(results, outputs, test.rtol, test.atol)
    return Found(test.name, "wrong" if text else "right", how, text)


def compiled(module: Any, target: str) -> Any:
    """The main function of an untuned model, in this process."""
    return compilation.main_of(optimisation.optimise(module, target, NONE).module, target)


def run(main: Any, inputs: Sequence[Any], target: str) -> list[Any]:
    """The outputs of an untuned model."""
    import tvm

    with loading.threads(target):
        return loading.flatten(main(*(tvm.runtime.tensor(np.asarray(array)) for array in inputs)))


def differences(results: Sequence[Any], expected: Sequence[Any], rtol: float, atol: float) -> str:
    """What is different, in one line; nothing where all agree."""
    if len(results) != len(expected):
        return f"{len(results)} outputs instead of {len(expected)}"
    for index, (got, want) in enumerate(zip(results, expected, strict=True)):
        want = np.asarray(want)
        if got.dtype != want.dtype:
            return f"output {index} is {got.dtype} instead of {want.dtype}"
        if got.shape != want.shape:
            return f"output {index} has the shape {got.shape} instead of {want.shape}"
        left, right = (a.astype(np.float64) for a in (got, want))
        loose = max(rtol, ROUNDING.get(str(want.dtype), 0.0))
        close = np.isclose(left, right, rtol=loose, atol=max(atol, 1e-6), equal_nan=True)
        if want.dtype.kind in "iub":
            close = left == right
        if not close.all():
            where = tuple(int(i) for i in np.argwhere(~close)[0])
            return (
                f"output {index}: {np.count_nonzero(~close)} of {close.size} differ,"
                f" at {where} {got[where]} instead of {want[where]}"
            )
    return ""


def main() -> None:
    """Parse the command line, try, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", action="append", default=[], help="tests with this in their name")
    parser.add_argument("--part", default="1/1", help="2/4: the second quarter of the tests")
    parser.add_argument("--folded", action="store_true", help="all inputs are constants")
    parser.add_argument("--list", action="append", default=["wrong"], help="outcomes to list test by test")
    parser.add_argument("--out", type=Path, help="write what became of each test to this JSON file")
    arguments = parser.parse_args()
    os.environ["TVM_NUM_THREADS"] = "1"
    target = targets.resolve("native")
    number, parts = map(int, arguments.part.split("/"))
    chosen = list(tests(arguments.only))[number - 1 :: parts]
    found = [in_a_child(test, target, arguments.folded) for test in chosen]
    for each in found:
        if each.outcome in arguments.list:
            print(f"{each.outcome}: {each.test} ({each.how}): {each.text}")
    counts = collections.Counter(each.outcome for each in found)
    rows = [[outcome, str(counts[outcome])] for outcome in ("right", "refused", "wrong")]
    print("\n".join(markdown.table([f"{len(found)} tests", "number"], rows)))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps([asdict(each) for each in found], indent=1))


if __name__ == "__main__":
    main()
