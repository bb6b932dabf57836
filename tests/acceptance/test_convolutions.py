"""Convolutions by Winograd's algorithm: right results, wherever it is tried, and tried only where the model
bears it. Real TVM, no broker."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Collection
from fractions import Fraction
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.acceptance.direct import (
    AS_GIVEN,
    ENGINE,
    assemble,
    build,
    import_model,
    measure,
    profile,
    run,
    tuned_task,
    update,
    validate,
)
from tests.cases.case import Case, case, weights
from tunemesh.shared.errors import BadInput
from tunemesh.shared.messages import Candidate, Options, Trial
from tunemesh.stage_workers.engines.metaschedule import winograd_search
from tunemesh.stage_workers.engines.protocol import ExportCall, PartCall, TaskTrials, elements_name
from tunemesh.stage_workers.graph import anchors, models, winograd, winograd_kernels, workloads
from tunemesh.stage_workers.graph.winograd_kernels import Knobs
from tunemesh.stage_workers.platforms.protocol import ExtractedTask, Imported

MEASURED: Options = {}
"""What becomes of convolutions where nothing else is said."""
DIRECT: Options = {"convolutions": "direct"}
TOLERANCE = 1e-4
"""Of the largest output: as in :mod:`stage_workers.measuring.comparison`."""


def model(
    image: tuple[int, ...],
    outputs: int,
    *,
    size: int = 3,
    pads: tuple[int, int, int, int] = (1, 1, 1, 1),
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
) -> onnx.ModelProto:
    """A convolution of an image (N, C, H, W), a bias and a ReLU. ``pads`` as ONNX has them."""
    random = np.random.default_rng(0)
    weights = random.normal(0, 0.1, (outputs, image[1] // groups, size, size)).astype(np.float32)
    bias = random.normal(0, 1, outputs).astype(np.float32)
    nodes = [
        helper.make_node(
            "Conv",
            ["x", "w", "b"],
            ["y"],
            pads=pads,
            strides=[stride, stride],
            dilations=[dilation] * 2,
            group=groups,
            name="conv",
        ),
        helper.make_node("Relu", ["y"], ["z"], name="relu"),
    ]
    return made_of(nodes, image, {"w": weights, "b": bias}, opset=17)


def made_of(
    nodes: list[onnx.NodeProto], image: tuple[int, ...], constants: dict[str, np.ndarray], opset: int
) -> onnx.ModelProto:
    """A model from ``x`` to ``z``."""
    graph = helper.make_graph(
        nodes,
        "convolution",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, image)],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    made.ir_version = 8
    return onnx.shape_inference.infer_shapes(made)


def computed(proto: onnx.ModelProto, target: str, options: Options) -> tuple[list[str], np.ndarray]:
    """Names of the tasks, and what the model computes for the input of :func:`expected`."""
    imported = import_model(proto.SerializeToString(), target, options)
    library = assemble(imported.model, target).tuned
    return [task.name for task in imported.tasks], run(library, image_for(proto))


def convolution(image: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """By definition: N, C, H, W and outputs, inputs, 3, 3; stride 1, padding 1."""
    padded = np.pad(image, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return np.asarray(np.einsum("nchwij,ocij->nohw", windows, weights))


def image_for(proto: onnx.ModelProto) -> np.ndarray:
    shape = [dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim]
    return np.random.default_rng(1).normal(0, 1, shape).astype(np.float32)


def expected(proto: onnx.ModelProto) -> np.ndarray:
    """By ONNX Runtime."""
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {"x": image_for(proto)})
    return np.asarray(result)


def by_winograd(imported: Imported) -> list[ExtractedTask]:
    """The tasks that may be computed by Winograd's algorithm."""
    return [task for task in imported.tasks if workloads.winograd_of(function_of(task))]


def function_of(task: ExtractedTask) -> Any:
    return workloads.load(task.workload)["main"]


def settings_of(task: ExtractedTask, target: str) -> dict[str, Knobs]:
    return winograd_search.space(workloads.load(task.workload), target)


