"""The MetaSchedule engine by direct calls: real TVM, real kernels, one core, no broker."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest

from examples import make_models
from tunemesh.shared.errors import BadModel, BadTarget
from tunemesh.shared.messages import Candidate, Settings, Trial
from tunemesh.shared.text import ERROR_TEXT_LIMIT
from tunemesh.stage_workers.engines.metaschedule import (
    MetaScheduleEngine,
    building,
    candidates,
    cost_model,
    proposing,
    schedules,
    search_state,
)
from tunemesh.stage_workers.engines.protocol import (
    ExtractedTask,
    Imported,
    ProfileOutcome,
    Proposal,
    TaskTrials,
    latency,
)
from tunemesh.stage_workers.graph import workloads
from tunemesh.stage_workers.sandbox.sandbox import CallFailure, Sandbox

ROOT = Path(__file__).parents[2]
QUICK = Settings(repeats=2, min_repeat_ms=5, convolutions="as-given")
ENGINE = MetaScheduleEngine()


@pytest.fixture(scope="module")
def target() -> str:
    ENGINE.preload()
    return ENGINE.resolve_target("native")


@pytest.fixture(scope="module")
def cnn() -> bytes:
    return make_models.tiny_cnn().SerializeToString()


@pytest.fixture(scope="module")
def imported(cnn: bytes, target: str) -> Imported:
    return ENGINE.import_model(cnn, target, QUICK)


@pytest.fixture(scope="module")
def convolution(imported: Imported) -> ExtractedTask:
    return imported.tasks[1]


@pytest.fixture(scope="module")
def product(target: str) -> ExtractedTask:
    """A matrix product: the quickest workload whose search space is large."""
    return ENGINE.import_model(matrix_product().encode(), target, QUICK).tasks[0]


@pytest.fixture(scope="module")
def first_round(convolution: ExtractedTask, target: str) -> tuple[bytes, list[Trial]]:
    """Search state and trials of one measured round of the convolution."""
    proposal = ENGINE.update(convolution.workload, target, None, [], 6, seed=1, settings=QUICK)
    return proposal.search, measure(convolution, target, proposal.schedules)


def matrix_product(scale: float = 1.0, size: int = 64) -> str:
    """A TIR function in TVM's JSON."""
    import tvm
    from tvm import te

    a = te.placeholder((size, size), name="a")
    b = te.placeholder((size, size), name="b")
    k = te.reduce_axis((0, size), name="k")
    c = te.compute((size, size), lambda i, j: te.sum(a[i, k] * b[k, j] * scale, axis=k), name="c")
    return str(tvm.ir.save_json(te.create_prim_func([a, b, c])))


def measure(task: ExtractedTask, target: str, schedules: list[tuple[str, bytes]]) -> list[Trial]:
    trials = []
    for index, (key, schedule) in enumerate(schedules):
        built = ENGINE.build(task.workload, target, schedule)
        assert built.artifact is not None, built.error
        profiled = ENGINE.profile(task.workload, target, built.artifact, task.untuned, "cpu", QUICK, None)
        trials.append(
            Trial(
                candidate=Candidate(index, key, schedule),
                outcome=profiled.outcome,
                latencies=profiled.latencies,
                error=profiled.error,
            )
        )
    return trials


def pretend(schedules: list[tuple[str, bytes]], failures: float = 0.05) -> list[Trial]:
    """Trials with made-up latencies."""
    draw = random.Random(0)
    return [
        Trial(candidate=Candidate(i, *schedule), outcome="measured", latencies=[draw.lognormvariate(-7, 1)])
        if draw.random() > failures
        else Trial(candidate=Candidate(i, *schedule), outcome="build-failed", error="made up")
        for i, schedule in enumerate(schedules)
    ]


# -- Start-up and targets ----------------------------------------------------------------------------------


def in_fresh_process(code: str, hash_seed: int = 0) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": str(hash_seed)}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout


def test_naming_the_engine_does_not_import_tvm() -> None:
    code = "import sys, tunemesh.stage_workers.engines.metaschedule; print('tvm' in sys.modules)"
    assert in_fresh_process(code).strip() == "False"


def test_preload_leaves_one_thread_and_skips_the_tensor_intrinsics() -> None:
    code = """
import os, sys
from tunemesh.stage_workers.engines.metaschedule import MetaScheduleEngine
MetaScheduleEngine().preload()
print(len(os.listdir('/proc/self/task')), 'tvm.s_tir.tensor_intrin' in sys.modules, 'tvm' in sys.modules)
"""
    assert in_fresh_process(code).split() == ["1", "False", "True"]


@pytest.mark.parametrize(
    "given",
    ["native", "llvm", "nvidia/nvidia-h100", '{"kind": "cuda", "arch": "sm_80"}', "aws/cpu/c5.large"],
)
def test_resolving_a_target_is_idempotent(given: str) -> None:
    resolved = ENGINE.resolve_target(given)
    assert ENGINE.resolve_target(resolved) == resolved
    assert json.dumps(json.loads(resolved), sort_keys=True) == resolved


