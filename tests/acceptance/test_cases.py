"""Small models of every kind that once failed are imported, judged, and have right candidates. Real TVM, no
broker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.acceptance.direct import (
    ENGINE,
    PLATFORM,
    assemble,
    build,
    import_model,
    profile,
    run,
    update,
    validate,
)
from tests.cases import (
    epilogues,
    layout_products,
    layout_values,
    layouts,
    model_files,
    operators,
    tir_functions,
)
from tests.cases.case import Case, case
from tunemesh.shared.errors import BadModel
from tunemesh.shared.messages import Settings
from tunemesh.stage_workers.engines.protocol import TaskRef
from tunemesh.stage_workers.frontends import external_data
from tunemesh.stage_workers.frontends.shapes import Variant
from tunemesh.stage_workers.graph import models
from tunemesh.stage_workers.platforms.protocol import ExtractedTask, ImportCall, Imported

ONCE = Settings(repeats=1, min_repeat_ms=0)


def imported(case: Case, target: str, folder: Path) -> Imported:
    """With the options that hold where nothing else is said."""
    made = case.make()
    path = folder / "model.onnx"
    onnx.save_model(
        made, path, save_as_external_data=case.external, location="model.onnx.data", size_threshold=0
    )
    data = path.read_bytes()
    variants = [Variant(shapes=dict(case.shapes))]
    files = {name: str(path) for name, path in external_data.find(path, data).items()}
    return PLATFORM.import_model(ImportCall(model=data, files=files, target=target, variants=variants))


def right(case: Case, target: str, folder: Path) -> Imported:
    """Imported, and every output agrees with ONNX Runtime."""
    found = imported(case, target, folder)
    (judgement,) = found.judged
    assert judgement.judge.startswith("ONNX Runtime "), judgement.reason
    assert [each.name for each in judgement.outputs] == [each.name for each in case.make().graph.output]
    for output in judgement.outputs:
        assert output.compared > 0 or output.elements == 0
        assert output.units <= 1
    assert bool(found.tasks) != case.untunable
    return found


def of(cases: list[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=[each.name for each in cases])


IMPORTED = [case for case in model_files.CASES + operators.CASES if not case.refused]
REFUSED = [case for case in model_files.CASES + operators.CASES if case.refused]


@of(IMPORTED)
def test_it_computes_what_it_does_in_onnx_runtime(case: Case, target: str, tmp_path: Path) -> None:
    right(case, target, tmp_path)


@of(REFUSED)
def test_what_cannot_be_imported_is_named(case: Case, target: str, tmp_path: Path) -> None:
    with pytest.raises(BadModel, match=case.refused):
        imported(case, target, tmp_path)


@of(layouts.CASES + layout_values.CASES + layout_products.CASES)
def test_what_is_beside_a_convolution_keeps_its_meaning_in_another_layout(
    case: Case, target: str, tmp_path: Path
) -> None:
    """What is judged is the model as given; the one in another layout has been compared with it. Where
    Winograd's algorithm is not exact enough, there is a note that it is not used."""
    found = right(case, target, tmp_path)
    stored = models.unpack(found.model)
    assert all(each.channels_last for each in stored.changes)
    tried = any(each.winograd for each in stored.changes)
    assert tried != any(
        note.startswith("convolutions are computed as they are defined") for note in stored.notes
    )


@of(layout_products.NETWORKS + operators.CHECKS + model_files.WITHOUT_KERNELS)
def test_the_model_that_comes_out_is_valid(case: Case, target: str, tmp_path: Path) -> None:
    found = right(case, target, tmp_path)
    made = assemble(found.model, target)
    validated = validate(made.tuned, made.untuned, made.signature, target, found.sample)
    assert validated.wrong == ""
    assert validated.outputs[0].compared > 0


def assert_candidates_are_right(tasks: list[ExtractedTask], target: str) -> None:
    """Every task has some, and the first that the engine proposes compute what the untuned kernels do."""
    for task in tasks:
        reference = TaskRef(workload=task.workload, target=target, name=task.name, key=task.key)
        assert ENGINE.objection(reference) == ""
        schedules = update(task.workload, target, None, [], 2).schedules
        assert schedules
        for _, schedule in schedules:
            built = build(task.workload, target, schedule)
            assert built.artifact is not None, built.error
            profiled = profile(task, target, built.artifact, ONCE)
            assert (profiled.outcome, profiled.error) == ("measured", "")


@of(operators.PRECISION + epilogues.CASES)
def test_its_candidates_are_right(case: Case, target: str, tmp_path: Path) -> None:
    assert_candidates_are_right(right(case, target, tmp_path).tasks, target)


ACTIVATIONS = ["Elu", "Celu", "Selu", "ThresholdedRelu", "LeakyRelu", "HardSwish", "HardSigmoid"]
FUNCTIONS = ["Sinh", "Cosh", "Tan", "Asin", "Asinh", "Atan", "Atanh"]


@pytest.mark.parametrize(
    ("dtype", "names"), [("float16", ACTIVATIONS + FUNCTIONS), ("double", [*ACTIVATIONS, "Erf"])]
)
def test_functions_of_one_number_are_right_in_other_floats(
    dtype: str, names: list[str], target: str, tmp_path: Path
) -> None:
    """Of these TVM's importer or its compiler knew single precision only, or lost most digits."""
    nodes = "\n".join(f"y{number} = {name} (x)" for number, name in enumerate(names))
    outputs = ", ".join(f"{dtype}[2,2,4,8] y{number}" for number in range(len(names)))
    found = imported(case("functions", f"({dtype}[2,2,4,8] x) => ({outputs}) {{{nodes}}}"), target, tmp_path)
    (judgement,) = found.judged
    assert judgement.judge  # ONNX's own: ONNX Runtime has not got all of them
    assert len(judgement.outputs) == len(names)
    assert all(each.compared == each.elements and each.units <= 1 for each in judgement.outputs)


# -- Functions of TIR ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", tir_functions.FUNCTIONS, ids=lambda each: each.__name__)
def test_candidates_of_a_function_are_right(function: Callable[[], Any], target: str) -> None:
    tasks = import_model(tir_functions.model(function), target).tasks
    assert len(tasks) == 1
    assert_candidates_are_right(tasks, target)


def test_a_function_without_elements_is_compiled_and_not_tuned(target: str) -> None:
    found = import_model(tir_functions.model(tir_functions.without_elements_17994), target)
    assert found.tasks == []
    assert "x has no elements" in models.unpack(found.model).notes[0]
    assert run(assemble(found.model, target).tuned, np.zeros((0, 8), np.float32)).shape == (0, 8)


def test_a_function_that_calls_another_is_refused_by_name(target: str) -> None:
    with pytest.raises(BadModel, match=r"calls tirx\.tvm_call_packed \(tvm\.contrib\.sort\.sort\)"):
        import_model(tir_functions.model(tir_functions.sorted_rows), target)


def test_a_function_that_reads_outside_of_its_tensors_is_refused(target: str) -> None:
    with pytest.raises(BadModel, match=r"main reads a\[0, 2, 0, 0\], outside of its shape \(1, 2, 3, 4\)"):
        import_model(tir_functions.model(tir_functions.tensor_product_that_does_not_fit_17949), target)
