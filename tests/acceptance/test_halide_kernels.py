"""Every kernel of Halide's engine computes what TVM's own code computes, whoever made its schedule."""

from __future__ import annotations

import random
from dataclasses import replace

import msgspec
import pytest

from tests.acceptance import direct
from tests.acceptance.test_cuda_templates import workload_of
from tests.acceptance.test_template_kernels import (
    OPERATORS,
    SMALL,
    placeholder,
    product,
    softmax,
    task_of,
    two_layers,
)
from tests.acceptance.test_template_kernels import target as target
from tunemesh.shared.messages import Candidate, Trial
from tunemesh.stage_workers.engines.halide import HalideEngine
from tunemesh.stage_workers.engines.protocol import BuildCall, Examples, ObjectPart, TaskRef, UpdateCall
from tunemesh.stage_workers.engines.template import TemplateEngine, schedules
from tunemesh.stage_workers.platforms.protocol import ExtractedTask

pytest.importorskip("halide", reason='Halide is not installed: pip install "tunemesh[halide]"')

ENGINE = HalideEngine()
AUTOSCHEDULERS = {"adams2019", "li2018", "mullapudi2016"}
TRIED = (
    "transposed weight",
    "GELU",
    "batched",
    "1x1, channels first",
    "3x3",
    "3x3, channels first, stride 2",
    "depthwise",
    "maximum",
)


def tried(task: ExtractedTask, target: str, schedules: list[tuple[str, bytes]]) -> list[Trial]:
    """What becomes of these candidates."""
    trials = []
    for number, (name, schedule) in enumerate(schedules):
        built = ENGINE.build(BuildCall(workload=task.workload, target=target, schedule=schedule))
        assert built.artifact is not None, (schedule, built.error)
        profiled = direct.profile(task, target, built.artifact)
        trials.append(
            Trial(
                candidate=Candidate(number, name, schedule),
                outcome=profiled.outcome,
                latencies=profiled.latencies,
                error=profiled.error,
            )
        )
    return trials


def first_round(task: ExtractedTask, target: str, want: int) -> list[tuple[str, bytes]]:
    return ENGINE.update(UpdateCall(workload=task.workload, target=target, want=want, seed=3)).schedules


@pytest.mark.parametrize("name", TRIED)
def test_kernels_compute_what_the_task_says(name: str, target: str) -> None:
    from tunemesh.stage_workers.engines.halide import tuning

    made, weights, fast = OPERATORS[name]
    task = task_of(made(), weights, fast, target)
    assert ENGINE.objection(TaskRef(workload=task.workload, target=target, name="", key="")) == ""
    space, chance = tuning.taken(task.workload, target).space, random.Random(name)
    while not space.is_valid(genome := space.genome(chance.randrange(space.size))):
        continue
    (trial,) = tried(task, target, [schedules.packed("halide", space, genome)])
    assert trial.outcome == "measured", (trial.candidate.schedule, trial.error)


def test_autoschedulers_give_the_last_candidates_of_the_first_round(target: str) -> None:
    task = task_of(product(20, 48, 32), [1], False, target)
    proposed = first_round(task, target, 5)
    assert {name for name, _ in proposed[2:]} == AUTOSCHEDULERS
    trials = tried(task, target, proposed)
    assert [trial.outcome for trial in trials] == ["measured"] * 5
    # The search goes on from what has knobs; a round of few candidates has the search's only.
    call = UpdateCall(workload=task.workload, target=target, want=4, seed=3)
    state = ENGINE.update(call).search
    again = ENGINE.update(msgspec.structs.replace(call, search=state, trials=trials)).schedules
    assert len({name for name, _ in [*proposed, *again]}) == 9
    assert not AUTOSCHEDULERS & {name for name, _ in [*again, *first_round(task, target, 3)]}
    # What earlier jobs have tried is not proposed again, whoever made it.
    seen = [name for name, _ in proposed]
    later = ENGINE.update(msgspec.structs.replace(call, seen=seen)).schedules
    assert not {name for name, _ in later} & set(seen)
    off = ENGINE.update(msgspec.structs.replace(call, options={"autoschedulers": False})).schedules
    assert not {name for name, _ in off} & AUTOSCHEDULERS


@pytest.mark.parametrize("search", ["roulette", "three-parents", "reinforce", "portfolio"])
def test_all_searches_search_its_knobs(search: str, target: str) -> None:
    task = task_of(product(20, 48, 32), [1], False, target)
    call = UpdateCall(workload=task.workload, target=target, want=4, seed=3, options={"search": search})
    proposal, names = ENGINE.update(call), set[str]()
    for _ in range(3):
        assert len(proposal.schedules) == 4
        assert not names & {name for name, _ in proposal.schedules}
        names |= {name for name, _ in proposal.schedules}
        trials = [
            Trial(candidate=Candidate(i, *each), outcome="measured", latencies=[1e-3 / (1 + i)])
            for i, each in enumerate(proposal.schedules)
        ]
        call = msgspec.structs.replace(call, search=proposal.search, trials=trials)
        proposal = ENGINE.update(call)
        assert ENGINE.update(call) == proposal