def test_what_a_target_says_of_llvm_goes_before_what_is_usual_here() -> None:
    from tunemesh.stage_workers.graph import targets

    said = {"kind": "llvm", "opt-level": 1, "cl-opt": ["-vectorize-slp:bool=false"]}
    usual = targets.load(ENGINE.resolve_target("native")).attrs
    given = targets.load(ENGINE.resolve_target(json.dumps(said))).attrs
    assert (int(usual["opt-level"]), list(usual["cl-opt"])) == (targets.LLVM_LEVEL, targets.LLVM_OPTIONS)
    assert (int(given["opt-level"]), list(given["cl-opt"])) == (1, said["cl-opt"])


def test_native_names_this_cpu_and_one_core(target: str) -> None:
    described = json.loads(target)
    assert described["kind"] == "llvm"
    assert described["mcpu"]
    assert described["num-cores"] == 1


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("cuda", "tag such as nvidia/nvidia-h100"),
        ("riscy", "not defined"),
        ("opencl", "only llvm and cuda"),
        ('{"kind": "llvm"', "not valid JSON"),
        ('{"mcpu": "znver4"}', 'lacks "kind"'),
        ('{"kind": "llvm", "mcpu": "znver400"}', "no CPU znver400"),
        ('{"kind": "llvm", "mpcu": "znver4"}', "mpcu"),
    ],
)
def test_a_bad_target_is_explained_in_one_line(given: str, hint: str) -> None:
    with pytest.raises(BadTarget) as caught:
        ENGINE.resolve_target(given)
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)


# -- Import ------------------------------------------------------------------------------------------------


def test_import_folds_batch_norms_and_fuses(imported: Imported) -> None:
    assert [task.name for task in imported.tasks] == [
        "fused_conv2d_add_relu",
        "fused_conv2d1_add1_relu1",
        "fused_conv2d2_add1_relu1",
        "mean",
        "reshape",
        "fused_matmul_add2",
    ]
    assert all(task.weight == 1 and len(task.key) == 64 for task in imported.tasks)


def test_batch_norms_fold_through_the_bias_of_a_convolution(target: str) -> None:
    net = make_models.Network("biased", seed=5)
    bias = net.weight(np.linspace(-1, 1, 8, dtype=np.float32))
    weight = net.normal((8, 3, 3, 3), fan_in=27)
    x = net.node("Conv", ["image", weight, bias], kernel_shape=[3, 3], pads=[1] * 4)
    net.classifier(net.node("Relu", [net.batch_norm(x, 8)]), 8, 4)
    model = net.model([1, 3, 8, 8], 4).SerializeToString()
    biased = ENGINE.import_model(model, target, QUICK)
    assert biased.tasks[0].name == "fused_conv2d_add_relu"
    assert_computes_the_same(model, ENGINE.assemble(biased.model, target, [], QUICK).untuned)


@pytest.mark.parametrize("shape", [(8,), (1, 1, 1, 8), (8, 1), (8, 1, 1), (1,), (1, 8, 8, 8), (8, 8)])
def test_what_is_added_before_a_batch_norm_is_no_bias_unless_it_is_one_per_channel(
    target: str, shape: tuple[int, ...]
) -> None:
    net = make_models.Network("added", seed=6)
    weight = net.normal((8, 3, 3, 3), fan_in=27)
    x = net.node("Conv", ["image", weight], kernel_shape=[3, 3], pads=[1] * 4)
    added = net.weight(np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape))
    x = net.batch_norm(net.node("Add", [x, added]), 8)
    net.classifier(net.node("Relu", [x]), 8, 4)
    model = net.model([1, 3, 8, 8], 4).SerializeToString()
    imported = ENGINE.import_model(model, target, QUICK)
    assert_computes_the_same(model, ENGINE.assemble(imported.model, target, [], QUICK).untuned)


def test_repeated_layers_are_one_task(target: str) -> None:
    mixer = make_models.tiny_mlp_mixer().SerializeToString()
    weights = {task.name: task.weight for task in ENGINE.import_model(mixer, target, QUICK).tasks}
    assert weights["fused_matmul_add_relu"] == 2
    assert weights["conv2d"] == 1


def test_equal_workloads_have_equal_keys_whatever_the_model(imported: Imported, target: str) -> None:
    renamed = make_models.tiny_cnn()
    renamed.graph.input[0].name = renamed.graph.node[0].input[0] = "other"
    again = ENGINE.import_model(renamed.SerializeToString(), target, QUICK)
    assert [task.key for task in again.tasks] == [task.key for task in imported.tasks]
    other = json.dumps({**json.loads(target), "num-cores": 2}, sort_keys=True)
    elsewhere = ENGINE.import_model(renamed.SerializeToString(), other, QUICK)
    assert elsewhere.tasks[0].key != imported.tasks[0].key


def dynamic_cnn() -> bytes:
    model = make_models.tiny_cnn()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    return model.SerializeToString()


