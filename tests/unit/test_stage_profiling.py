"""The stage ``profile``, with the platform of the mock called in this process instead of in a sandbox."""

from __future__ import annotations

import statistics

import msgspec
import pytest
from cachetools import LRUCache

from tests.unit.stage_calls import (
    CALM,
    SLOW,
    FakeSandbox,
    compiled,
    expect,
    imported,
    missing,
    step,
)
from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.messages import (
    Failure,
    Profiled,
    ProfileDone,
    ProfileWork,
    Settings,
)
from tunemesh.stage_workers.platforms.protocol import (
    ConfirmCall,
    ProfileOutcome,
)
from tunemesh.stage_workers.sandbox.sandbox import CallFailure
from tunemesh.stage_workers.stages import Context, DeviceFault, run_stage, trust


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WARM_UP", "CALM_LIMIT"):
        monkeypatch.setattr(trust, name, 0.0)


def test_profile_measures_what_was_built_and_the_baseline_when_asked(
    context: Context, sandbox: FakeSandbox
) -> None:
    task = imported(context).tasks[0]
    built = compiled(context, task, 7)
    built[5] = msgspec.structs.replace(built[5], artifact=missing())
    nan = float("nan")
    sandbox.answers["profile"] = [
        CallFailure("crashed", "killed by SIGSEGV"),
        CallFailure("timed-out", "exceeded 10 s"),
        ProfileOutcome(outcome="wrong-result", error="output 0 differs"),
        ProfileOutcome(outcome="measured", latencies=[0.1, nan]),
    ]
    done = expect(
        ProfileDone, run_stage(step(ProfileWork(task=task, artifacts=built, baseline=True)), context)
    )
    assert [each.outcome for each in done.profiled] == [
        "run-failed", "run-timed-out", "wrong-result", "run-failed", "measured", "run-failed", "measured",
    ]  # fmt: skip
    assert "nan" in done.profiled[3].error
    assert "is not in" in done.profiled[5].error
    assert all(each.error for each in done.profiled if each.outcome != "measured")
    assert len(done.profiled[4].latencies) == 3
    assert done.untuned == 0.9
    again = expect(ProfileDone, run_stage(step(ProfileWork(task=task, artifacts=built[:1])), context))
    assert again.untuned is None


def test_a_candidate_that_needs_more_memory_says_which_option_gives_it(
    context: Context, sandbox: FakeSandbox
) -> None:
    task = imported(context).tasks[0]
    built = compiled(context, task, 1)
    sandbox.answers["profile"] = [CallFailure("out-of-memory", "exceeded 4 GiB of memory")] * 2
    (found,) = expect(ProfileDone, run_stage(step(ProfileWork(task=task, artifacts=built)), context)).profiled
    advice = "exceeded 4 GiB of memory; give more with --memory, where its worker is started"
    assert (found.outcome, found.error) == ("run-failed", advice)


def test_the_best_few_take_turns_and_each_is_measured_alone_if_that_fails(
    context: Context, sandbox: FakeSandbox
) -> None:
    task = imported(context).tasks[0]
    built = compiled(context, task, 3)
    work = step(ProfileWork(task=task, artifacts=built, confirm=True))
    together = expect(ProfileDone, run_stage(work, context)).profiled
    assert [each.outcome for each in together] == ["measured"] * 3
    assert [each.median for each in together] == [statistics.median(each.latencies) for each in together]
    assert ("confirm", 30.0) in sandbox.calls
    sandbox.answers["confirm"] = [CallFailure("crashed", "killed by SIGSEGV")]
    alone = expect(ProfileDone, run_stage(work, context))
    assert [each.latencies for each in alone.profiled] == [each.latencies for each in together]
    assert not alone.in_turns