def test_a_pipeline_with_a_mistake_never_wins(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from tunemesh.stage_workers.engines.halide import pipelines

    right = pipelines.pipeline_of
    monkeypatch.setattr(
        pipelines, "pipeline_of", lambda operator, roles: right(replace(operator, start=1.0), roles)
    )
    task = task_of(product(20, 48, 32), [1], False, target)
    trials = tried(task, target, first_round(task, target, 5))
    assert {trial.outcome for trial in trials} == {"wrong-result"}


def test_a_model_has_kernels_of_templates_and_of_halide(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = two_layers()
    imported, tuned = direct.import_model(model, target, options={}), []
    tasks = [
        task
        for task in imported.tasks
        if not ENGINE.objection(TaskRef(workload=task.workload, target=target, name=task.name, key=task.key))
    ]
    assert len(tasks) == 2
    for task, engine in zip(tasks, (ENGINE, TemplateEngine()), strict=True):
        call = UpdateCall(workload=task.workload, target=target, want=1, seed=3)
        (best,) = engine.update(call).schedules
        trial = Trial(candidate=Candidate(0, *best), outcome="measured", latencies=[1e-3])
        monkeypatch.setattr(direct, "ENGINE", engine)
        tuned.append(direct.tuned_task(task, target, trial))
    # The weights of one are in an order of its own.
    assert [isinstance(each.part, ObjectPart) for each in tuned] == [True, True]
    assert tuned[0].part.packs == [1]
    assembled = direct.assemble(imported.model, target, tuned)
    direct.assert_computes_the_same(model, assembled.tuned)


def test_what_halide_refuses_is_the_candidates_outcome(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import halide as hl

    from tunemesh.stage_workers.engines.halide import pipelines, scheduling

    def nowhere(_: scheduling.Plan, pipeline: pipelines.Pipeline, __: object) -> None:
        """At a loop of the output that there is not."""
        pipeline.total.compute_at(pipeline.output, hl.Var("x"))

    monkeypatch.setattr(scheduling.Plan, "_sum", nowhere)
    task = task_of(product(20, 48, 32), [], False, target)
    ((_, schedule),) = first_round(task, target, 1)
    built = ENGINE.build(BuildCall(workload=task.workload, target=target, schedule=schedule))
    assert built.outcome == "build-failed"
    assert "Halide refuses the schedule" in built.error


def test_its_loops_can_be_read(target: str) -> None:
    task = task_of(product(20, 48, 32), [1], False, target)
    ((_, schedule),) = first_round(task, target, 1)
    source = ENGINE.source(BuildCall(workload=task.workload, target=target, schedule=schedule))
    assert source.language == "Halide"
    assert "produce output" in source.text


def test_what_earlier_jobs_have_measured_is_known(target: str) -> None:
    task = task_of(product(20, 48, 32), [1], False, target)
    earlier = first_round(task, target, 3)
    trials = [
        Trial(candidate=Candidate(number, *each), outcome="measured", latencies=[1e-3 * (4 - number)])
        for number, each in enumerate(earlier)
    ]
    examples = [Examples(workload=task.workload, target=target, trials=trials, format=ENGINE.format)]
    other = task_of(product(20, 48, 64), [1], False, target)
    call = UpdateCall(workload=other.workload, target=target, want=3, seed=3, similar=examples)
    # A similar task begins with what was best.
    assert [name for name, _ in ENGINE.update(call).schedules][:2] == [earlier[2][0], earlier[1][0]]


def test_what_it_has_no_pipeline_for_is_left_to_others(target: str) -> None:
    from tvm import te

    a = placeholder(16, 64)
    turned = task_of([a, te.compute((64, 16), lambda i, j: a[j, i])], [], False, target)
    rows = task_of(softmax(5, 20), [], False, target)
    small = [workload_of(SMALL[name](), True, target) for name in ("bf16, GELU", "int8, exact")]
    why = [
        ENGINE.objection(TaskRef(workload=each, target=target, name="", key=""))
        for each in (turned.workload, rows.workload, *small)
    ]
    assert why == [
        "no pipeline fits: it sums nothing up",
        "no pipeline fits: it sums up in several places",
        *["no pipeline fits: it is not in single precision"] * 2,
    ]