def with_unknown_operator() -> bytes:
    model = make_models.tiny_cnn()
    model.graph.node[1].op_type = "FancyNorm"
    model.graph.node[1].domain = "acme"
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("model", "shapes", "hint"),
    [
        (b"hello, world", {}, "neither ONNX nor"),
        (b"", {}, "neither ONNX nor"),
        (make_models.tiny_cnn().SerializeToString()[:5000], {}, "truncated or damaged"),
        (with_unknown_operator(), {}, "FancyNorm"),
        (b'{"root_index": 3}', {}, "not a module of this TVM"),
        (dynamic_cnn(), {}, "--shape image=1,3,32,32"),
        (dynamic_cnn(), {"picture": [1, 3, 32, 32]}, "no input picture; its inputs are image"),
        (dynamic_cnn(), {"image": [1, 3, 32]}, "4 dimensions, not 3"),
        (dynamic_cnn(), {"image": [1, 3, 32, 64]}, "fixed size of 32 in axis 3, not 64"),
    ],
)
def test_a_bad_model_is_explained_in_one_line(
    model: bytes, shapes: dict[str, list[int]], hint: str, target: str
) -> None:
    with pytest.raises(BadModel) as caught:
        ENGINE.import_model(model, target, Settings(shapes=shapes))
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_given_shape_fixes_a_dynamic_model(imported: Imported, target: str) -> None:
    fixed = ENGINE.import_model(
        dynamic_cnn(), target, msgspec.structs.replace(QUICK, shapes={"image": [1, 3, 32, 32]})
    )
    assert [task.key for task in fixed.tasks] == [task.key for task in imported.tasks]


# -- Search ------------------------------------------------------------------------------------------------


def test_rounds_never_repeat_and_beat_the_untuned_kernel(
    convolution: ExtractedTask, first_round: tuple[bytes, list[Trial]], target: str
) -> None:
    search, trials = first_round
    assert [trial.outcome for trial in trials] == ["measured"] * 6
    second = ENGINE.update(convolution.workload, target, search, trials, 6, seed=1, settings=QUICK)
    hashes = {trial.candidate.hash for trial in trials}
    assert len(second.schedules) == 6
    assert hashes.isdisjoint(key for key, _ in second.schedules)
    untuned = ENGINE.profile_untuned(convolution.workload, target, convolution.untuned, "cpu", QUICK)
    best = min(statistics.median(trial.latencies) for trial in trials)
    assert best < statistics.median(untuned.latencies) / 5


def test_failed_trials_are_learned_and_not_proposed_again(product: ExtractedTask, target: str) -> None:
    first = ENGINE.update(product.workload, target, None, [], 8, seed=1, settings=QUICK)
    failed = pretend(first.schedules, failures=1.0)
    learned = ENGINE.update(product.workload, target, first.search, failed, 0, seed=1, settings=QUICK)
    assert learned.schedules == []
    second = ENGINE.update(product.workload, target, learned.search, [], 32, seed=1, settings=QUICK)
    assert len(second.schedules) == 32
    assert {key for key, _ in first.schedules}.isdisjoint(key for key, _ in second.schedules)


def test_candidates_whose_trials_come_late_are_learned_and_not_proposed_again(
    product: ExtractedTask, target: str
) -> None:
    first = ENGINE.update(product.workload, target, None, [], 8, seed=1, settings=QUICK)
    trials = pretend(first.schedules, failures=0.0)
    ahead = ENGINE.update(product.workload, target, first.search, trials[:3], 8, seed=1, settings=QUICK)
    third = ENGINE.update(product.workload, target, ahead.search, trials[3:], 8, seed=1, settings=QUICK)
    names = [name for each in (first, ahead, third) for name, _ in each.schedules]
    assert len(names) == len(set(names)) == 24
    state = search_state.decode(third.search)
    assert len(state.examples) == 8
    assert state.pending == {name for each in (ahead, third) for name, _ in each.schedules}


def test_a_closing_update_names_the_best_few(product: ExtractedTask, target: str) -> None:
    first = ENGINE.update(product.workload, target, None, [], 4, seed=1, settings=QUICK)
    latencies = [1.0e-3, 5.0e-3, 1.05e-3, 1.2e-3]
    trials = [
        msgspec.structs.replace(trial, latencies=[latency])
        for trial, latency in zip(pretend(first.schedules, failures=0.0), latencies, strict=True)
    ]
    closed = ENGINE.update(product.workload, target, first.search, trials, 0, seed=1, settings=QUICK)
    assert closed.schedules == [first.schedules[0], first.schedules[2]]


def test_what_was_measured_in_a_bad_moment_may_be_among_the_best_few(
    product: ExtractedTask, target: str
) -> None:
    first = ENGINE.update(product.workload, target, None, [], 3, seed=1, settings=QUICK)
    trials = [
        msgspec.structs.replace(trial, latencies=[latency], drift=drift)
        for trial, latency, drift in zip(
            pretend(first.schedules, failures=0.0), (1.0e-3, 1.3e-3, 1.3e-3), (0.0, 0.0, 0.25), strict=True
        )
    ]
    closed = ENGINE.update(product.workload, target, first.search, trials, 0, seed=1, settings=QUICK)
    assert closed.schedules == [first.schedules[0], first.schedules[2]]