def test_a_candidate_that_ends_the_call_does_not_keep_the_others_from_taking_turns(
    context: Context, sandbox: FakeSandbox
) -> None:
    task = imported(context).tasks[0]
    built = compiled(context, task, 3)
    work = ProfileWork(task=task, artifacts=built[:1], rivals={"t00.b": built[1:]}, confirm=True)
    crash = CallFailure("crashed", "killed by SIGSEGV")
    sandbox.answers["confirm"], sandbox.answers["profile"] = [crash], [crash]
    done = expect(ProfileDone, run_stage(step(work), context))
    assert [each.outcome for each in done.profiled] == ["run-failed"]
    assert [each.outcome for each in done.rivals["t00.b"]] == ["measured"] * 2
    assert done.in_turns
    calls = [each for each in sandbox.records if isinstance(each, ConfirmCall)]
    assert [len(each.artifacts) for each in calls] == [3, 2]


def test_what_several_searches_have_found_takes_turns_in_one_measurement(
    context: Context, sandbox: FakeSandbox
) -> None:
    task = imported(context).tasks[0]
    built = compiled(context, task, 4)
    alone = expect(ProfileDone, run_stage(step(ProfileWork(task=task, artifacts=built)), context)).profiled
    work = ProfileWork(
        task=task,
        artifacts=built[:1],
        rivals={"t00.b": built[1:3], "t00.c": built[3:]},
        confirm=True,
    )
    done = expect(ProfileDone, run_stage(step(work), context))
    found = {"": done.profiled, **done.rivals}
    assert {name: [each.index for each in profiled] for name, profiled in found.items()} == {
        "": [0],
        "t00.b": [1, 2],
        "t00.c": [3],
    }
    assert [each.median for profiled in found.values() for each in profiled] == [
        each.median for each in alone
    ]
    assert done.in_turns
    (call,) = [each for each in sandbox.records if isinstance(each, ConfirmCall)]
    assert len(call.artifacts) == 4


@pytest.mark.parametrize(("cut_short", "repeats"), [(2.0, 1), (1000.0, 3), (None, 3)])
def test_a_candidate_that_is_much_slower_than_the_best_is_cut_short(
    context: Context, cut_short: float | None, repeats: int
) -> None:
    task = imported(context).tasks[0]
    built = compiled(context, task, 1)
    plain = expect(ProfileDone, run_stage(step(ProfileWork(task=task, artifacts=built)), context)).profiled[0]
    assert not plain.cut_short
    context.measured.clear()
    work = ProfileWork(task=task, artifacts=built, best=plain.median / 100)
    slow = run_stage(step(work, settings=Settings(cut_short=cut_short)), context)
    profiled = expect(ProfileDone, slow).profiled[0]
    assert (len(profiled.latencies), profiled.cut_short) == (repeats, repeats == 1)
    assert profiled.median == plain.median


def test_candidates_that_compile_to_the_same_binary_are_measured_once(
    context: Context, sandbox: FakeSandbox, store: ArtifactStore
) -> None:
    task = imported(context).tasks[0]
    built = compiled(context, task, 4)
    built[2] = msgspec.structs.replace(built[2], artifact=built[0].artifact)

    def profile(*numbers: int) -> list[Profiled]:
        work = ProfileWork(task=task, artifacts=[built[number] for number in numbers])
        return expect(ProfileDone, run_stage(step(work), context)).profiled

    first = profile(0, 1, 2)
    assert [each.index for each in first] == [0, 1, 2]
    assert [each.attempts for each in first] == [1, 1, 0]
    assert first[2].latencies == first[0].latencies != first[1].latencies
    assert first[2].seconds == 0
    later = profile(3, 2)
    assert [(each.index, each.attempts) for each in later] == [(3, 1), (2, 0)]
    assert later[1].latencies == first[0].latencies
    assert [method for method, _ in sandbox.calls].count("profile") == 3
    elsewhere = Context(sandbox, store, "cpu")
    work = step(ProfileWork(task=task, artifacts=[built[2]]))
    assert expect(ProfileDone, run_stage(work, elsewhere)).profiled[0].attempts == 1


