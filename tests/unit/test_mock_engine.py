"""The mock engine, called directly: what can be called without dying."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunemesh.shared.errors import BadModel, BadTarget
from tunemesh.shared.messages import Candidate, Settings, Trial
from tunemesh.stage_workers.engines import load
from tunemesh.stage_workers.engines.mock import MockEngine
from tunemesh.stage_workers.engines.protocol import ExtractedTask, Imported, TaskTrials

SETTINGS = Settings()


def imported(text: str, engine: MockEngine | None = None) -> Imported:
    return (engine or MockEngine()).import_model(text.encode(), "mock", SETTINGS)


def only_task(fields: str) -> ExtractedTask:
    return imported(f"tasks:\n- {{name: a, {fields}}}\n").tasks[0]


def trial(index: int, name: str, schedule: bytes, latency: float = 1e-3) -> Trial:
    return Trial(candidate=Candidate(index, name, schedule), outcome="measured", latencies=[latency])


def test_the_registry_loads_it() -> None:
    assert isinstance(load("mock"), MockEngine)


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


def test_targets_start_with_mock() -> None:
    assert MockEngine().resolve_target("mock-gpu") == "mock-gpu"
    with pytest.raises(BadTarget, match="llvm"):
        MockEngine().resolve_target("llvm")


def test_equal_tasks_have_equal_keys_and_others_do_not() -> None:
    first, again, other = only_task("space: 5"), only_task("space: 5"), only_task("space: 6")
    assert first.key == again.key != other.key
    assert (
        MockEngine().import_model(b"tasks: [{name: a, space: 5}]", "mock2", SETTINGS).tasks[0].key
        != first.key
    )


@given(space=st.integers(1, 60), batch=st.integers(1, 20), seed=st.integers(0, 2**31 - 1))
def test_every_candidate_is_proposed_once_and_then_the_space_is_exhausted(
    space: int, batch: int, seed: int
) -> None:
    engine, workload = MockEngine(), only_task(f"space: {space}, durations: {{model-update: 0}}").workload
    search, trials, seen = None, list[Trial](), list[str]()
    while True:
        proposal = engine.update(workload, "mock", search, trials, batch, seed, Settings())
        again = engine.update(workload, "mock", search, trials, batch, seed, Settings())
        assert proposal == again
        if not proposal.schedules:
            break
        assert len(proposal.schedules) == min(batch, space - len(seen))
        trials = [trial(i, name, schedule) for i, (name, schedule) in enumerate(proposal.schedules)]
        seen += [name for name, _ in proposal.schedules]
        search = proposal.search
    assert len(set(seen)) == len(seen) == space


def test_what_others_measured_is_not_proposed() -> None:
    engine, workload = MockEngine(), only_task("space: 4").workload
    everything = engine.update(workload, "mock", None, [], 4, 0, Settings()).schedules
    known = [trial(i, name, schedule) for i, (name, schedule) in enumerate(everything[:3])]
    assert engine.update(workload, "mock", None, known, 4, 7, Settings()).schedules[0][0] == everything[3][0]


def test_another_seed_gives_another_order() -> None:
    engine, workload = MockEngine(), only_task("space: 1000").workload
    orders = {
        tuple(engine.update(workload, "mock", None, [], 10, seed, Settings()).schedules) for seed in range(3)
    }
    assert len(orders) == 3


def test_a_closing_update_names_the_best_few_that_are_close_to_each_other() -> None:
    engine, workload = MockEngine(), only_task("space: 9").workload
    proposal = engine.update(workload, "mock", None, [], 9, 0, Settings())
    latencies = [3.0, 1.09, 2.0, 1.0, 1.05, 1.2, 1.08, 1.02, 1.07]
    trials = [trial(i, name, schedule, latencies[i]) for i, (name, schedule) in enumerate(proposal.schedules)]
    closed = engine.update(workload, "mock", proposal.search, trials, 0, 0, Settings())
    assert closed.schedules == [proposal.schedules[i] for i in (3, 7, 4, 8)]


def test_there_is_nothing_to_confirm_when_one_candidate_is_far_ahead() -> None:
    engine, workload = MockEngine(), only_task("space: 3").workload
    proposal = engine.update(workload, "mock", None, [], 3, 0, Settings())
    trials = [trial(i, name, schedule, 1.0 + i / 5) for i, (name, schedule) in enumerate(proposal.schedules)]
    assert engine.update(workload, "mock", proposal.search, trials, 0, 0, Settings()).schedules == []


def test_what_is_proposed_before_all_trials_are_back_is_new() -> None:
    engine, workload = MockEngine(), only_task("space: 100").workload
    first = engine.update(workload, "mock", None, [], 8, 0, Settings())
    trials = [trial(i, name, schedule) for i, (name, schedule) in enumerate(first.schedules)]
    ahead = engine.update(workload, "mock", first.search, trials[:2], 8, 0, Settings())
    third = engine.update(workload, "mock", ahead.search, trials[2:], 8, 0, Settings())
    names = [name for each in (first, ahead, third) for name, _ in each.schedules]
    assert len(names) == len(set(names)) == 24


def test_latencies_lie_between_best_and_worst_and_depend_on_the_candidate_alone() -> None:
    engine = MockEngine()
    task = only_task("untuned: 0.5, best: 0.1, spread: 2, space: 500")
    found = []
    for _, schedule in engine.update(task.workload, "mock", None, [], 200, 3, Settings()).schedules:
        artifact = engine.build(task.workload, "mock", schedule).artifact
        assert artifact is not None
        outcome = engine.profile(task.workload, "mock", artifact, task.untuned, "cpu", SETTINGS, None)
        assert outcome.outcome == "measured"
        assert len(outcome.latencies) == SETTINGS.repeats
        found.append(outcome.latencies[0])
        assert engine.profile(task.workload, "mock", artifact, task.untuned, "cpu", SETTINGS, None) == outcome
    assert 0.1 <= min(found) < 0.12
    assert 0.28 < max(found) <= 0.3
    untuned = engine.profile_untuned(task.workload, "mock", task.untuned, "cpu", SETTINGS)
    assert untuned.latencies == [0.5] * SETTINGS.repeats


def test_failures_hit_the_candidates_that_they_name() -> None:
    engine = MockEngine()
    task = only_task(
        "failures: {build-error: {every: 3}, profile-error: {indices: [0]}, wrong-result: {indices: [1]}}"
    )
    schedules = [
        each for _, each in engine.update(task.workload, "mock", None, [], 6, 0, Settings()).schedules
    ]
    built = [engine.build(task.workload, "mock", each) for each in schedules]
    assert [each.outcome for each in built] == [None, None, "build-failed"] * 2
    profiled = [
        engine.profile(task.workload, "mock", each.artifact, task.untuned, "cpu", SETTINGS, None)
        for each in built
        if each.artifact is not None
    ]
    assert [each.outcome for each in profiled] == ["run-failed", "wrong-result", "measured", "measured"]
    assert all(each.error for each in built if each.artifact is None)
    assert all(each.error for each in profiled[:2])


def test_probable_failures_are_the_same_each_time() -> None:
    engine, task = MockEngine(), only_task("failures: {build-error: {probability: 0.3}}")
    schedules = [
        each for _, each in engine.update(task.workload, "mock", None, [], 300, 0, Settings()).schedules
    ]
    failed = [engine.build(task.workload, "mock", each).artifact is None for each in schedules]
    assert failed == [engine.build(task.workload, "mock", each).artifact is None for each in schedules]
    assert 60 < sum(failed) < 120


def test_the_assembled_model_has_the_weighted_sum_of_the_best_latencies() -> None:
    engine = MockEngine()
    model = imported("tasks: [{name: a, weight: 2, untuned: 1.0}, {name: b, untuned: 3.0}]", engine)
    trials = [trial(0, "00", b"", 0.25), trial(1, "01", b"", 0.5)]
    tasks = [
        TaskTrials(workload=model.tasks[0].workload, trials=trials),
        TaskTrials(workload=model.tasks[1].workload, trials=[trial(0, "02", b"", 2.0)], apply=False),
    ]
    assembled = engine.assemble(model.model, "mock", tasks, SETTINGS)
    validated = engine.validate(
        assembled.tuned, assembled.untuned, assembled.signature, "mock", "cpu", 0, SETTINGS
    )
    assert validated.before == [pytest.approx(5.0)]
    assert validated.after == [pytest.approx(3.5)]
    assert validated.equal
    assert msgspec.json.decode(assembled.files["records.json"])[0]["best"] == 0.25


def test_a_model_can_ask_to_be_found_unequal_and_to_fail_in_a_stage() -> None:
    engine = MockEngine()
    model = imported("{tasks: [{name: a}], equal: false, stages: {assemble: error}}", engine)
    with pytest.raises(RuntimeError, match="as the model asks"):
        engine.assemble(model.model, "mock", [], SETTINGS)
    model = imported("{tasks: [{name: a}], equal: false}", engine)
    done = engine.assemble(model.model, "mock", [], SETTINGS)
    assert not engine.validate(done.tuned, done.untuned, done.signature, "mock", "cpu", 0, SETTINGS).equal