def test_a_small_space_runs_out(imported: Imported, target: str) -> None:
    reshape = next(task for task in imported.tasks if task.name == "reshape")
    first = ENGINE.update(reshape.workload, target, None, [], 8, seed=1, settings=QUICK)
    assert 1 <= len(first.schedules) < 8
    trials = measure(reshape, target, first.schedules)
    assert (
        ENGINE.update(reshape.workload, target, first.search, trials, 8, seed=1, settings=QUICK).schedules
        == []
    )


PROPOSE = """
import hashlib, sys
from pathlib import Path
import msgspec
from tunemesh.shared.messages import (Settings, Trial)
from tunemesh.stage_workers.engines.metaschedule import MetaScheduleEngine
engine = MetaScheduleEngine()
engine.preload()
workload, search, trials = (Path(path).read_bytes() for path in PATHS)
trials = msgspec.msgpack.decode(trials, type=list[Trial])
proposal = engine.update(workload, TARGET, search, trials, 8, 1, Settings())
print(hashlib.sha256(msgspec.msgpack.encode(proposal)).hexdigest())
"""


def test_the_same_arguments_give_the_same_proposal_in_every_process(
    convolution: ExtractedTask, first_round: tuple[bytes, list[Trial]], target: str, tmp_path: Path
) -> None:
    import msgspec

    search, trials = first_round
    paths = [tmp_path / name for name in ("workload", "search", "trials")]
    for path, data in zip(paths, (convolution.workload, search, msgspec.msgpack.encode(trials)), strict=True):
        path.write_bytes(data)
    code = PROPOSE.replace("PATHS", repr([str(path) for path in paths])).replace("TARGET", repr(target))
    here = ENGINE.update(convolution.workload, target, search, trials, 8, seed=1, settings=QUICK)
    digest = hashlib.sha256(msgspec.msgpack.encode(here)).hexdigest()
    assert in_fresh_process(code, hash_seed=1).strip() == digest
    assert in_fresh_process(code, hash_seed=2).strip() == digest
    other = ENGINE.update(convolution.workload, target, search, trials, 8, seed=2, settings=QUICK)
    assert other.schedules != here.schedules


def test_a_process_without_memory_or_with_that_of_another_task_proposes_the_same(
    convolution: ExtractedTask, product: ExtractedTask, target: str
) -> None:
    def rounds(task: ExtractedTask, between: Callable[[list[Trial]], None]) -> list[Proposal]:
        proposals: list[Proposal] = []
        trials: list[Trial] = []
        for _ in range(4):
            search = proposals[-1].search if proposals else None
            proposals.append(ENGINE.update(task.workload, target, search, trials, 6, 1, QUICK))
            trials = pretend(proposals[-1].schedules, failures=0.2)
            between(trials)
        return proposals

    def nothing(trials: list[Trial]) -> None:
        pass

    def forget(trials: list[Trial]) -> None:
        candidates._kept.clear()

    def poison(trials: list[Trial]) -> None:
        """Every schedule is known, but as one of another task, and of another target."""
        [wrong] = candidates.recall(convolution.workload, target, [alien[0][1]])
        assert wrong is not None
        for trial in trials:
            candidates.keep(convolution.workload, target, trial.candidate.schedule, wrong)
            candidates.keep(product.workload, target + " ", trial.candidate.schedule, wrong)

    alien = ENGINE.update(convolution.workload, target, None, [], 1, 1, QUICK).schedules
    remembered = rounds(product, nothing)
    assert rounds(product, nothing) == remembered  # now everything is known
    assert rounds(product, forget) == remembered
    candidates._kept.clear()
    assert rounds(product, poison) == remembered


def test_the_first_candidates_are_chosen_by_what_is_known_of_other_kernels(
    product: ExtractedTask, target: str
) -> None:
    def typical(settings: Settings) -> float:
        proposed = ENGINE.update(product.workload, target, None, [], 32, 1, settings).schedules
        trials = measure(product, target, proposed)
        return statistics.median(latency(trial) for trial in trials)

    all_that_are_drawn = Settings(population=1, generations=0)
    assert typical(Settings(population=4)) < 0.7 * typical(all_that_are_drawn)


def test_what_is_measured_overrules_what_is_known_of_other_kernels(
    product: ExtractedTask, target: str
) -> None:
    proposed = ENGINE.update(product.workload, target, None, [], 64, 1, QUICK).schedules
    recalled = candidates.recall(product.workload, target, [schedule for _, schedule in proposed])
    features = [candidate.features for candidate in recalled if candidate is not None]
    usual = cost_model.Model(None, has_prior=True).predict(features)
    model = cost_model.fit(features, list(np.exp(usual)), has_prior=True)  # what looks fast is slow here
    assert model is not None
    assert np.corrcoef(model.predict(features), usual)[0, 1] < -0.5
    without = cost_model.fit(features, list(np.exp(usual)), has_prior=False)
    assert without is not None
    assert not np.allclose(model.predict(features), without.predict(features))