def test_what_was_measured_may_be_forgotten_at_any_moment(context: Context, sandbox: FakeSandbox) -> None:
    task = imported(context).tasks[0]
    built = compiled(context, task, 3)
    forgetful = Context(sandbox, context.store, "cpu", measured=LRUCache(1))
    for numbers, attempts in (([0], [1]), ([1, 2, 0], [1, 1, 0]), ([0, 1, 1], [1, 1, 0])):
        work = ProfileWork(task=task, artifacts=[built[number] for number in numbers])
        done = expect(ProfileDone, run_stage(step(work), forgetful))
        assert [each.index for each in done.profiled] == numbers
        assert [each.attempts for each in done.profiled] == attempts


def test_a_binary_whose_run_failed_or_whose_device_was_disturbed_is_measured_again(
    context: Context, sandbox: FakeSandbox
) -> None:
    task = imported(context).tasks[0]
    built = compiled(context, task, 1)
    work = step(ProfileWork(task=task, artifacts=built))
    sandbox.answers["profile"] = [CallFailure("crashed", "killed by SIGSEGV")]
    assert expect(ProfileDone, run_stage(work, context)).profiled[0].outcome == "run-failed"
    context.drift.seen([1e-3] * 5, 0.0)
    sandbox.answers["reference"] = [SLOW] * 100
    disturbed = expect(ProfileDone, run_stage(work, context)).profiled[0]
    assert (disturbed.outcome, disturbed.attempts) == ("measured", 1)
    assert disturbed.drift > 0.1
    sandbox.answers["reference"] = []
    calm = Context(sandbox, context.store, "cpu", measured=context.measured)
    assert expect(ProfileDone, run_stage(work, calm)).profiled[0].attempts == 1
    assert expect(ProfileDone, run_stage(work, calm)).profiled[0].attempts == 0


@pytest.mark.parametrize(
    ("slower", "cut_short", "attempts"), [(100.0, 1.0, 1), (100.0, None, 2), (1.5, 1.0, 2)]
)
def test_of_what_a_disturbance_met_only_what_may_be_close_to_the_best_is_measured_again(
    context: Context, sandbox: FakeSandbox, slower: float, cut_short: float | None, attempts: int
) -> None:
    task = imported(context).tasks[0]
    built = compiled(context, task, 1)
    sandbox.answers["profile"] = [ProfileOutcome(outcome="measured", latencies=[slower * 1e-3])] * 3
    # Two looks, each believed the second time only, and then it is calm.
    sandbox.answers["reference"] = [SLOW] * 4 + [CALM] * 10
    context.drift.seen([1e-3] * 5, 0.0)
    work = step(ProfileWork(task=task, artifacts=built, best=1e-3), settings=Settings(cut_short=cut_short))
    assert expect(ProfileDone, run_stage(work, context)).profiled[0].attempts == attempts


@pytest.mark.parametrize(
    ("asked", "cache", "flushed"),
    [(None, 999, True), (None, 1000, False), (None, 0, False), (True, 1000, True), (False, 999, False)],
)
def test_caches_are_flushed_where_the_constants_of_the_model_do_not_fit(
    sandbox: FakeSandbox, store: ArtifactStore, asked: bool | None, cache: int, flushed: bool
) -> None:
    context = Context(sandbox, store, "cpu", cache=cache)
    task = msgspec.structs.replace(imported(context).tasks[0], constants=1000)
    built = compiled(context, task, 1)
    settings = Settings(cache_flush=asked)
    run_stage(step(ProfileWork(task=task, artifacts=built, baseline=True), settings=settings), context)
    run_stage(step(ProfileWork(task=task, artifacts=built, confirm=True), settings=settings), context)
    assert sandbox.flushed == {"profile": flushed, "profile_untuned": flushed, "confirm": flushed}


