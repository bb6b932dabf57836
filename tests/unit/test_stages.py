"""The stages, with engine and platform of the mock called in this process instead of in a sandbox."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import pytest

from tests.unit.stage_calls import (
    CALM,
    MODEL,
    SLOW,
    TIMING,
    FakeSandbox,
    expect,
    imported,
    missing,
    proposed,
    step,
    trials_of,
)
from tunemesh.shared import codec
from tunemesh.shared.messages import (
    AssembleDone,
    AssembleWork,
    Blob,
    BuildDone,
    BuildWork,
    Candidate,
    Confirmed,
    Failure,
    History,
    ImportDone,
    ImportWork,
    Judgement,
    Known,
    Options,
    OutputCheck,
    Settings,
    TaskRecords,
    TaskSpec,
    TaskState,
    Trial,
    UpdateDone,
    UpdateWork,
    ValidateDone,
    ValidateWork,
    VariantLatency,
)
from tunemesh.stage_workers.engines.protocol import BuildOutcome, Exported, Proposal, TirPart
from tunemesh.stage_workers.platforms.protocol import (
    AssembleCall,
    Assembled,
    ExtractedTask,
    ImportCall,
    Imported,
    ValidateCall,
    Validated,
)
from tunemesh.stage_workers.sandbox.sandbox import CallFailure
from tunemesh.stage_workers.stages import Context, build_limits, run_stage, trust
from tunemesh.stage_workers.stages.kept_imports import KeptImports


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WARM_UP", "CALM_LIMIT"):
        monkeypatch.setattr(trust, name, 0.0)


def test_import_names_the_tasks_in_order_and_stores_the_model(context: Context) -> None:
    done = imported(context)
    assert [(task.id, task.name, task.weight) for task in done.tasks] == [("t00", "a", 3), ("t01", "b", 1)]
    assert done.model.data is None
    assert context.store.get(done.model)


def test_a_bad_model_is_a_failure_in_one_line(context: Context) -> None:
    result = run_stage(step(ImportWork(model=context.store.put(b"tasks: ["))), context)
    error = expect(Failure, result).error
    assert "YAML" in error
    assert "\n" not in error


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"mock": {"speed": 3}}, "mock has no option 'speed'"),
        ({"graph": {"convolutions": "direct"}}, "graph has no option 'convolutions'"),
        ({"metaschedule": {"population": 4}}, "options for 'metaschedule', but the job has only mock, graph"),
    ],
)
def test_an_option_that_nobody_knows_is_a_failure_in_one_line(
    context: Context, options: dict[str, Options], cause: str
) -> None:
    work = ImportWork(model=context.store.put(MODEL))
    result = run_stage(msgspec.structs.replace(step(work), options=options), context)
    error = expect(Failure, result).error
    assert cause in error
    assert "\n" not in error


def test_every_engine_that_takes_a_task_searches_it(context: Context, sandbox: FakeSandbox) -> None:
    work = msgspec.structs.replace(
        step(ImportWork(model=context.store.put(MODEL))), engines=["metaschedule", "mock"]
    )
    sandbox.answers["objection"] = ["", "too large", "no mock", "no mock"]
    first, other = expect(ImportDone, run_stage(work, context)).tasks
    assert (first.id, first.engine, first.objection) == ("t00", "metaschedule", "")
    assert (other.id, other.engine, other.objection) == ("t01", None, "too large; no mock")
    sandbox.answers["objection"] = ["", "too large", "", ""]
    done = expect(ImportDone, run_stage(work, context))
    assert [(task.id, task.engine) for task in done.tasks] == [
        ("t00", "metaschedule"),
        ("t00.mock", "mock"),
        ("t01", "mock"),
    ]
    one, two, _ = done.tasks
    assert msgspec.structs.replace(two, id=one.id, engine=one.engine) == one
    assert done.problem(["metaschedule", "mock"]) == ""


def test_what_was_compiled_is_kept_and_handed_to_assembly(
    context: Context, sandbox: FakeSandbox, tmp_path: Path
) -> None:
    one = ExtractedTask(name="a", key="a" * 64, weight=1, workload=b"w", untuned=b"u")
    sandbox.answers["import_model"] = [Imported(model=b"m", tasks=[one], objects=b"untuned")]
    sandbox.answers["objection"] = [""]
    model = expect(ImportDone, run_stage(step(ImportWork(model=context.store.put(MODEL))), context))
    assert model.objects is not None
    assert (context.store.get(model.objects), model.objects.data) == (b"untuned", None)

    candidates = [Candidate(0, "h", b"s")]
    sandbox.answers["build"] = [BuildOutcome(artifact=b"k", objects=b"tuned")] * 2
    work = BuildWork(task=model.tasks[0], candidates=candidates)
    (built,) = expect(BuildDone, run_stage(step(work), context)).built
    assert built.objects is None
    keeping = msgspec.structs.replace(work, keep=True)
    (built,) = expect(BuildDone, run_stage(step(keeping), context)).built
    assert built.objects is not None
    assert (context.store.get(built.objects), built.objects.data) == (b"tuned", None)

    untuned: list[bytes] = []

    def handed_over(compiled: Blob | None, tuned: Blob | None, context: Context = context) -> list[bytes]:
        trials = trials_of(candidates)
        history = History(task="t00", round=0, trials=trials, timings=[])
        confirmed = [
            Confirmed(hash="h", latencies=[0.1], objects=tuned),
            Confirmed(hash="other", latencies=[0.3], objects=missing()),
        ]
        records = TaskRecords(
            task=model.tasks[0],
            history=[context.store.put(msgspec.msgpack.encode(history))],
            confirmed=confirmed,
        )
        sandbox.answers["part"] = [TirPart(module=b"part")]
        sandbox.answers["assemble"] = [Assembled(tuned=b"t", untuned=b"u", signature=b"s")]
        sandbox.answers["export"] = [Exported()]
        assemble = AssembleWork(model=model.model, tasks=[records], objects=compiled)
        expect(AssembleDone, run_stage(step(assemble), context))
        (call,) = [each for each in sandbox.records if isinstance(each, AssembleCall)]
        sandbox.records.clear()
        untuned.append(call.untuned)
        return call.objects

    assert handed_over(model.objects, built.objects) == [b"untuned", b"tuned"]
    assert handed_over(None, None) == []
    # What is lost is compiled again.
    assert handed_over(missing(), built.objects) == [b"tuned"]
    # What was not confirmed may have been built by this worker, to be kept.
    here = dataclasses.replace(context, kept=KeptImports(tmp_path / "kept"))
    assert handed_over(None, None, here) == []
    sandbox.answers["build"] = [BuildOutcome(artifact=b"k", objects=b"kept")]
    expect(BuildDone, run_stage(step(keeping), here))
    assert handed_over(None, None, here) == [b"kept"]
    assert handed_over(None, built.objects, here) == [b"tuned"]
    assert untuned == [b"", b"", b"", b"", b"u", b"u"]  # it is kept, too


def test_what_no_engine_takes_is_in_the_model_as_it_is(context: Context, sandbox: FakeSandbox) -> None:
    sandbox.answers["objection"] = ["too small", "too large"]
    model = imported(context)
    records = [TaskRecords(task=task, history=[]) for task in model.tasks]
    work = AssembleWork(model=model.model, tasks=records)
    done = expect(AssembleDone, run_stage(step(work), context))
    assert context.store.get(done.tuned) == context.store.get(done.untuned)
    assert {"part", "export"}.isdisjoint(name for name, _ in sandbox.calls)
    result = run_stage(step(UpdateWork(task=model.tasks[0], want=4)), context)
    assert "no engine takes the task t00 (a)" in expect(Failure, result).error


def test_a_missing_artifact_is_a_failure(context: Context) -> None:
    result = run_stage(step(ImportWork(model=missing())), context)
    assert "is not in" in expect(Failure, result).error


def test_a_crash_in_import_is_tried_once_more_and_then_named(context: Context, sandbox: FakeSandbox) -> None:
    crash = CallFailure("crashed", "killed by SIGSEGV")
    sandbox.answers["import_model"] = [crash]
    assert imported(context).tasks
    sandbox.answers["import_model"] = [crash, crash]
    other = context.store.put(MODEL + b"\n")
    result = run_stage(step(ImportWork(model=other)), context)
    assert "import model: crashed: killed by SIGSEGV" in expect(Failure, result).error


def test_an_import_that_needs_more_memory_says_which_option_gives_it(
    context: Context, sandbox: FakeSandbox
) -> None:
    sandbox.answers["import_model"] = [CallFailure("out-of-memory", "exceeded 4 GiB of memory")] * 2
    result = run_stage(step(ImportWork(model=context.store.put(MODEL))), context)
    assert expect(Failure, result).error.endswith(
        "import model: out-of-memory: exceeded 4 GiB of memory; give more with --memory, where its worker is"
        " started"
    )


def test_a_job_says_how_long_its_import_may_take(context: Context, sandbox: FakeSandbox) -> None:
    work = ImportWork(model=context.store.put(MODEL))
    expect(ImportDone, run_stage(step(work, settings=Settings(import_timeout=7.0)), context))
    assert ("import_model", 7.0) in sandbox.calls


def test_import_says_what_inputs_may_be_and_keeps_what_came_of_them(
    context: Context, sandbox: FakeSandbox
) -> None:
    judged = [Judgement(judge="somebody", outputs=[output(0.5)])]
    sandbox.answers["import_model"] = [Imported(model=b"m", tasks=[], sample=b"inputs", judged=judged)]
    work = ImportWork(model=context.store.put(MODEL), samples=context.store.put(b"arrays"))
    settings = Settings(ranges={"ids": (0, 9)}, math="exact", precision="bf16")
    done = expect(ImportDone, run_stage(step(work, settings=settings), context))
    (call,) = [each for each in sandbox.records if isinstance(each, ImportCall)]
    assert (call.seed, call.ranges, call.inputs) == (5, {"ids": (0, 9)}, b"arrays")
    assert call.math == "exact"
    assert call.precision == "bf16"
    assert done.sample is not None
    assert context.store.get(done.sample) == b"inputs"
    assert done.judged == judged


def test_validate_compares_with_what_import_kept_in_a_process_of_its_own(
    context: Context, sandbox: FakeSandbox
) -> None:
    blob = context.store.put(b"model")
    sandbox.answers["validate"] = [Validated(before=[0.2], after=[0.1], outputs=[], wrong="")]
    work = ValidateWork(tuned=blob, untuned=blob, signature=blob, sample=context.store.put(b"inputs"))
    expect(ValidateDone, run_stage(step(work), context))
    (call,) = [each for each in sandbox.records if isinstance(each, ValidateCall)]
    assert call.sample == b"inputs"
    assert sandbox.renewed_before == ["validate"]


def test_a_model_that_is_too_large_to_import_is_not_even_fetched(context: Context) -> None:
    huge = Blob("0" * 64, 2**50)
    result = run_stage(step(ImportWork(model=huge)), context)
    assert "bytes; at most" in expect(Failure, result).error


def test_the_first_update_starts_a_task(context: Context) -> None:
    done = proposed(context, imported(context).tasks[0])
    assert [each.index for each in done.candidates] == [0, 1, 2, 3]
    assert len({each.hash for each in done.candidates}) == 4
    assert done.state.history == []
    assert done.state.search.data is not None


def test_an_update_keeps_the_finished_round_in_the_store(context: Context) -> None:
    task = imported(context).tasks[0]
    first = proposed(context, task)
    trials = trials_of(first.candidates)
    work = UpdateWork(task=task, want=2, state=first.state, trials=trials, timings=[TIMING])
    second = expect(UpdateDone, run_stage(step(work, 1), context))
    (blob,) = second.state.history
    assert blob.data is None
    history = msgspec.msgpack.decode(context.store.get(blob), type=History)
    assert history == History(task="t00", round=0, trials=trials, timings=[TIMING])
    assert not {each.hash for each in first.candidates} & {each.hash for each in second.candidates}
    assert expect(UpdateDone, run_stage(step(work, 1), context)) == second


def close(context: Context, task: TaskSpec, trials: list[Trial]) -> list[Candidate]:
    """The candidates that a closing update names; half of the trials are in the history before it."""
    half = len(trials) // 2
    before = UpdateWork(task=task, want=1, trials=trials[:half])
    state = expect(UpdateDone, run_stage(step(before, 1), context)).state
    work = UpdateWork(task=task, want=0, state=state, trials=trials[half:])
    return expect(UpdateDone, run_stage(step(work, 2), context)).candidates


def test_a_closing_update_names_the_best_few_that_are_close_to_each_other(context: Context) -> None:
    task = imported(context).tasks[0]
    candidates = proposed(context, task, 9).candidates
    latencies = [3.0, 1.09, 2.0, 1.0, 1.05, 1.2, 1.08, 1.02, 1.07]
    trials = [trials_of([each], latencies[each.index])[0] for each in candidates]
    named = close(context, task, trials)
    assert [each.hash for each in named] == [candidates[number].hash for number in (3, 7, 4, 8)]
    assert [each.index for each in named] == [0, 1, 2, 3]


def test_there_is_nothing_to_confirm_when_one_candidate_is_far_ahead(context: Context) -> None:
    task = imported(context).tasks[0]
    candidates = proposed(context, task, 3).candidates
    trials = [trials_of([each], 1.0 + each.index / 5)[0] for each in candidates]
    assert close(context, task, trials) == []
    failed = [msgspec.structs.replace(trial, outcome="run-failed") for trial in trials]
    assert close(context, task, failed) == []


def test_what_was_measured_in_a_bad_moment_may_be_among_the_best_few(context: Context) -> None:
    task = imported(context).tasks[0]
    candidates = proposed(context, task, 3).candidates
    trials = [
        msgspec.structs.replace(trials_of([each], latency)[0], drift=drift)
        for each, latency, drift in zip(candidates, (1.0e-3, 1.3e-3, 1.3e-3), (0.0, 0.0, 0.25), strict=True)
    ]
    named = close(context, task, trials)
    assert [each.hash for each in named] == [candidates[0].hash, candidates[2].hash]


def test_what_only_seems_fast_for_a_disturbance_does_not_push_the_best_out(context: Context) -> None:
    """The reference kernel may take twice as long for a moment in which a candidate does not run."""
    task = imported(context).tasks[0]
    candidates = proposed(context, task, 6).candidates
    trials = [
        msgspec.structs.replace(trials_of([each], 1e-3 + each.index * 1e-6)[0], drift=each.index and 1.0)
        for each in candidates
    ]
    named = [each.hash for each in close(context, task, trials)]
    assert named == [candidates[number].hash for number in (1, 2, 3, 0)]
    # One that is far ahead is confirmed where it was disturbed.
    for drift, count in ((0.0, 0), (0.2, 1)):
        alone = msgspec.structs.replace(trials_of(candidates[:1], 0.5e-3)[0], drift=drift)
        assert len(close(context, task, [alone, trials_of(candidates[1:2], 1e-3)[0]])) == count


def test_a_large_search_state_goes_to_the_store(context: Context, sandbox: FakeSandbox) -> None:
    task = imported(context).tasks[0]
    sandbox.answers["update"] = [
        Proposal(search=b"s" * 400_000, schedules=[]),
        Proposal(search=b"s" * 600_000, schedules=[]),
        Proposal(search=b"s" * 400_000, schedules=[(f"{n}", b"x" * 160_000) for n in range(4)]),
    ]
    inline = [proposed(context, task).state.search.data is not None for _ in range(3)]
    assert inline == [True, False, False]


def test_what_comes_back_of_a_large_batch_of_a_long_job_fits_into_one_message(
    context: Context, sandbox: FakeSandbox
) -> None:
    task = imported(context).tasks[0]
    settings = Settings(batch=512, repeats=100)
    proposals = [(f"{n:064}", b"x" * 500) for n in range(settings.batch)]
    sandbox.answers["update"] = [Proposal(search=b"s" * 400_000, schedules=proposals)]
    history = [Blob("0" * 64, 10_000) for _ in range(1_000)]
    state = TaskState(search=context.store.put(b"s"), history=history)
    work = UpdateWork(task=task, want=settings.batch, state=state)
    done = expect(UpdateDone, run_stage(step(work, settings=settings), context))
    assert len(done.candidates) == settings.batch
    trials = [
        Trial(candidate=each, outcome="measured", latencies=[1e-3] * settings.repeats)
        for each in done.candidates
    ]
    work = UpdateWork(task=task, want=settings.batch, state=done.state, trials=trials)
    error_texts_and_timings = 150_000
    assert len(codec.encode(step(work, settings=settings))) < codec.MAX_MESSAGE - error_texts_and_timings


def test_a_crash_in_update_is_tried_once_more(context: Context, sandbox: FakeSandbox) -> None:
    task = imported(context).tasks[0]
    crash = CallFailure("crashed", "killed by SIGSEGV")
    sandbox.answers["update"] = [crash]
    assert proposed(context, task).candidates
    sandbox.answers["update"] = [crash, crash]
    result = run_stage(step(UpdateWork(task=task, want=4)), context)
    assert "SIGSEGV" in expect(Failure, result).error


@pytest.mark.parametrize(
    ("schedules", "said"),
    [
        ([(f"{n}", b"") for n in range(5)], "it proposes 5 schedules, asked were 4"),
        ([("same", b"1"), ("same", b"2")], "it proposes a schedule twice"),
        ([("", b"")], "the hash of a schedule has 1 to 200 characters"),
        ([("x" * 201, b"")], "the hash of a schedule has 1 to 200 characters"),
    ],
)
def test_an_engine_that_proposes_nonsense_is_named(
    context: Context, sandbox: FakeSandbox, schedules: list[tuple[str, bytes]], said: str
) -> None:
    task = imported(context).tasks[0]
    sandbox.answers["update"] = [Proposal(search=b"", schedules=schedules)]
    result = run_stage(step(UpdateWork(task=task, want=4)), context)
    assert expect(Failure, result).error == f"engine mock, update: {said}"


def test_an_outcome_that_no_build_has_is_a_failed_build(context: Context, sandbox: FakeSandbox) -> None:
    task = imported(context).tasks[0]
    candidates = proposed(context, task).candidates[:2]
    sandbox.answers["build"] = [
        BuildOutcome(outcome="measured", error="?"),
        BuildOutcome(outcome="build-timed-out", error="slow"),
    ]
    built = expect(BuildDone, run_stage(step(BuildWork(task=task, candidates=candidates)), context)).built
    assert [(each.outcome, each.error) for each in built] == [
        ("build-failed", "?"),
        ("build-timed-out", "slow"),
    ]


def test_a_failed_build_costs_one_candidate(context: Context, sandbox: FakeSandbox) -> None:
    task = imported(context).tasks[0]
    candidates = proposed(context, task).candidates
    sandbox.answers["build"] = [
        CallFailure("crashed", "killed by SIGSEGV"),
        CallFailure("timed-out", "exceeded 7 s"),
        CallFailure("out-of-memory", "exceeded 4 GiB of memory" + "x" * 9000),
    ]
    work = step(BuildWork(task=task, candidates=candidates), settings=Settings(build_timeout=7))
    built = expect(BuildDone, run_stage(work, context)).built
    assert [each.outcome for each in built] == ["build-failed", "build-timed-out", "build-failed", None]
    assert built[0].error == "killed by SIGSEGV"
    assert len(built[2].error) <= 2000
    assert built[3].artifact is not None
    assert [each.index for each in built] == [0, 1, 2, 3]
    assert sandbox.calls[-4:] == [("build", 7)] * 4


def test_builds_of_a_task_get_a_limit_once_it_is_known_how_long_they_take(
    context: Context, sandbox: FakeSandbox
) -> None:
    task = imported(context).tasks[0]
    candidates = proposed(context, task, 8).candidates
    run_stage(step(BuildWork(task=task, candidates=candidates)), context)
    limits = sandbox.cpu_limits[-8:]
    assert limits[:4] == [None] * 4
    assert limits[4:] == [build_limits.LEAST] * 4


def test_a_build_that_fails_says_nothing_of_how_long_others_take(
    context: Context, sandbox: FakeSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = imported(context).tasks[0]
    candidates = proposed(context, task, 8).candidates
    monkeypatch.setattr(sandbox, "call", lambda *_: CallFailure("crashed", "gone"))
    run_stage(step(BuildWork(task=task, candidates=candidates)), context)
    key = f"mock {task.workload.sha256}"
    assert context.patience.limit(key) is None
    assert context.patience.clock(key, 600.0) == 600.0


def test_patience_is_some_times_the_median_of_the_same_task() -> None:
    known = build_limits.Patience()
    for seconds in (1.0, 3.0, 2.0):
        known.took("a", seconds)
    assert known.limit("a") is None
    known.took("a", 90.0)
    assert known.limit("a") == build_limits.FACTOR * 2.5
    assert known.limit("b") is None
    assert [known.clock("a", most) for most in (20.0, 600.0)] == [20.0, build_limits.CLOCK * 15.0]
    assert known.clock("b", 600.0) == 600.0
    for limit in (600.0, 600.0, build_limits.LEAST_CLOCK):
        assert known.clock("c", 600.0) == limit
        known.took("c", 0.01)
    for number in range(build_limits.TASKS_KEPT):
        known.took(f"other {number}", 1.0)
    assert known.limit("a") is None


def test_assemble_and_validate_use_all_rounds_of_all_tasks(context: Context) -> None:
    model = imported(context)
    task = model.tasks[0]
    first = proposed(context, task)
    work = UpdateWork(
        task=task, want=0, state=first.state, trials=trials_of(first.candidates, 0.2), timings=[TIMING]
    )
    closed = expect(UpdateDone, run_stage(step(work, 1), context))
    records = [
        TaskRecords(task=task, history=closed.state.history),
        TaskRecords(task=model.tasks[1], history=[]),
    ]
    done = expect(AssembleDone, run_stage(step(AssembleWork(model=model.model, tasks=records)), context))
    assert msgspec.msgpack.decode(context.store.get(done.records), type=list[TaskRecords]) == records
    assert all(blob.data is None for blob in (done.tuned, done.untuned, done.records, *done.files.values()))
    checked = expect(
        ValidateDone,
        run_stage(
            step(ValidateWork(tuned=done.tuned, untuned=done.untuned, signature=done.signature)), context
        ),
    )
    assert checked.latency_before == pytest.approx(3 * 0.9 + 0.5)
    assert checked.latency_after == pytest.approx(3 * 0.2 + 0.5)
    assert checked.equal


def test_the_files_of_engines_get_along_with_each_other_and_with_the_results(
    context: Context, sandbox: FakeSandbox
) -> None:
    sandbox.answers["objection"] = ["", "not mine", ""]
    work = msgspec.structs.replace(
        step(ImportWork(model=context.store.put(MODEL))), engines=["metaschedule", "mock"]
    )
    model = expect(ImportDone, run_stage(work, context))
    sandbox.answers["export"] = [
        Exported(files={"log.json": b"1", "model.so": b"2", "../report": b"3", "l" * 100: b"6"}),
        Exported(files={"log.json": b"4", "other.json": b"5", "l" * 100: b"7"}),
    ]
    records = [TaskRecords(task=task, history=[]) for task in model.tasks]
    assemble = msgspec.structs.replace(work, work=AssembleWork(model=model.model, tasks=records))
    files = expect(AssembleDone, run_stage(assemble, context)).files
    assert {name: context.store.get(blob) for name, blob in files.items()} == {
        "log.json": b"1",
        "l" * 100: b"6",  # with a name in front the second one has no name that a result may have
        "mock-log.json": b"4",
        "other.json": b"5",
    }


def output(difference: float) -> OutputCheck:
    return OutputCheck(
        name="y",
        dtype="float32",
        elements=4,
        compared=4,
        units=difference,
        difference=difference,
        tolerance=1.0,
    )


@pytest.mark.parametrize("latencies", [[], [0.0, 0.0], [float("nan")]])
def test_models_without_a_latency_are_a_failure(
    context: Context, sandbox: FakeSandbox, latencies: list[float]
) -> None:
    blob = context.store.put(b"model")
    found = Validated(before=[0.1], after=latencies, outputs=[], wrong="")
    sandbox.answers["validate"] = [found]
    result = run_stage(step(ValidateWork(tuned=blob, untuned=blob, signature=blob)), context)
    assert "gave no latencies" in expect(Failure, result).error


@pytest.mark.parametrize(("looks", "runs", "drift"), [(4, 2, 0.0), (1000, 1, 0.5)])
def test_models_that_a_disturbance_met_are_run_again_when_it_is_over(
    context: Context, sandbox: FakeSandbox, looks: int, runs: int, drift: float
) -> None:
    model = imported(context)
    done = expect(AssembleDone, run_stage(step(AssembleWork(model=model.model, tasks=[])), context))
    sandbox.answers["reference"] = [SLOW] * looks + [CALM] * 10
    context.drift.seen([1e-3] * 5, 0.0)
    work = ValidateWork(tuned=done.tuned, untuned=done.untuned, signature=done.signature)
    checked = expect(ValidateDone, run_stage(step(work), context))
    assert [method for method, _ in sandbox.calls].count("validate") == runs
    assert checked.drift == pytest.approx(drift)
    assert checked.equal


def test_what_an_earlier_job_measured_of_a_task_is_known_at_import(context: Context) -> None:
    model = imported(context)
    tasks = model.tasks
    first = proposed(context, tasks[0])
    trials = trials_of(first.candidates, 0.2)
    work = UpdateWork(task=tasks[0], want=0, state=first.state, trials=trials, timings=[TIMING])
    closed = expect(UpdateDone, run_stage(step(work, 1), context))
    best = trials[0].candidate.hash
    records = [
        TaskRecords(
            task=tasks[0], history=closed.state.history, confirmed=[Confirmed(hash=best, latencies=[0.1])],
            untuned=0.5,
        ),
        TaskRecords(task=tasks[1], history=[]),
    ]  # fmt: skip
    blob = context.store.put(msgspec.msgpack.encode(records))
    again = ImportWork(model=context.store.put(MODEL), known=[blob])
    done = expect(ImportDone, run_stage(step(again), context))
    assert done.known == {
        tasks[0].id: Known(
            history=records[0].history, confirmed=records[0].confirmed, untuned=0.5, best=pytest.approx(0.1)
        )
    }
    damaged = context.store.put(b"nonsense")
    assert (
        "holds no records"
        in expect(Failure, run_stage(step(msgspec.structs.replace(again, known=[damaged])), context)).error
    )


def test_every_set_of_shapes_is_validated_by_itself(context: Context, sandbox: FakeSandbox) -> None:
    blob = context.store.put(b"model")
    judged = Judgement(judge="somebody", outputs=[output(0.5)])
    sandbox.answers["validate"] = [
        Validated(before=[0.2], after=[0.1], outputs=[output(0.0)], wrong="", judged=judged),
        Validated(before=[0.8], after=[0.3], outputs=[output(2.0)], wrong="output y is 2"),
    ]
    work = ValidateWork(tuned=blob, untuned=blob, signature=blob)
    checked = expect(ValidateDone, run_stage(step(work, settings=Settings(dims={"batch": [1, 4]})), context))
    assert sandbox.validated == [0, 1]
    assert checked.variants == [VariantLatency(0.2, 0.1), VariantLatency(0.8, 0.3)]
    assert (checked.latency_before, checked.latency_after) == (1.0, pytest.approx(0.4))
    assert (checked.largest_difference, checked.equal, checked.wrong) == (2.0, False, "output y is 2")
    assert checked.outputs == [output(0.0), output(2.0)]
    assert checked.judged == [judged, Judgement()]


def test_a_damaged_history_is_a_failure(context: Context) -> None:
    model = imported(context)
    records = [TaskRecords(task=model.tasks[0], history=[context.store.put(b"nonsense", inline=False)])]
    result = run_stage(step(AssembleWork(model=model.model, tasks=records)), context)
    assert "no history of a round" in expect(Failure, result).error
