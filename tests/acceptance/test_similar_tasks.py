"""What similar tasks say about one of which nothing was measured: real TVM, one process, no broker."""

from __future__ import annotations

import zlib
from typing import Any

import pytest

from tests.acceptance.direct import ENGINE, build, import_model, profile, update
from tests.acceptance.test_convolutions import by_winograd, model
from tests.acceptance.test_own_rules import convolution, product
from tunemesh.shared.messages import Candidate, Trial
from tunemesh.stage_workers.engines.metaschedule import refitting, winograd_search
from tunemesh.stage_workers.engines.protocol import Examples, UpdateCall
from tunemesh.stage_workers.graph import workloads
from tunemesh.stage_workers.platforms.protocol import ExtractedTask


def the_task(given: Any, target: str) -> ExtractedTask:
    (task,) = import_model(given.SerializeToString(), target).tasks
    return task


def examples(task: ExtractedTask, target: str, want: int = 4) -> Examples:
    """As if the first of the schedules that are proposed were the fastest."""
    proposed = update(task.workload, target, None, [], want).schedules
    trials = [
        Trial(candidate=Candidate(number, *each), outcome="measured", latencies=[1e-3 * (number + 1)])
        for number, each in enumerate(proposed)
    ]
    return Examples(workload=task.workload, target=target, trials=trials)


@pytest.mark.parametrize(
    ("given", "other"),
    [
        (convolution((1, 32, 14, 14), (64, 32, 1, 1)), convolution((1, 48, 10, 10), (96, 48, 1, 1))),
        (product(64, 48, 128), product(40, 96, 64)),
    ],
    ids=["pointwise", "product"],
)
def test_the_only_candidate_is_the_best_of_the_most_similar_task_made_to_fit(
    given: Any, other: Any, target: str
) -> None:
    task, similar = the_task(given, target), examples(the_task(other, target), target)
    call = UpdateCall(workload=task.workload, target=target, want=1, seed=1, similar=[similar])
    ((name, schedule),) = ENGINE.update(call).schedules
    fitted = refitting.Space(task.workload, target).fitted(similar.trials[0].candidate.schedule)
    assert fitted is not None
    assert name == workloads.structural_hash(fitted.scheduled.mod)
    built = build(task.workload, target, schedule)
    assert built.artifact is not None, built.error
    assert profile(task, target, built.artifact).outcome == "measured"


def test_a_schedule_of_the_task_itself_fits_as_it_is(target: str) -> None:
    task = the_task(product(64, 48, 128), target)
    space = refitting.Space(task.workload, target)
    for trial in examples(task, target).trials:
        fitted = space.fitted(trial.candidate.schedule)
        assert fitted is not None
        assert fitted.strain == 0
        assert workloads.structural_hash(fitted.scheduled.mod) == trial.candidate.hash


def test_what_others_wrote_may_be_anything(target: str) -> None:
    task = the_task(product(64, 48, 128), target)
    nonsense = [
        Trial(candidate=Candidate(number, f"{number}", schedule), outcome="measured", latencies=[1e-6])
        for number, schedule in enumerate((b"no schedule", zlib.compress(winograd_search.TAG + b"{")))
    ]
    similar = [
        Examples(workload=b"no workload", target=target, trials=nonsense),
        Examples(workload=task.workload, target=target, trials=nonsense),
        Examples(workload=task.workload, target=target, trials=nonsense, format=99),
    ]
    call = UpdateCall(workload=task.workload, target=target, want=1, seed=1, similar=similar)
    assert len(ENGINE.update(call).schedules) == 1


def test_similar_tasks_decide_whether_the_only_candidate_is_by_winograds_algorithm(target: str) -> None:
    task, other = (
        by_winograd(import_model(model((1, 32, size, size), 32).SerializeToString(), target, {}))[0]
        for size in (12, 24)
    )
    proposed = update(other.workload, target, None, [], 8).schedules
    for wanted in (True, False):
        trials = [
            Trial(
                candidate=Candidate(number, *each),
                outcome="measured",
                latencies=[1e-3 if winograd_search.is_ours(each[1]) == wanted else 3e-3],
            )
            for number, each in enumerate(proposed)
        ]
        similar = [Examples(workload=other.workload, target=target, trials=trials)]
        call = UpdateCall(workload=task.workload, target=target, want=1, seed=1, similar=similar)
        ((_, schedule),) = ENGINE.update(call).schedules
        assert winograd_search.is_ours(schedule) == wanted
