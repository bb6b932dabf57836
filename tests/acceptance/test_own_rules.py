"""Schedules by rules of our own: real TVM, one process, no broker."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests import onnx_models
from tests.acceptance.direct import import_model, measure, update
from tests.onnx_models import floats, node, value
from tunemesh.stage_workers.engines.metaschedule import schedules

CANDIDATES = 4


def convolution(
    image: tuple[int, ...], weight: tuple[int, ...], group: int = 1, stride: int = 1, pad: int = 0
) -> Any:
    """With a bias and Clip, as in MobileNet."""
    return onnx_models.model(
        [
            node("Conv", ["x", "w", "b"], ["c"], group=group, strides=[stride] * 2, pads=[pad] * 4),
            node("Clip", ["c", "least", "most"], ["y"]),
        ],
        [value("x", shape=image)],
        weights={
            "w": floats(*weight),
            "b": floats(weight[0], seed=1),
            "least": floats(1)[0] * 0,
            "most": floats(1)[0] * 0 + 6,
        },
    )


def product(rows: int, steps: int, columns: int) -> Any:
    """With a sum behind that reads another tensor."""
    return onnx_models.model(
        [node("MatMul", ["x", "w"], ["p"]), node("Add", ["p", "z"], ["y"])],
        [value("x", shape=(rows, steps)), value("z", shape=(rows, columns))],
        weights={"w": floats(steps, columns)},
    )


def pooling() -> Any:
    return onnx_models.model(
        [
            node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
            node("MaxPool", ["c"], ["y"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        ],
        [value("x", shape=(1, 16, 12, 12))],
        weights={"w": floats(16, 16, 3, 3)},
    )


def joined() -> Any:
    return onnx_models.model(
        [node("Concat", ["a", "b", "c"], ["y"], axis=1)],
        [value("a", shape=(6, 1, 32)), value("b", shape=(6, 3, 32)), value("c", shape=(6, 1, 32))],
    )


def odd() -> Any:
    return onnx_models.model(
        [node("Add", ["a", "b"], ["y"])], [value("a", shape=(5, 7, 13)), value("b", shape=(5, 1, 13))]
    )


def lines() -> Any:
    return onnx_models.model(
        [node("Add", ["a", "b"], ["y"])], [value("a", shape=(3, 5, 96)), value("b", shape=(3, 1, 96))]
    )


MODELS = {
    "pointwise": convolution((1, 24, 14, 14), (48, 24, 1, 1), stride=2),
    "columns of half a vector": convolution((1, 48, 7, 7), (24, 48, 1, 1)),
    "depthwise": convolution((1, 32, 14, 14), (32, 1, 3, 3), group=32, pad=1),
    "depthwise with strides, odd": convolution((1, 48, 15, 15), (48, 1, 5, 5), group=48, stride=2, pad=2),
    "an image": convolution((1, 3, 32, 32), (32, 3, 3, 3), stride=2, pad=1),
    "patches": convolution((1, 3, 32, 32), (48, 3, 4, 4), stride=4),
    "a prime number of rows": product(13, 64, 32),
    "a vector": product(1, 96, 160),
    "pooling": pooling(),
    "joined": joined(),
    "odd": odd(),
    "lines of vectors, but not of 64 elements": lines(),
}


def by_own_rule(schedule: bytes) -> bool:
    return any(attributes == ["schedule_rule"] for _, _, attributes, _ in schedules.unpack(schedule)[0])


def tried(name: str, target: str) -> list[tuple[bool, bool]]:
    """For the first candidates of the task that a model is about: whether they came from a rule of our own,
    and whether they were right."""
    model = MODELS[name].SerializeToString()
    tasks = import_model(model, target, options={"convolutions": "direct"}).tasks
    about = "pool" if name == "pooling" else ""
    task = next(task for task in tasks if about in task.name and not task.name.startswith("transpose"))
    proposed = update(task.workload, target, None, [], CANDIDATES).schedules
    trials = measure(task, target, proposed)
    return [
        (by_own_rule(schedule), trial.outcome == "measured")
        for (_, schedule), trial in zip(proposed, trials, strict=True)
    ]


@pytest.mark.parametrize("name", MODELS)
def test_candidates_of_own_rules_come_first_and_are_right(name: str, target: str) -> None:
    found = tried(name, target)
    assert all(right for _, right in found)
    assert found[0][0] or MODELS[name] in (joined(), odd(), lines())
    assert any(own for own, _ in found)


@pytest.mark.parametrize("name", ["pointwise", "depthwise", "an image", "joined"])
def test_candidates_for_two_cores_are_right(name: str, target: str) -> None:
    found = tried(name, json.dumps({**json.loads(target), "num-cores": 2}, sort_keys=True))
    assert all(right for _, right in found)
    assert any(own for own, _ in found)


def test_a_number_has_candidates_too(target: str) -> None:
    """As where a scale is computed: there is not a single loop."""
    model = onnx_models.model(
        [node("Mul", ["a", "b"], ["y"])], [value("a", shape=()), value("b", shape=())]
    ).SerializeToString()
    (task,) = import_model(model, target).tasks
    proposed = update(task.workload, target, None, [], 1).schedules
    assert [trial.outcome for trial in measure(task, target, proposed)] == ["measured"]