@pytest.mark.parametrize(
    ("untuned", "settings", "limits"),
    [
        # The second run takes the sandbox with it, and the next one has to find the right outputs anew.
        (None, Settings(), [10, 1.65, 10, 1.65]),
        (0.5, Settings(), [7.15, 1.65, 7.15, 1.65]),
        (0.5, Settings(cut_short=None), [10, 10, 10, 10]),
        (0.5, Settings(repeats=5, min_repeat_ms=200, profile_timeout=9.9), [9.7, 4.2, 9.7, 4.2]),
        (0.5, Settings(profile_timeout=2), [2, 1.65, 2, 1.65]),
    ],
)
def test_a_hopeless_run_is_given_up(
    context: Context, sandbox: FakeSandbox, untuned: float | None, settings: Settings, limits: list[float]
) -> None:
    task = imported(context).tasks[0]
    built = compiled(context, task, 4)
    good = ProfileOutcome(outcome="measured", latencies=[1e-3])
    sandbox.answers["profile"] = [good, CallFailure("timed-out", "exceeded 2.5 s"), good, good]
    work = ProfileWork(task=task, artifacts=built, best=1e-3, untuned=untuned)
    done = expect(ProfileDone, run_stage(step(work, settings=settings), context))
    assert [each.outcome for each in done.profiled] == ["measured", "run-timed-out", "measured", "measured"]
    assert [limit for method, limit in sandbox.calls if method == "profile"] == pytest.approx(limits)


def test_a_baseline_that_cannot_be_measured_does_not_stop_the_rest(
    context: Context, sandbox: FakeSandbox
) -> None:
    task = imported(context).tasks[0]
    sandbox.answers["profile_untuned"] = [CallFailure("timed-out", "exceeded 100 s")]
    result = run_stage(step(ProfileWork(task=task, artifacts=[], baseline=True)), context)
    done = ProfileDone(profiled=[], untuned=None, untuned_error="exceeded 100 s")
    assert expect(ProfileDone, result) == done


def test_profiling_without_a_device_is_a_failure(context: Context, sandbox: FakeSandbox) -> None:
    task = imported(context).tasks[0]
    result = run_stage(step(ProfileWork(task=task, artifacts=[])), Context(sandbox, context.store))
    assert "needs a device" in expect(Failure, result).error


def test_a_baseline_that_was_killed_is_measured_again(context: Context, sandbox: FakeSandbox) -> None:
    task = imported(context).tasks[0]
    sandbox.answers["profile_untuned"] = [CallFailure("crashed", "killed by SIGKILL")]
    result = run_stage(step(ProfileWork(task=task, artifacts=[], baseline=True)), context)
    assert expect(ProfileDone, result).untuned == pytest.approx(0.9)


ERROR = CallFailure("raised", "CUDA error 304")


@pytest.mark.parametrize("failing", ["profile", "profile_untuned", "confirm"])
def test_no_candidate_is_blamed_where_the_device_does_not_work(
    context: Context, sandbox: FakeSandbox, failing: str
) -> None:
    task = imported(context).tasks[0]
    artifacts = compiled(context, task, 2) if failing != "profile_untuned" else []
    baseline, confirm = failing == "profile_untuned", failing == "confirm"
    work = step(ProfileWork(task=task, artifacts=artifacts, baseline=baseline, confirm=confirm))
    sandbox.answers = {failing: [ERROR] * 4, "reference": [ERROR] * 2}
    with pytest.raises(DeviceFault, match="CUDA error 304"):
        run_stage(work, context)
    # The second time in a process in which nothing has run.
    assert sandbox.renewed_before == ["reference"]


def test_a_kernel_that_spoils_its_own_process_is_no_fault_of_the_device(
    context: Context, sandbox: FakeSandbox
) -> None:
    task = imported(context).tasks[0]
    work = step(ProfileWork(task=task, artifacts=compiled(context, task, 1)))
    sandbox.answers = {"profile": [CallFailure("raised", "illegal address")], "reference": [CALM, ERROR]}
    (found,) = expect(ProfileDone, run_stage(work, context)).profiled
    assert (found.outcome, found.error) == ("run-failed", "illegal address")
    assert sandbox.renewed_before == ["reference"]