def test_what_was_proposed_need_not_be_replayed(
    product: ExtractedTask, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    replayed: list[bytes] = []

    def replay(workload: bytes, schedule: bytes) -> object:
        replayed.append(schedule)
        return original(workload, schedule)

    original = schedules.replay
    monkeypatch.setattr(schedules, "replay", replay)
    candidates._kept.clear()
    first = ENGINE.update(product.workload, target, None, [], 6, 1, QUICK)
    second = ENGINE.update(product.workload, target, first.search, pretend(first.schedules), 6, 1, QUICK)
    ENGINE.update(product.workload, target, second.search, pretend(second.schedules), 6, 1, QUICK)
    assert replayed == []
    candidates._kept.clear()
    ENGINE.update(product.workload, target, first.search, pretend(first.schedules), 6, 1, QUICK)
    assert sorted(replayed) == sorted(schedule for _, schedule in first.schedules)


def test_candidates_unroll_no_more_than_llvm_can_take(product: ExtractedTask, target: str) -> None:
    proposal = ENGINE.update(product.workload, target, None, [], 32, seed=1, settings=QUICK)
    steps = {
        inputs[1]
        for _, schedule in proposal.schedules
        for _, inputs, attributes, _ in schedules.unpack(schedule)[0]
        if attributes[:1] == ["pragma_auto_unroll_max_step"]
    }
    assert max(steps) == 256


def test_a_search_that_weighs_more_schedules_proposes_others(
    convolution: ExtractedTask, first_round: tuple[bytes, list[Trial]], target: str
) -> None:
    def propose(settings: Settings) -> list[tuple[str, bytes]]:
        search, trials = first_round
        return ENGINE.update(convolution.workload, target, search, trials, 8, 1, settings).schedules

    assert propose(Settings(population=2, generations=1)) == propose(Settings())
    assert propose(Settings(population=8)) != propose(Settings())
    assert propose(Settings(generations=4)) != propose(Settings())


def test_the_search_becomes_more_thorough_when_enough_is_known(product: ExtractedTask, target: str) -> None:
    few, enough = proposing.FEW_TRIALS - 1, proposing.FEW_TRIALS
    drawn = ENGINE.update(product.workload, target, None, [], enough, 1, QUICK)

    def propose(known: int, settings: Settings) -> list[tuple[str, bytes]]:
        trials = pretend(drawn.schedules[:known])
        return ENGINE.update(product.workload, target, drawn.search, trials, 8, 1, settings).schedules

    assert propose(few, Settings()) == propose(few, Settings(population=2, generations=1))
    assert propose(enough, Settings()) == propose(enough, Settings(population=4, generations=2))
    assert propose(enough, Settings()) != propose(enough, Settings(population=2, generations=1))


def test_the_state_of_a_thousand_trials_is_small(product: ExtractedTask, target: str) -> None:
    proposal = ENGINE.update(product.workload, target, None, [], 1000, seed=1, settings=QUICK)
    assert len({key for key, _ in proposal.schedules}) == 1000
    search = proposal.search
    for start in range(0, 1000, 250):
        trials = pretend(proposal.schedules[start : start + 250])
        search = ENGINE.update(product.workload, target, search, trials, 0, seed=1, settings=QUICK).search
    assert len(search) <= 256 * 1024
    after = ENGINE.update(product.workload, target, search, [], 8, seed=1, settings=QUICK)
    assert {key for key, _ in after.schedules}.isdisjoint(key for key, _ in proposal.schedules)


def test_a_state_belongs_to_one_workload(
    product: ExtractedTask, first_round: tuple[bytes, list[Trial]], target: str
) -> None:
    with pytest.raises(ValueError, match="search state is that of workload"):
        ENGINE.update(product.workload, target, first_round[0], [], 1, seed=1, settings=QUICK)


# -- Build and profile -------------------------------------------------------------------------------------


def test_what_is_left_to_llvm_names_passes_that_tvm_would_run(
    convolution: ExtractedTask, target: str
) -> None:
    import tvm
    from tvm.ir.instrument import pass_instrument

    @pass_instrument
    class Recorder:
        def __init__(self) -> None:
            self.ran: set[str] = set()

        def run_before_pass(self, _: object, info: object) -> None:
            self.ran.add(str(info.name))  # type: ignore[attr-defined]

    def ran(left_out: list[str]) -> set[str]:
        recorder = Recorder()
        with tvm.transform.PassContext(instruments=[recorder], disabled_pass=left_out):
            building.build_untuned(workloads.load(convolution.workload), target)
        return recorder.ran

    left_out = building.left_out(target)
    assert left_out
    assert ran([]) - ran(left_out) == set(left_out)


def test_a_schedule_that_does_not_fit_fails_to_build(
    product: ExtractedTask, first_round: tuple[bytes, list[Trial]], target: str
) -> None:
    built = ENGINE.build(product.workload, target, first_round[1][0].candidate.schedule)
    assert built.artifact is None
    assert built.outcome == "build-failed"
    assert 0 < len(built.error) <= ERROR_TEXT_LIMIT


def test_no_linker_is_one_clear_error(
    product: ExtractedTask, target: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    proposal = ENGINE.update(product.workload, target, None, [], 1, seed=1, settings=QUICK)
    monkeypatch.setenv("PATH", str(tmp_path))
    built = ENGINE.build(product.workload, target, proposal.schedules[0][1])
    assert built.outcome == "build-failed"
    assert "install binutils" in built.error


def test_a_kernel_that_computes_something_else_is_found_out(product: ExtractedTask, target: str) -> None:
    doubled = ENGINE.import_model(matrix_product(scale=2.0).encode(), target, QUICK).tasks[0]
    profiled = ENGINE.profile(product.workload, target, doubled.untuned, product.untuned, "cpu", QUICK, None)
    assert profiled.outcome == "wrong-result"
    assert "differs from the untuned workload's by up to" in profiled.error
    assert profiled.latencies == []


def test_a_kernel_that_writes_nothing_is_found_out(product: ExtractedTask, target: str) -> None:
    import tvm
    from tvm import te

    from tunemesh.stage_workers.engines.metaschedule import building

    a, b = (te.placeholder((64, 64), name=name) for name in "ab")
    c = te.compute((64, 64), lambda i, j: a[i, j], name="c")
    # Takes the same tensors, but writes its first.
    lazy = te.create_prim_func([c, b, a]).with_attr("global_symbol", "main")
    artifact = building.compile_and_link(tvm.IRModule({"main": lazy}), target)
    profiled = ENGINE.profile(product.workload, target, artifact, product.untuned, "cpu", QUICK, None)
    assert profiled.outcome == "wrong-result"
    assert "inf" in profiled.error


def test_inputs_that_a_kernel_has_written_over_are_made_again(product: ExtractedTask, target: str) -> None:
    from tunemesh.stage_workers.measuring import kernels as kernels

    args = (product.workload, target, product.untuned, product.untuned, "cpu", QUICK)
    assert ENGINE.profile(*args, None).outcome == "measured"
    for tensors in kernels._inputs.values():
        for tensor in tensors:
            tensor.copyfrom(tensor.numpy() * 0)
    assert ENGINE.profile(*args, None).outcome == "measured"


@pytest.mark.parametrize(("best", "cut_short"), [(1e-9, True), (10.0, False), (None, False)])
def test_a_kernel_much_slower_than_the_best_is_cut_short(
    product: ExtractedTask, target: str, best: float | None, cut_short: bool
) -> None:
    settings = msgspec.structs.replace(QUICK, repeats=3)
    args = (product.workload, target, product.untuned, product.untuned, "cpu", settings)
    profiled = ENGINE.profile(*args, best)
    assert profiled.outcome == "measured"
    assert profiled.cut_short == cut_short
    # Two are enough where they agree.
    assert len(profiled.latencies) in ((1,) if cut_short else (2, 3))
    # What is known of it is not far from the truth.
    whole = statistics.median(ENGINE.profile(*args, None).latencies)
    assert whole / 3 < statistics.median(profiled.latencies) < whole * 3


@pytest.mark.parametrize(("cut_short", "ended"), [(1.0, True), (None, False)])
def test_a_run_that_takes_for_ever_is_ended_with_its_process(
    target: str, cut_short: float | None, ended: bool
) -> None:
    large = ENGINE.import_model(matrix_product(size=512).encode(), target, QUICK).tasks[0]
    settings = msgspec.structs.replace(QUICK, repeats=1, cut_short=cut_short)
    args = (large.workload, target, large.untuned, large.untuned, "cpu", settings, 1e-6)
    with Sandbox(("metaschedule",), memory=4 * 2**30) as sandbox:
        answer = sandbox.call("metaschedule", "profile", args, ProfileOutcome, 60.0)
        if ended:
            assert isinstance(answer, CallFailure)
            assert answer.kind == "timed-out"
        else:
            assert isinstance(answer, ProfileOutcome)
            assert answer.outcome == "measured"


def test_a_kernel_that_raises_is_a_failed_run(
    product: ExtractedTask, convolution: ExtractedTask, target: str
) -> None:
    profiled = ENGINE.profile(
        product.workload, target, convolution.untuned, product.untuned, "cpu", QUICK, None
    )
    assert profiled.outcome == "run-failed"
    assert 0 < len(profiled.error) <= ERROR_TEXT_LIMIT


def test_candidates_that_take_turns_are_checked_and_timed(product: ExtractedTask, target: str) -> None:
    schedules = ENGINE.update(product.workload, target, None, [], 2, seed=1, settings=QUICK).schedules
    programs = [ENGINE.build(product.workload, target, schedule).artifact for _, schedule in schedules]
    import tvm

    wrong = building.build_untuned(tvm.IRModule({"main": tvm.ir.load_json(matrix_product(2.0))}), target)
    artifacts = [programs[0] or b"", wrong, programs[1] or b""]
    first, bad, last = ENGINE.confirm(product.workload, target, artifacts, product.untuned, "cpu", QUICK)
    assert bad.outcome == "wrong-result"
    for outcome in (first, last):
        assert outcome.outcome == "measured"
        assert len(outcome.latencies) == 2 * QUICK.repeats


def test_the_reference_kernel_is_steady(target: str) -> None:
    levels = [statistics.fmean(ENGINE.reference(target, "cpu")) for _ in range(10)]
    assert len(ENGINE.reference(target, "cpu")) == 5
    assert statistics.median(levels) < 2 * min(levels)


@pytest.mark.gpu
@pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="no NVIDIA GPU on this machine")
def test_a_gpu_profiles_confirms_and_has_a_reference() -> None:
    cuda = ENGINE.resolve_target("nvidia/nvidia-h100")
    task = ENGINE.import_model(matrix_product(size=256).encode(), cuda, QUICK).tasks[0]
    schedules = ENGINE.update(task.workload, cuda, None, [], 2, seed=1, settings=QUICK).schedules
    programs = [ENGINE.build(task.workload, cuda, schedule).artifact or b"" for _, schedule in schedules]
    alone = ENGINE.profile(task.workload, cuda, programs[0], task.untuned, "cuda:0", QUICK, None)
    assert alone.outcome == "measured", alone.error
    together = ENGINE.confirm(task.workload, cuda, programs, task.untuned, "cuda:0", QUICK)
    assert [each.outcome for each in together] == ["measured"] * 2
    assert min(ENGINE.reference(cuda, "cuda:0")) > 0


def test_a_kernel_with_cold_caches_takes_longer(target: str) -> None:
    """A sum of two tensors of 1 MB each, which the second-level cache would hold."""
    import tvm
    from tvm import te

    a, b = (te.placeholder((2**18,), name=name) for name in "ab")
    c = te.compute(a.shape, lambda i: a[i] + b[i], name="c")
    text = str(tvm.ir.save_json(te.create_prim_func([a, b, c])))
    task = ENGINE.import_model(text.encode(), target, QUICK).tasks[0]

    def latency(flush: bool) -> float:
        settings = Settings(repeats=5, min_repeat_ms=20, cut_short=None, cache_flush=flush)
        outcome = ENGINE.profile(task.workload, target, task.untuned, task.untuned, "cpu", settings, None)
        assert outcome.outcome == "measured", outcome.error
        assert len(outcome.latencies) == 5
        return min(outcome.latencies)

    assert latency(True) > 1.2 * latency(False)


def test_import_counts_the_constants_of_the_model(target: str) -> None:
    weights = sum(np.prod(tensor.dims) for tensor in make_models.tiny_cnn().graph.initializer)
    given = ENGINE.import_model(make_models.tiny_cnn().SerializeToString(), target, QUICK)
    assert 0.9 * 4 * weights < given.constants <= 4 * weights


def test_what_has_run_is_unloaded(imported: Imported, product: ExtractedTask, target: str) -> None:
    """A process may map 65,530 areas, and a shared object takes six."""

    def loaded() -> int:
        gc.collect()
        return Path("/proc/self/maps").read_text().count("/tunemesh-run-")

    before = loaded()
    proposal = ENGINE.update(product.workload, target, None, [], 3, seed=1, settings=QUICK)
    measure(product, target, proposal.schedules)
    model = ENGINE.assemble(imported.model, target, [], QUICK)
    ENGINE.validate(model.tuned, model.untuned, model.signature, target, "cpu", 0, QUICK)
    assert loaded() == before


def test_profiling_repeats_as_asked(product: ExtractedTask, target: str) -> None:
    for settings in (
        Settings(repeats=4, min_repeat_ms=2, cut_short=None),
        Settings(repeats=4, cache_flush=True, cut_short=None),
    ):
        profiled = ENGINE.profile(
            product.workload, target, product.untuned, product.untuned, "cpu", settings, None
        )
        assert profiled.outcome == "measured"
        assert len(profiled.latencies) == 4
        assert all(latency > 0 for latency in profiled.latencies)


# -- The finished model ------------------------------------------------------------------------------------


def assert_computes_the_same(model: bytes, compiled: bytes) -> None:
    """Against ONNX Runtime, the independent judge."""
    import tvm

    from tunemesh.stage_workers.measuring import loading

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (value,) = session.get_inputs()
    image = np.random.default_rng(7).standard_normal(value.shape).astype(np.float32)
    expected = session.run(None, {value.name: image})[0]
    machine = tvm.relax.VirtualMachine(loading.load(compiled), tvm.cpu())
    got = machine["main"](tvm.runtime.tensor(image)).numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_the_tuned_model_computes_what_it_computed_before(
    cnn: bytes,
    imported: Imported,
    convolution: ExtractedTask,
    first_round: tuple[bytes, list[Trial]],
    target: str,
    tmp_path: Path,
) -> None:
    from tvm.s_tir import meta_schedule

    _, trials = first_round
    failed = Trial(candidate=trials[0].candidate, outcome="run-timed-out")
    tasks = [
        TaskTrials(workload=task.workload, trials=[*trials, failed] if task == convolution else [])
        for task in imported.tasks
    ]
    assembled = ENGINE.assemble(imported.model, target, tasks, QUICK)

    assert json.loads(assembled.signature) == {
        "inputs": [{"name": "image", "shape": [1, 3, 32, 32], "dtype": "float32"}],
        "outputs": [{"name": "logits", "shape": [1, 10], "dtype": "float32"}],
    }
    assert_computes_the_same(cnn, assembled.untuned)
    assert_computes_the_same(cnn, assembled.tuned)

    validated = ENGINE.validate(
        assembled.tuned, assembled.untuned, assembled.signature, target, "cpu", 3, QUICK
    )
    assert validated.equal
    assert validated.largest_difference < 1e-5
    assert min(validated.after) > 0
    assert statistics.median(validated.after) < statistics.median(validated.before)
    assert 0 <= validated.waited < 1

    for name, data in assembled.files.items():
        (tmp_path / name).write_bytes(data)
    database = meta_schedule.database.JSONDatabase(*(str(tmp_path / name) for name in assembled.files))
    records = database.get_all_tuning_records()
    assert len(records) == len(trials)
    assert sorted(float(record.run_secs[0]) for record in records) == pytest.approx(
        sorted(trial.latencies[0] for trial in trials)
    )


def test_models_that_differ_are_told_apart(imported: Imported, target: str) -> None:
    changed = make_models.tiny_cnn()
    bias = next(w for w in changed.graph.initializer if w.name == changed.graph.node[-1].input[2])
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(10, 0.5, np.float32), bias.name))
    other = ENGINE.import_model(changed.SerializeToString(), target, QUICK)
    one, two = (ENGINE.assemble(model.model, target, [], QUICK) for model in (imported, other))
    validated = ENGINE.validate(two.untuned, one.untuned, one.signature, target, "cpu", 3, QUICK)
    assert not validated.equal
    assert validated.largest_difference == pytest.approx(0.5, abs=1e-4)