def diverse(settings: dict[str, Knobs]) -> list[Knobs]:
    """One for each size of a tile, as unlike each other as these may be."""
    ordered = sorted(settings.values(), key=lambda each: (each.outputs, each.tiles, each.rows))
    by_size = [[each for each in ordered if each.outputs == outputs] for outputs in winograd.POINTS]
    return [each[number * (len(each) - 1) // 2] for number, each in enumerate(by_size) if each]


def outcome(task: ExtractedTask, target: str, knobs: Knobs) -> tuple[str, str]:
    """What becomes of a candidate, and why."""
    built = build(task.workload, target, winograd_search.pack(knobs))
    assert built.artifact is not None, built.error
    profiled = profile(task, target, built.artifact)
    return profiled.outcome, profiled.error


@pytest.fixture(scope="module")
def task(target: str) -> ExtractedTask:
    """A convolution that may be computed in both ways."""
    imported = import_model(model((1, 32, 12, 12), 32).SerializeToString(), target, MEASURED)
    (found,) = by_winograd(imported)
    return found


# -- Kernels -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "outputs", "pads"),
    [
        ((1, 32, 28, 28), 32, (1, 1, 1, 1)),
        ((2, 32, 17, 23), 48, (1, 1, 1, 1)),  # tiles hang over, sides differ, two images
        ((1, 16, 11, 20), 64, (2, 0, 1, 3)),  # top, left, bottom, right
        ((1, 24, 5, 6), 40, (1, 1, 1, 1)),  # shorter vectors
        ((1, 20, 2, 3), 12, (1, 1, 1, 1)),  # smaller than a tile
        ((1, 16, 3, 3), 16, (0, 0, 0, 0)),  # one output
    ],
)
def test_kernels_compute_what_the_convolution_computes(
    target: str, image: tuple[int, ...], outputs: int, pads: tuple[int, int, int, int]
) -> None:
    imported = import_model(model(image, outputs, pads=pads).SerializeToString(), target, MEASURED)
    (task,) = by_winograd(imported)
    chosen = diverse(settings_of(task, target))
    assert len(chosen) == len(winograd.POINTS)
    assert [outcome(task, target, knobs) for knobs in chosen] == [("measured", "")] * len(chosen)


def test_it_says_which_way_a_kernel_takes(task: ExtractedTask, target: str) -> None:
    def way(schedule: bytes) -> str:
        call = PartCall(workload=task.workload, target=target, schedule=schedule, symbol="kernel")
        return ENGINE.part(call).way

    settings = settings_of(task, target).values()
    for outputs in winograd.POINTS:
        knobs = next(each for each in settings if each.outputs == outputs)
        assert way(winograd_search.pack(knobs)) == f"Winograd, tiles of {outputs}x{outputs}"
    schedules = [schedule for _, schedule in update(task.workload, target, None, [], 4).schedules]
    assert way(next(each for each in schedules if not winograd_search.is_ours(each))) == "direct"


def test_longest_vectors_are_used_that_channels_and_cpu_allow(task: ExtractedTask) -> None:
    anchored = anchors.find(function_of(task))
    assert anchored is not None

    def lanes(cpu: str, channels: int) -> int | None:
        other = dataclasses.replace(anchored, shape=(1, 12, 12, channels))
        return winograd_kernels.lanes(other, f'{{"kind": "llvm", "mcpu": "{cpu}"}}')

    assert lanes("znver4", 32) == 16
    assert lanes("haswell", 32) == 8
    assert lanes("cascadelake", 32) == 8  # LLVM halves longer ones
    assert lanes("x86-64", 32) == 4
    assert lanes("znver4", 20) == 4
    assert lanes("znver4", 18) is None


def test_blocks_of_tiles_are_computed_by_as_many_threads_as_there_are_cores(
    target: str, task: ExtractedTask
) -> None:
    settings = settings_of(task, target).values()
    several = next(each for each in settings if each.outputs == 2 and each.tiles <= 18)  # of 36
    for cores in (1, 2):
        wanted = json.dumps({**json.loads(target), "num-cores": cores})
        artifact = build(task.workload, wanted, winograd_search.pack(several)).artifact
        assert artifact is not None
        assert (b"TVMBackendParallelLaunch" in artifact) == (cores > 1)
        profiled = profile(task, wanted, artifact)
        assert (profiled.outcome, profiled.error) == ("measured", "")


EPILOGUES = [
    ("residual", "b = Add (a, x)\ny = Relu (b)", {}),
    ("clip", "y = Clip (a, low, high)", {"low": 0.0, "high": 0.5}),
    ("gate", "s = Sigmoid (a)\ny = Mul (a, s)", {}),
    ("other", "r = Relu (x)\nb = Sub (r, a)\ny = Mul (b, k)", {"k": weights(32, 1, 1)}),
    ("rows", "y = Mul (a, k)", {"k": weights(1, 1, 11, 1)}),
]


@pytest.mark.parametrize(
    "proto",
    [
        case(
            name,
            f"(float[1,32,11,9] x) => (float[1,32,11,9] y) {{"
            f"a = Conv <pads = [1, 1, 1, 1]> (x, W, B)\n{nodes}}}",
            W=weights(32, 32, 3, 3),
            B=weights(32),
            **values,
        )
        for name, nodes, values in EPILOGUES
    ],
    ids=[name for name, _, _ in EPILOGUES],
)
def test_what_stands_behind_is_part_of_the_kernel(target: str, proto: Case) -> None:
    imported = import_model(proto.make().SerializeToString(), target, MEASURED)
    (task,) = by_winograd(imported)
    knobs = diverse(settings_of(task, target))[1]
    assert outcome(task, target, knobs) == ("measured", "")


@pytest.mark.parametrize(
    "proto",
    [
        model((1, 32, 14, 14), 32, size=1, pads=(0, 0, 0, 0)),
        model((1, 32, 14, 14), 32, size=5, pads=(2, 2, 2, 2)),
        model((1, 32, 14, 14), 32, stride=2),
        model((1, 32, 14, 14), 32, dilation=2, pads=(2, 2, 2, 2)),
        model((1, 32, 14, 14), 32, groups=32),
        model((1, 32, 14, 14), 32, groups=2),
        model((1, 3, 14, 14), 32),
        model((1, 32, 14, 14), 42),
        case(
            "one dimension",
            "(float[1,32,40] x) => (float[] z) {z = Conv <pads = [1, 1]> (x, W)}",
            W=weights(32, 32, 3),
        ).make(),
        case(
            "three dimensions",
            "(float[1,16,4,6,6] x) => (float[] z) {z = Conv <pads = [1, 1, 1, 1, 1, 1]> (x, W)}",
            W=weights(16, 16, 3, 3, 3),
        ).make(),
    ],
    ids=["1x1", "5x5", "stride", "dilated", "depthwise", "groups", "3 inputs", "42 outputs", "1-D", "3-D"],
)
def test_other_convolutions_stay_as_they_are(target: str, proto: onnx.ModelProto) -> None:
    direct = import_model(proto.SerializeToString(), target, DIRECT)
    imported = import_model(proto.SerializeToString(), target, MEASURED)
    assert [task.key for task in imported.tasks] == [task.key for task in direct.tasks]
    assert by_winograd(imported) == []


def test_zeros_elsewhere_than_around_an_image_are_no_padding(task: ExtractedTask) -> None:
    import tvm
    import tvm_ffi
    from tvm import tirx

    def masked(call: Any) -> Any:
        if not str(call.op.name).endswith("if_then_else"):
            return call
        condition, value, zero = call.args
        row = value.indices[1].a
        return tirx.if_then_else(tirx.all(condition, row < 9), value, zero)

    function = function_of(task)
    changed = function.with_body(tvm_ffi.structural_map(function.body, (tvm.ir.Call, masked)))
    assert anchors.find(function) is not None
    assert anchors.find(changed) is None


def test_weights_that_are_no_constants_have_no_such_kernels(target: str) -> None:
    proto = case(
        "given weights",
        "(float[1,16,8,8] x, float[16,16,3,3] w) => (float[] y) {y = Conv <pads = [1, 1, 1, 1]> (x, w)}",
    ).make()
    imported = import_model(proto.SerializeToString(), target, MEASURED)
    assert [settings_of(task, target) for task in imported.tasks] == [{}] * len(imported.tasks)


# -- The search ----------------------------------------------------------------------------------------------


def trials(schedules: list[tuple[str, bytes]], ours: float, others: float) -> list[Trial]:
    """Measured, with these latencies of candidates by Winograd's algorithm and others."""
    return [
        Trial(
            candidate=Candidate(index, name, schedule),
            outcome="measured",
            latencies=[ours if winograd_search.is_ours(schedule) else others],
        )
        for index, (name, schedule) in enumerate(schedules)
    ]


def ways(schedules: list[tuple[str, bytes]]) -> tuple[int, int]:
    """Candidates by Winograd's algorithm, and others."""
    ours = sum(winograd_search.is_ours(schedule) for _, schedule in schedules)
    return ours, len(schedules) - ours


def test_every_size_of_tiles_is_among_the_first(target: str, task: ExtractedTask) -> None:
    schedules = update(task.workload, target, None, [], 8).schedules
    ours = [winograd_search.unpack(each) for _, each in schedules if winograd_search.is_ours(each)]
    assert {each.outputs for each in ours} == set(winograd.POINTS)


@pytest.mark.parametrize(("latencies", "after"), [((1e-3, 4e-3), (4, 0)), ((4e-3, 1e-3), (0, 4))])
def test_what_was_measured_before_decides(
    target: str, task: ExtractedTask, latencies: tuple[float, float], after: tuple[int, int]
) -> None:
    """In a later job, too, which gets the trials of this one and no search state."""
    first = update(task.workload, target, None, [], 8)
    assert ways(first.schedules) == (4, 4)
    known = trials(first.schedules, *latencies)
    for search in (first.search, None):
        later = update(task.workload, target, search, known, 4).schedules
        assert ways(later) == after
        assert not {name for name, _ in later} & {name for name, _ in first.schedules}


def test_tiles_that_were_wrong_are_tried_no_more(target: str, task: ExtractedTask) -> None:
    """With others of the same size the same would come out."""
    first = update(task.workload, target, None, [], 8)
    large, rest = list[Trial](), list[Trial]()
    for trial in trials(first.schedules, 1e-3, 4e-3):
        schedule = trial.candidate.schedule
        is_large = winograd_search.is_ours(schedule) and winograd_search.unpack(schedule).outputs == 6
        (large if is_large else rest).append(trial)
    wrong = [msgspec.structs.replace(each, outcome="wrong-result", latencies=[]) for each in large]
    assert wrong
    second = update(task.workload, target, first.search, rest + wrong, 40)
    third = update(task.workload, target, second.search, [], 40)
    ours = [each for _, each in second.schedules + third.schedules if winograd_search.is_ours(each)]
    assert {winograd_search.unpack(each).outputs for each in ours} == {2, 4}


def test_measured_settings_tell_of_their_like(task: ExtractedTask, target: str) -> None:
    """Where those with small tiles are twice as fast as they were expected to be, there are more of them."""
    module, settings = workloads.load(task.workload), settings_of(task, target)
    anchored = anchors.find(module["main"])
    assert anchored is not None
    first = [
        winograd_search.unpack(each) for _, each in winograd_search.propose(module, target, settings, [], 6)
    ]
    measured = [
        (
            winograd_search.estimate(anchored, each, 1) * (0.2 if each.outputs == 2 else 2.0),
            winograd_search.pack(each),
        )
        for each in first
    ]
    untried = {name: each for name, each in settings.items() if each not in first}
    after = [
        winograd_search.unpack(each)
        for _, each in winograd_search.propose(module, target, untried, measured, 6)
    ]
    assert sum(each.outputs == 2 for each in after) > sum(each.outputs == 2 for each in first)


def test_the_database_holds_no_schedules_that_metaschedule_does_not_know(
    target: str, task: ExtractedTask
) -> None:
    schedules = update(task.workload, target, None, [], 8).schedules
    ended = TaskTrials(workload=task.workload, trials=trials(schedules, 1e-3, 2e-3))
    files = ENGINE.export(ExportCall(target=target, tasks=[ended])).files
    assert len(files["database_tuning_record.json"].splitlines()) == 4
    assert len(files["database_workload.json"].splitlines()) == 1


# -- Wrong kernels -------------------------------------------------------------------------------------------


def off_by_a_little(matrix: Callable[[int], winograd.Matrix], outputs: Collection[int]) -> Any:
    """A matrix that is wrong in one place, for tiles of some sizes."""

    def changed(size: int) -> winograd.Matrix:
        rows = [list(row) for row in matrix(size)]
        if size in outputs:
            rows[0][0] += Fraction(1, 50)
        return rows

    return changed


@pytest.mark.parametrize("name", ["of_inputs", "of_weights", "of_products"])
def test_wrong_kernels_are_caught(
    target: str, task: ExtractedTask, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    knobs = diverse(settings_of(task, target))[1]
    monkeypatch.setattr(winograd, name, off_by_a_little(getattr(winograd, name), winograd.POINTS))
    became, error = outcome(task, target, knobs)
    assert became == "wrong-result"
    assert "the untuned kernel gives" in error


@pytest.mark.parametrize("said", [0, 10**9])
def test_packed_weights_have_a_size_that_makes_sense(
    target: str, task: ExtractedTask, monkeypatch: pytest.MonkeyPatch, said: int
) -> None:
    monkeypatch.setattr(
        winograd_kernels, "_elements", lambda _, elements=winograd_kernels._elements: elements(said)
    )
    became, error = outcome(task, target, diverse(settings_of(task, target))[0])
    assert became == "run-failed"
    assert f"{elements_name(1)} says {said:,}: the weight is packed into 1 to 147,456 elements" in error


def test_tiles_are_as_large_as_the_model_bears(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    proto = model((1, 32, 12, 12), 32).SerializeToString()
    monkeypatch.setattr(winograd, "of_products", off_by_a_little(winograd.of_products, [6]))
    imported = import_model(proto, target, MEASURED)
    assert [workloads.winograd_of(function_of(task)) for task in by_winograd(imported)] == [4]
    assert models.unpack(imported.model).notes == []


def test_a_model_that_does_not_bear_it_has_none(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    proto = model((1, 32, 12, 12), 32).SerializeToString()
    direct = import_model(proto, target, DIRECT)
    monkeypatch.setattr(winograd, "of_products", off_by_a_little(winograd.of_products, winograd.POINTS))
    imported = import_model(proto, target, MEASURED)
    assert [task.key for task in imported.tasks] == [task.key for task in direct.tasks]
    (note,) = models.unpack(imported.model).notes
    assert note.startswith(
        "convolutions are computed as they are defined, and not tried by Winograd's algorithm"
    )


# -- Models --------------------------------------------------------------------------------------------------


def test_convolutions_have_channels_last_without_winograd_too(target: str) -> None:
    proto = model((1, 64, 28, 28), 64)
    tasks, result = computed(proto, target, DIRECT)
    assert tasks == ["fused_conv2d_add_relu"]
    assert np.abs(result - expected(proto)).max() <= TOLERANCE * np.abs(result).max()


def test_as_given_leaves_everything(target: str) -> None:
    proto = model((1, 64, 28, 28), 64)
    tasks, result = computed(proto, target, AS_GIVEN)
    assert tasks == ["fused_conv2d_add_relu"]
    assert np.abs(result - expected(proto)).max() <= TOLERANCE * np.abs(result).max()


def test_a_model_of_both_kinds_is_put_together(target: str) -> None:
    """Two convolutions by Winograd's algorithm, of which one has its weights twice, and a direct one."""
    proto = case(
        "both",
        """(float[1,16,12,10] x) => (float[] y) {
            a = Conv <pads = [1, 1, 1, 1]> (x, U)
            b = Relu (a)
            c = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (b, V)
            d = Conv <pads = [1, 1, 1, 1]> (c, W)
            e = Relu (d)
            f = Conv <pads = [1, 1, 1, 1]> (e, W)
            y = Add (f, c)
        }""",
        U=weights(16, 16, 3, 3),
        V=weights(32, 16, 3, 3),
        W=weights(32, 32, 3, 3),
    ).make()
    imported = import_model(proto.SerializeToString(), target, {"weights": "packed-per-task"})
    assert len(by_winograd(imported)) == 3
    tasks = []
    for each in imported.tasks:
        if not workloads.weights_of(function_of(each)):
            continue
        schedules = update(each.workload, target, None, [], 1).schedules
        if settings := settings_of(each, target):
            knobs = diverse(settings)[1]
            schedules = [(winograd_search.hash_of(knobs), winograd_search.pack(knobs))]
        (trial,) = measure(each, target, schedules)
        assert trial.outcome == "measured", trial.error
        tasks.append(tuned_task(each, target, trial))
    assert len(tasks) == 4
    made = assemble(imported.model, target, tasks)
    validated = validate(made.tuned, made.untuned, made.signature, target, imported.sample)
    assert validated.wrong == ""
    assert validated.outputs[0].compared > 0
    result, reference = run(made.tuned, image_for(proto)), expected(proto)
    assert np.abs(result - reference).max() <= TOLERANCE * np.abs(reference).max()


@pytest.mark.parametrize("options", [MEASURED, AS_GIVEN])
def test_a_model_that_comes_with_channels_last_keeps_its_layout(target: str, options: Options) -> None:
    import tvm
    from tvm import relax

    random = np.random.default_rng(0)
    weights = random.normal(0, 0.1, (64, 64, 3, 3)).astype(np.float32)
    image = random.normal(0, 1, (1, 64, 20, 20)).astype(np.float32)
    x = relax.Var("x", relax.TensorType((1, 20, 20, 64), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            constant = relax.const(weights.transpose(2, 3, 1, 0))  # height, width, inputs, outputs
            convolved = relax.op.nn.conv2d(x, constant, padding=1, data_layout="NHWC", kernel_layout="HWIO")
            result = builder.emit_output(relax.op.nn.relu(convolved))
        builder.emit_func_output(result)
    given = str(tvm.ir.save_json(builder.get())).encode()
    imported = import_model(given, target, options)
    tasks = by_winograd(imported)
    assert len(tasks) == (options == MEASURED)
    knobs = [diverse(settings_of(task, target))[1] for task in tasks]
    measured = [
        (task, measure(task, target, [(winograd_search.hash_of(each), winograd_search.pack(each))])[0])
        for task, each in zip(tasks, knobs, strict=True)
    ]
    parts = [tuned_task(task, target, trial) for task, trial in measured]
    assembled = assemble(imported.model, target, parts)
    # There is no room for both: the model holds the weights as the kernel reads them.
    stored = weights.transpose(2, 3, 1, 0).tobytes()
    assert stored in assembled.untuned
    assert (stored in assembled.tuned) == (options == AS_GIVEN)
    got = run(assembled.tuned, np.ascontiguousarray(image.transpose(0, 2, 3, 1))).transpose(0, 3, 1, 2)
    reference = np.maximum(convolution(image, weights), 0)
    assert got.shape == reference.shape
    assert np.abs(got - reference).max() <= TOLERANCE * np.abs(reference).max()


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        (
            {"convolution": "measured"},
            "graph has no option 'convolution'; it has layout, convolutions, fusion",
        ),
        ({"convolutions": "fast"}, "bad option graph.convolutions=fast: Invalid enum value 'fast'"),
    ],
)
def test_a_bad_option_is_explained_in_one_line(target: str, options: Options, cause: str) -> None:
    with pytest.raises(BadInput) as caught:
        import_model(model((1, 64, 28, 28), 64).SerializeToString(), target, options)
    assert cause in str(caught.value)
    assert "\n" not in str(caught.value)
