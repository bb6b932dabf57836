"""Small models of every kind that once failed are imported, judged, and have right candidates. Real TVM, no
broker."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from tests.acceptance.direct import ENGINE, PLATFORM, assemble, build, profile, update, validate
from tests.cases import epilogues, layout_products, layout_values, layouts, model_files, operators
from tests.cases.case import Case
from tunemesh.shared.errors import BadModel
from tunemesh.shared.messages import Settings
from tunemesh.stage_workers.engines.protocol import TaskRef
from tunemesh.stage_workers.frontends import external_data
from tunemesh.stage_workers.frontends.shapes import Variant
from tunemesh.stage_workers.graph import models
from tunemesh.stage_workers.platforms.protocol import ExtractedTask, ImportCall, Imported, ProfileOutcome

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
    """What is judged is the model as given; the one in another layout has been compared with it, or there is
    a note that there is none."""
    found = right(case, target, tmp_path)
    notes = models.unpack(found.model).notes
    changed = any("winograd" in task.name for task in found.tasks)
    assert changed != any(note.startswith("convolutions are computed as given") for note in notes)


@of(layout_products.NETWORKS + operators.CHECKS)
def test_the_model_that_comes_out_is_valid(case: Case, target: str, tmp_path: Path) -> None:
    found = right(case, target, tmp_path)
    made = assemble(found.model, target)
    validated = validate(made.tuned, made.untuned, made.signature, target, found.sample)
    assert validated.wrong == ""
    assert validated.outputs[0].compared > 0


def candidates(task: ExtractedTask, target: str, count: int) -> list[ProfileOutcome]:
    """The first ones that the engine proposes, built and profiled."""
    found = []
    for _, schedule in update(task.workload, target, None, [], count).schedules:
        built = build(task.workload, target, schedule)
        assert built.artifact is not None, built.error
        found.append(profile(task, target, built.artifact, ONCE))
    return found


@of(operators.PRECISION + epilogues.CASES)
def test_its_candidates_are_right(case: Case, target: str, tmp_path: Path) -> None:
    for task in right(case, target, tmp_path).tasks:
        reference = TaskRef(workload=task.workload, target=target, name=task.name, key=task.key)
        assert ENGINE.objection(reference) == ""
        found = candidates(task, target, 2)
        assert found
        assert [(each.outcome, each.error) for each in found] == [("measured", "")] * len(found)