def test_a_tir_function_is_a_model_of_one_task(target: str) -> None:
    single = ENGINE.import_model(matrix_product().encode(), target, QUICK)
    assert [task.weight for task in single.tasks] == [1]
    proposal = ENGINE.update(single.tasks[0].workload, target, None, [], 2, seed=1, settings=QUICK)
    trials = measure(single.tasks[0], target, proposal.schedules)
    assembled = ENGINE.assemble(
        single.model, target, [TaskTrials(workload=single.tasks[0].workload, trials=trials)], QUICK
    )
    assert [tensor["name"] for tensor in json.loads(assembled.signature)["inputs"]] == ["a", "b"]
    validated = ENGINE.validate(
        assembled.tuned, assembled.untuned, assembled.signature, target, "cpu", 3, QUICK
    )
    assert validated.equal


def symbolic_relax() -> bytes:
    import tvm
    from tvm import relax

    batch = tvm.tirx.Var("n", "int64")
    x = relax.Var("x", relax.TensorType((batch, 16), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            weight = relax.const(np.eye(16, dtype=np.float32))
            result = builder.emit_output(relax.op.matmul(x, weight))
        builder.emit_func_output(result)
    return str(tvm.ir.save_json(builder.get())).encode()


def test_a_relax_module_is_imported_and_its_shapes_fixed(target: str) -> None:
    model = symbolic_relax()
    with pytest.raises(BadModel, match="--shape x=1,16"):
        ENGINE.import_model(model, target, QUICK)
    fixed = ENGINE.import_model(model, target, Settings(shapes={"x": [4, 16]}))
    assembled = ENGINE.assemble(fixed.model, target, [], QUICK)
    assert json.loads(assembled.signature)["outputs"][0]["shape"] == [4, 16]


# -- CUDA --------------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc to compile for a GPU")
def test_a_cuda_model_is_tuned_and_assembled_without_a_gpu() -> None:
    target = ENGINE.resolve_target("nvidia/nvidia-h100")
    imported = ENGINE.import_model(matrix_product().encode(), target, QUICK)
    (task,) = imported.tasks
    proposal = ENGINE.update(task.workload, target, None, [], 2, seed=1, settings=QUICK)
    built = [ENGINE.build(task.workload, target, schedule) for _, schedule in proposal.schedules]
    assert [outcome.error for outcome in built] == ["", ""]
    trials = pretend(proposal.schedules, failures=0.0)
    second = ENGINE.update(task.workload, target, proposal.search, trials, 2, seed=1, settings=QUICK)
    assert len(second.schedules) == 2
    assembled = ENGINE.assemble(
        imported.model, target, [TaskTrials(workload=task.workload, trials=trials)], QUICK
    )
    assert assembled.tuned != assembled.untuned
