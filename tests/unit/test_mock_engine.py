"""The mock engine and its platform, called directly: what can be called without dying."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunemesh.shared.errors import BadInput, BadModel
from tunemesh.shared.messages import Candidate, Region, Settings, Trial
from tunemesh.stage_workers import platforms
from tunemesh.stage_workers.engines.mock import MockEngine
from tunemesh.stage_workers.engines.protocol import (
    BuildCall,
    BuildOutcome,
    ExportCall,
    ObjectPart,
    PlacedCall,
    Proposal,
    TaskRef,
    TaskTrials,
    UpdateCall,
)
from tunemesh.stage_workers.platforms.mock_platform import MockPlatform
from tunemesh.stage_workers.platforms.protocol import (
    AssembleCall,
    ExtractedTask,
    ImportCall,
    Imported,
    ProfileCall,
    ProfileOutcome,
    TargetCall,
    TunedTask,
    UntunedCall,
    ValidateCall,
    Validated,
)

SETTINGS = Settings()
ENGINE = MockEngine()
PLATFORM = MockPlatform()


def imported(text: str, target: str = "mock") -> Imported:
    return PLATFORM.import_model(ImportCall(model=text.encode(), target=target))


def only_task(fields: str, target: str = "mock") -> ExtractedTask:
    return imported(f"tasks:\n- {{name: a, {fields}}}\n", target).tasks[0]


def trial(index: int, name: str, schedule: bytes, latency: float = 1e-3) -> Trial:
    return Trial(candidate=Candidate(index, name, schedule), outcome="measured", latencies=[latency])


def update(workload: bytes, search: bytes | None, trials: list[Trial], want: int, seed: int = 0) -> Proposal:
    return ENGINE.update(
        UpdateCall(workload=workload, target="mock", search=search, trials=trials, want=want, seed=seed)
    )


def build(workload: bytes, schedule: bytes) -> BuildOutcome:
    return ENGINE.build(BuildCall(workload=workload, target="mock", schedule=schedule))


def profile(task: ExtractedTask, artifact: bytes) -> ProfileOutcome:
    return PLATFORM.profile(
        ProfileCall(
            workload=task.workload,
            target="mock",
            artifact=artifact,
            untuned=task.untuned,
            device="cpu",
            settings=SETTINGS,
        )
    )


def validated(model: Imported, tasks: list[TunedTask]) -> Validated:
    done = PLATFORM.assemble(AssembleCall(model=model.model, target="mock", tasks=tasks))
    return PLATFORM.validate(
        ValidateCall(
            tuned=done.tuned,
            untuned=done.untuned,
            signature=done.signature,
            target="mock",
            device="cpu",
            settings=SETTINGS,
        )
    )


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("tasks: [", "YAML"),
        ("tasks: []", "length"),
        ("{}", "tasks"),
        ("tasks: [{name: a, wait: 3}]", "wait"),
        ("tasks: [{name: a, untuned: -1}]", "untuned"),
        ("tasks: [{name: a, durations: {build: [1]}}]", "durations"),
        ("tasks: [{name: a, failures: {build-explosion: {every: 2}}}]", "build-explosion"),
        ("tasks: [{name: a}, {name: a}]", "two tasks"),
    ],
)
def test_a_bad_model_is_refused_in_one_line(text: str, cause: str) -> None:
    with pytest.raises(BadModel, match=cause) as caught:
        imported(text)
    assert "\n" not in str(caught.value)


def test_targets_start_with_mock_and_are_their_own_canonical_form() -> None:
    assert platforms.name_of("mock-gpu") == platforms.MOCK != platforms.name_of("native")
    assert isinstance(platforms.load(platforms.MOCK), MockPlatform)
    assert PLATFORM.resolve_target(TargetCall(target="mock-gpu")).canonical == "mock-gpu"


@pytest.mark.parametrize(("target", "taken"), [("mock2", True), ("llvm", False)])
def test_it_takes_the_tasks_of_its_targets_and_no_others(target: str, taken: bool) -> None:
    assert (ENGINE.objection(TaskRef(workload=b"", target=target, name="a", key="")) == "") == taken


def test_it_has_no_options() -> None:
    ENGINE.check_options({})
    with pytest.raises(BadInput, match="mock has no option 'speed'; it has none"):
        ENGINE.check_options({"speed": 3})


def test_equal_tasks_have_equal_keys_and_others_do_not() -> None:
    first, again, other = only_task("space: 5"), only_task("space: 5"), only_task("space: 6")
    assert first.key == again.key != other.key
    assert only_task("space: 5", "mock2").key != first.key


@given(space=st.integers(1, 60), batch=st.integers(1, 20), seed=st.integers(0, 2**31 - 1))
def test_every_candidate_is_proposed_once_and_then_the_space_is_exhausted(
    space: int, batch: int, seed: int
) -> None:
    workload = only_task(f"space: {space}, durations: {{model-update: 0}}").workload
    search, trials, seen = None, list[Trial](), list[str]()
    while True:
        proposal = update(workload, search, trials, batch, seed)
        assert proposal == update(workload, search, trials, batch, seed)
        if not proposal.schedules:
            break
        assert len(proposal.schedules) == min(batch, space - len(seen))
        trials = [trial(i, name, schedule) for i, (name, schedule) in enumerate(proposal.schedules)]
        seen += [name for name, _ in proposal.schedules]
        search = proposal.search
    assert len(set(seen)) == len(seen) == space


def test_what_others_measured_is_not_proposed() -> None:
    workload = only_task("space: 4").workload
    everything = update(workload, None, [], 4).schedules
    known = [trial(i, name, schedule) for i, (name, schedule) in enumerate(everything[:3])]
    assert update(workload, None, known, 4, seed=7).schedules[0][0] == everything[3][0]


def test_another_seed_gives_another_order() -> None:
    workload = only_task("space: 1000").workload
    assert len({tuple(update(workload, None, [], 10, seed).schedules) for seed in range(3)}) == 3


def test_what_is_proposed_before_all_trials_are_back_is_new() -> None:
    workload = only_task("space: 100").workload
    first = update(workload, None, [], 8)
    trials = [trial(i, name, schedule) for i, (name, schedule) in enumerate(first.schedules)]
    ahead = update(workload, first.search, trials[:2], 8)
    third = update(workload, ahead.search, trials[2:], 8)
    names = [name for each in (first, ahead, third) for name, _ in each.schedules]
    assert len(names) == len(set(names)) == 24


def test_latencies_lie_between_best_and_worst_and_depend_on_the_candidate_alone() -> None:
    task = only_task("untuned: 0.5, best: 0.1, spread: 2, space: 500")
    found = []
    for _, schedule in update(task.workload, None, [], 200, seed=3).schedules:
        artifact = build(task.workload, schedule).artifact
        assert artifact is not None
        outcome = profile(task, artifact)
        assert outcome.outcome == "measured"
        assert len(outcome.latencies) == SETTINGS.repeats
        found.append(outcome.latencies[0])
        assert profile(task, artifact) == outcome
    assert 0.1 <= min(found) < 0.12
    assert 0.28 < max(found) <= 0.3
    untuned = PLATFORM.profile_untuned(
        UntunedCall(
            workload=task.workload, target="mock", untuned=task.untuned, device="cpu", settings=SETTINGS
        )
    )
    assert untuned.latencies == [0.5] * SETTINGS.repeats


def test_failures_hit_the_candidates_that_they_name() -> None:
    task = only_task(
        "failures: {build-error: {every: 3}, profile-error: {indices: [0]}, wrong-result: {indices: [1]}}"
    )
    schedules = [each for _, each in update(task.workload, None, [], 6).schedules]
    built = [build(task.workload, each) for each in schedules]
    assert [each.outcome for each in built] == [None, None, "build-failed"] * 2
    profiled = [profile(task, each.artifact) for each in built if each.artifact is not None]
    assert [each.outcome for each in profiled] == ["run-failed", "wrong-result", "measured", "measured"]
    assert all(each.error for each in built if each.artifact is None)
    assert all(each.error for each in profiled[:2])


def test_probable_failures_are_the_same_each_time() -> None:
    task = only_task("failures: {build-error: {probability: 0.3}}")
    schedules = [each for _, each in update(task.workload, None, [], 300).schedules]
    failed = [build(task.workload, each).artifact is None for each in schedules]
    assert failed == [build(task.workload, each).artifact is None for each in schedules]
    assert 60 < sum(failed) < 120


def test_the_assembled_model_has_the_weighted_sum_of_the_best_latencies() -> None:
    model = imported("tasks: [{name: a, weight: 2, untuned: 1.0}, {name: b, untuned: 3.0}]")
    tuned = TunedTask(workload=model.tasks[0].workload, symbol="a", part=ObjectPart(code=b""), latency=0.25)
    found = validated(model, [tuned])
    assert found.before == [pytest.approx(5.0)]
    assert found.after == [pytest.approx(3.5)]
    assert not found.wrong


def test_what_became_of_each_task_is_exported() -> None:
    model = imported("tasks: [{name: a, untuned: 1.0}, {name: b, untuned: 3.0}]")
    trials = [trial(0, "00", b"", 0.25), trial(1, "01", b"", 0.5)]
    tasks = [
        TaskTrials(workload=model.tasks[0].workload, trials=trials),
        TaskTrials(workload=model.tasks[1].workload, trials=[trial(0, "02", b"", 4.0)]),
    ]
    exported = ENGINE.export(ExportCall(target="mock", tasks=tasks))
    assert [each["best"] for each in msgspec.json.decode(exported.files["records.json"])] == [0.25, 3.0]


def test_a_model_can_ask_to_be_found_unequal_and_to_fail_in_a_stage() -> None:
    failing = imported("{tasks: [{name: a}], equal: false, stages: {assemble: error}}")
    with pytest.raises(RuntimeError, match="as the model asks"):
        validated(failing, [])
    assert validated(imported("{tasks: [{name: a}], equal: false}"), []).wrong


@given(st.integers(2, 16), st.integers(1, 300), st.integers(0, 5))
def test_regions_are_disjoint_and_leave_nothing_out(count: int, space: int, seed: int) -> None:
    task = only_task(f"space: {space}")
    found: list[tuple[str, bytes]] = []
    for number in range(count):
        search: bytes | None = None
        while True:
            call = UpdateCall(
                workload=task.workload,
                target="mock",
                search=search,
                want=64,
                seed=seed,
                region=Region(number, count),
            )
            proposal = ENGINE.update(call)
            if not proposal.schedules:
                break
            search = proposal.search
            schedules = [schedule for _, schedule in proposal.schedules]
            asked = PlacedCall(workload=task.workload, target="mock", schedules=schedules, regions=count)
            assert set(ENGINE.placed(asked).numbers) == {number}
            found += proposal.schedules
    assert len({name for name, _ in found}) == len(found) == space
