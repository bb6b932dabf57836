"""The MetaSchedule engine by direct calls: real TVM, one core, no broker."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import msgspec
import pytest

from tests import onnx_models
from tests.acceptance.direct import (
    ENGINE,
    assemble,
    build,
    confirm,
    import_model,
    matrix_product,
    measure,
    profile,
    profile_untuned,
    reference,
    resolve_target,
    tuned_task,
    update,
)
from tunemesh.shared.errors import BadInput
from tunemesh.shared.messages import Candidate, Options, Region, Trial
from tunemesh.shared.text import ERROR_TEXT_LIMIT
from tunemesh.stage_workers.engines.metaschedule import (
    candidates,
    contexts,
    proposing,
    schedules,
    search_state,
    sketches,
)
from tunemesh.stage_workers.engines.protocol import (
    ExportCall,
    PlacedCall,
    Proposal,
    TaskRef,
    TaskTrials,
    UpdateCall,
)
from tunemesh.stage_workers.platforms.protocol import ExtractedTask, Imported

ROOT = Path(__file__).parents[2]


def pretend(schedules: list[tuple[str, bytes]], failures: float = 0.05) -> list[Trial]:
    """Trials with made-up latencies."""
    draw = random.Random(0)
    return [
        Trial(candidate=Candidate(i, *schedule), outcome="measured", latencies=[draw.lognormvariate(-7, 1)])
        if draw.random() > failures
        else Trial(candidate=Candidate(i, *schedule), outcome="build-failed", error="made up")
        for i, schedule in enumerate(schedules)
    ]


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


def test_rounds_never_repeat_and_beat_the_untuned_kernel(
    convolution: ExtractedTask, first_round: tuple[bytes, list[Trial]], target: str
) -> None:
    search, trials = first_round
    assert [trial.outcome for trial in trials] == ["measured"] * 6
    second = update(convolution.workload, target, search, trials, 6)
    hashes = {trial.candidate.hash for trial in trials}
    assert len(second.schedules) == 6
    assert hashes.isdisjoint(key for key, _ in second.schedules)
    untuned = profile_untuned(convolution, target)
    best = min(statistics.median(trial.latencies) for trial in trials)
    assert best < statistics.median(untuned.latencies) / 5


def test_failed_trials_are_learned_and_not_proposed_again(product: ExtractedTask, target: str) -> None:
    first = update(product.workload, target, None, [], 8)
    failed = pretend(first.schedules, failures=1.0)
    learned = update(product.workload, target, first.search, failed, 0)
    assert learned.schedules == []
    second = update(product.workload, target, learned.search, [], 32)
    assert len(second.schedules) == 32
    assert {key for key, _ in first.schedules}.isdisjoint(key for key, _ in second.schedules)


def test_candidates_whose_trials_come_late_are_learned_and_not_proposed_again(
    product: ExtractedTask, target: str
) -> None:
    first = update(product.workload, target, None, [], 8)
    trials = pretend(first.schedules, failures=0.0)
    ahead = update(product.workload, target, first.search, trials[:3], 8)
    third = update(product.workload, target, ahead.search, trials[3:], 8)
    names = [name for each in (first, ahead, third) for name, _ in each.schedules]
    assert len(names) == len(set(names)) == 24
    state = search_state.decode(third.search)
    assert len(state.examples) == 8
    assert state.pending == {name for each in (ahead, third) for name, _ in each.schedules}


def test_searches_of_different_regions_never_propose_the_same(product: ExtractedTask, target: str) -> None:
    names: list[str] = []
    for number in range(2):
        region = Region(number, 2)
        call = UpdateCall(workload=product.workload, target=target, want=6, seed=1, region=region)
        for _ in range(2):
            proposal = ENGINE.update(call)
            assert len(proposal.schedules) == 6
            names += [name for name, _ in proposal.schedules]
            schedules = [schedule for _, schedule in proposal.schedules]
            asked = PlacedCall(workload=product.workload, target=target, schedules=schedules, regions=2)
            assert ENGINE.placed(asked).numbers == [number] * 6
            call = msgspec.structs.replace(
                call, search=proposal.search, trials=pretend(proposal.schedules, failures=0.0)
            )
    assert len(set(names)) == len(names) == 24


def test_an_error_of_the_search_is_not_the_end_of_the_space(
    product: ExtractedTask, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> object:
        raise RuntimeError("InternalError: the search fell over")

    monkeypatch.setattr(contexts, "make", fail)
    with pytest.raises(RuntimeError, match="the search fell over"):
        update(product.workload, target, None, [], 8)


def test_it_takes_what_it_has_a_search_space_for(
    imported: Imported, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def objection(task: ExtractedTask, target: str) -> str:
        return ENGINE.objection(TaskRef(workload=task.workload, target=target, name=task.name, key=task.key))

    assert not any(objection(task, target) for task in imported.tasks)
    assert objection(imported.tasks[0], "mock") == "MetaSchedule does not tune for mock"

    class Context:
        def generate_design_space(self) -> list[object]:
            raise RuntimeError("InternalError: no block matches")

    monkeypatch.setattr(contexts, "make", lambda *_: Context())
    assert objection(imported.tasks[0], target) == (
        "MetaSchedule has no search space for it: InternalError: no block matches"
    )


def test_a_small_space_runs_out(target: str) -> None:
    turned = onnx_models.model(
        [onnx_models.node("Transpose", ["x"], ["y"])], [onnx_models.value("x", shape=(4, 6))]
    )
    (task,) = import_model(turned.SerializeToString(), target).tasks
    first = update(task.workload, target, None, [], 8)
    assert 1 <= len(first.schedules) < 8
    trials = measure(task, target, first.schedules)
    assert update(task.workload, target, first.search, trials, 8).schedules == []


PROPOSE = """
import hashlib, sys
from pathlib import Path
import msgspec
from tunemesh.shared.messages import Trial
from tunemesh.stage_workers import engines
from tunemesh.stage_workers.engines.protocol import UpdateCall
engine = engines.load("metaschedule")
engine.preload()
workload, search, trials = (Path(path).read_bytes() for path in PATHS)
trials = msgspec.msgpack.decode(trials, type=list[Trial])
call = UpdateCall(workload=workload, target=TARGET, search=search, trials=trials, want=8, seed=1)
proposal = engine.update(call)
print(hashlib.sha256(msgspec.msgpack.encode(proposal)).hexdigest())
"""


def test_the_same_arguments_give_the_same_proposal_in_every_process(
    convolution: ExtractedTask, first_round: tuple[bytes, list[Trial]], target: str, tmp_path: Path
) -> None:
    search, trials = first_round
    paths = [tmp_path / name for name in ("workload", "search", "trials")]
    for path, data in zip(paths, (convolution.workload, search, msgspec.msgpack.encode(trials)), strict=True):
        path.write_bytes(data)
    code = PROPOSE.replace("PATHS", repr([str(path) for path in paths])).replace("TARGET", repr(target))
    here = update(convolution.workload, target, search, trials, 8)
    digest = hashlib.sha256(msgspec.msgpack.encode(here)).hexdigest()
    assert in_fresh_process(code, hash_seed=1).strip() == digest
    assert in_fresh_process(code, hash_seed=2).strip() == digest
    other = update(convolution.workload, target, search, trials, 8, seed=2)
    assert other.schedules != here.schedules


def test_a_process_without_memory_or_with_that_of_another_task_proposes_the_same(
    convolution: ExtractedTask, product: ExtractedTask, target: str
) -> None:
    def rounds(task: ExtractedTask, between: Callable[[list[Trial]], None]) -> list[Proposal]:
        proposals: list[Proposal] = []
        trials: list[Trial] = []
        for _ in range(4):
            search = proposals[-1].search if proposals else None
            proposals.append(update(task.workload, target, search, trials, 6))
            trials = pretend(proposals[-1].schedules, failures=0.2)
            between(trials)
        return proposals

    def nothing(trials: list[Trial]) -> None:
        pass

    def forget(trials: list[Trial]) -> None:
        candidates.forget()

    def poison(trials: list[Trial]) -> None:
        """Every schedule is known, but as one of another task, and of another target."""
        [wrong] = candidates.recall(convolution.workload, target, [alien[0][1]])
        assert wrong is not None
        for trial in trials:
            candidates.keep(convolution.workload, target, trial.candidate.schedule, wrong)
            candidates.keep(product.workload, target + " ", trial.candidate.schedule, wrong)

    alien = update(convolution.workload, target, None, [], 1).schedules
    remembered = rounds(product, nothing)
    assert rounds(product, nothing) == remembered  # now everything is known
    assert rounds(product, forget) == remembered
    candidates.forget()
    assert rounds(product, poison) == remembered


def test_what_was_proposed_need_not_be_replayed(
    product: ExtractedTask, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    replayed: list[bytes] = []

    def replay(workload: bytes, target: str, schedule: bytes) -> object:
        replayed.append(schedule)
        return original(workload, target, schedule)

    original = schedules.replay
    monkeypatch.setattr(schedules, "replay", replay)
    candidates.forget()
    first = update(product.workload, target, None, [], 6)
    second = update(product.workload, target, first.search, pretend(first.schedules), 6)
    update(product.workload, target, second.search, pretend(second.schedules), 6)
    assert replayed == []
    candidates.forget()
    update(product.workload, target, first.search, pretend(first.schedules), 6)
    assert sorted(replayed) == sorted(schedule for _, schedule in first.schedules)


def test_candidates_unroll_no_more_than_llvm_can_take(product: ExtractedTask, target: str) -> None:
    proposal = update(product.workload, target, None, [], 32)
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
    def propose(options: Options) -> list[tuple[str, bytes]]:
        search, trials = first_round
        return update(convolution.workload, target, search, trials, 8, options=options).schedules

    assert propose({"population": 2, "generations": 1}) == propose({})
    assert propose({"population": 8}) != propose({})
    assert propose({"generations": 4}) != propose({})


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"convolutions": "direct"}, "metaschedule has no option 'convolutions'; it has population, gen"),
        ({"population": 65}, "bad option metaschedule.population=65: Expected `int` <= 64"),
        ({"generations": "many"}, "bad option metaschedule.generations=many: Expected `int"),
    ],
)
def test_a_bad_option_is_explained_in_one_line(options: Options, cause: str) -> None:
    ENGINE.check_options({"population": "4", "generations": 0})
    with pytest.raises(BadInput) as caught:
        ENGINE.check_options(options)
    assert cause in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_search_becomes_more_thorough_when_enough_is_known(product: ExtractedTask, target: str) -> None:
    few, enough = proposing.FEW_TRIALS - 1, proposing.FEW_TRIALS
    drawn = update(product.workload, target, None, [], enough)

    def propose(known: int, options: Options) -> list[tuple[str, bytes]]:
        trials = pretend(drawn.schedules[:known])
        return update(product.workload, target, drawn.search, trials, 8, options=options).schedules

    little, more = {"population": 2, "generations": 1}, {"population": 4, "generations": 2}
    assert propose(few, {}) == propose(few, little)
    assert propose(enough, {}) == propose(enough, more)
    assert propose(enough, {}) != propose(enough, little)


def test_the_state_of_a_search_takes_at_most_a_quarter_of_a_kilobyte_for_each_trial(
    product: ExtractedTask, target: str
) -> None:
    proposal = update(product.workload, target, None, [], 120)
    assert len({key for key, _ in proposal.schedules}) == 120
    search = proposal.search
    for start in range(0, 120, 40):
        trials = pretend(proposal.schedules[start : start + 40])
        search = update(product.workload, target, search, trials, 0).search
    assert len(search) <= 120 * 256
    after = update(product.workload, target, search, [], 8)
    assert {key for key, _ in after.schedules}.isdisjoint(key for key, _ in proposal.schedules)


def test_a_state_belongs_to_one_workload(
    product: ExtractedTask, first_round: tuple[bytes, list[Trial]], target: str
) -> None:
    with pytest.raises(ValueError, match="search state is that of workload"):
        update(product.workload, target, first_round[0], [], 1)


def test_a_schedule_that_does_not_fit_fails_to_build(
    product: ExtractedTask, first_round: tuple[bytes, list[Trial]], target: str
) -> None:
    built = build(product.workload, target, first_round[1][0].candidate.schedule)
    assert built.artifact is None
    assert built.outcome == "build-failed"
    assert 0 < len(built.error) <= ERROR_TEXT_LIMIT


def test_no_linker_is_one_clear_error(
    product: ExtractedTask, target: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    proposal = update(product.workload, target, None, [], 1)
    monkeypatch.setenv("PATH", str(tmp_path))
    built = build(product.workload, target, proposal.schedules[0][1])
    assert built.outcome == "build-failed"
    assert "install binutils" in built.error


@pytest.mark.gpu
@pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="no NVIDIA GPU on this machine")
def test_a_gpu_profiles_confirms_and_has_a_reference() -> None:
    cuda = resolve_target("nvidia/nvidia-h100")
    task = import_model(matrix_product(size=256), cuda).tasks[0]
    schedules = update(task.workload, cuda, None, [], 2).schedules
    programs = [build(task.workload, cuda, schedule).artifact or b"" for _, schedule in schedules]
    alone = profile(task, cuda, programs[0], device="cuda:0")
    assert alone.outcome == "measured", alone.error
    together = confirm(task, cuda, programs, "cuda:0")
    assert [each.outcome for each in together] == ["measured"] * 2
    assert min(reference(cuda, "cuda:0")) > 0


def test_most_schedules_that_are_drawn_for_a_gpu_can_be_run(
    cnn: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MetaSchedule's own draws: 1 of 20."""
    target = resolve_target("nvidia/nvidia-h100")
    task = import_model(cnn, target).tasks[1]
    assert "conv2d" in task.name
    made = Mock(side_effect=sketches.made)
    monkeypatch.setattr(sketches, "made", made)
    assert len(update(task.workload, target, None, [], 4).schedules) == 4
    assert made.call_count <= 20


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc to compile for a GPU")
def test_a_cuda_model_is_tuned_and_assembled_without_a_gpu() -> None:
    target = resolve_target("nvidia/nvidia-h100")
    imported = import_model(matrix_product(), target)
    (task,) = imported.tasks
    proposal = update(task.workload, target, None, [], 2)
    built = [build(task.workload, target, schedule) for _, schedule in proposal.schedules]
    assert [outcome.error for outcome in built] == ["", ""]
    trials = pretend(proposal.schedules, failures=0.0)
    second = update(task.workload, target, proposal.search, trials, 2)
    assert len(second.schedules) == 2
    best = next(trial for trial in trials if trial.outcome == "measured")
    assembled = assemble(imported.model, target, [tuned_task(task, target, best)])
    assert assembled.tuned != assembled.untuned


def test_what_was_measured_is_exported_in_the_format_of_others(
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
    exported = ENGINE.export(ExportCall(target=target, tasks=tasks))
    for name, data in exported.files.items():
        (tmp_path / name).write_bytes(data)
    database = meta_schedule.database.JSONDatabase(*(str(tmp_path / name) for name in exported.files))
    records = database.get_all_tuning_records()
    assert len(records) == len(trials)
    assert sorted(float(record.run_secs[0]) for record in records) == pytest.approx(
        sorted(trial.latencies[0] for trial in trials)
    )
