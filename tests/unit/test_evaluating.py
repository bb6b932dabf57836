"""How good what is chosen without a measurement is, on the mock engine's landscape."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from tests.unit.record_rows import HERE
from tests.unit.stage_calls import FakeSandbox
from tests.unit.test_known import FIRST, database, recording, tune
from tunemesh import evaluating
from tunemesh.evaluating import Evaluation
from tunemesh.evaluation_commands import rows_of
from tunemesh.shared.errors import BadInput
from tunemesh.shared.messages import ValidateDone
from tunemesh.stage_workers.engines.protocol import UpdateCall
from tunemesh.stage_workers.platforms.protocol import ProfileOutcome
from tunemesh.stage_workers.records import gathering
from tunemesh.stage_workers.records.queries import Answering
from tunemesh.stage_workers.stages import Context

__all__ = ["database", "recording"]


@pytest.fixture
def evaluation(recording: Context, sandbox: FakeSandbox, database: Answering) -> Evaluation:
    """Of a network that was tuned here, and of another one with the same tasks."""
    tune(recording)
    tune(recording, replace(FIRST, job="second", model="other", accepted=FIRST.accepted + 1))
    done = ValidateDone(latency_before=2.0, latency_after=1.0, largest_difference=0.0, equal=True)
    database.add(gathering.of_result(FIRST, "mock", done, HERE))
    return Evaluation(database, sandbox, "mock", "cpu", [1.0, 0.0])  # type: ignore[arg-type]


def test_a_network_is_left_out_and_what_others_know_is_chosen_and_measured(
    evaluation: Evaluation, sandbox: FakeSandbox
) -> None:
    assert evaluation.networks() == ["net"]
    found = evaluation.of_network("net", lambda text: pytest.fail(text))
    assert sorted(each.name for each in found) == ["a", "b"]
    for task in found:
        everything, nothing = task.chosen
        # The other network has the very same tasks: its best ones come first.
        assert everything.instant == everything.top[1] >= everything.top[5] >= everything.top[8] >= task.best
        assert nothing.top == {}
        assert nothing.similar == 0
        assert task.best <= min(nothing.instant, everything.instant)
    wanted = {each.want for each in sandbox.records if isinstance(each, UpdateCall)}
    assert wanted >= {1, 4}  # without records one is proposed; with them four of eight are known


def test_without_a_right_candidate_the_untuned_kernel_counts(
    evaluation: Evaluation, sandbox: FakeSandbox
) -> None:
    (before, *_) = evaluation.of_network("net", print, most=1)
    right = ProfileOutcome(outcome="measured", latencies=[before.best])
    wrong = ProfileOutcome(outcome="wrong-result", error="it differs")
    # The first that is measured is the best that is known.
    sandbox.answers["profile"] = [right, *[wrong] * 30]
    (task,) = evaluation.of_network("net", print, most=1)
    assert before.chosen[1].instant < task.chosen[1].instant == task.untuned


def test_the_parts_of_the_records_are_one_within_the_other() -> None:
    tasks = [f"{number:064x}" for number in range(200)]
    parts = [{task for task in tasks if evaluating._taken(task, share)} for share in (0.0, 0.25, 0.5, 1.0)]
    assert [len(part) for part in parts][::3] == [0, 200]
    assert parts[1] < parts[2] < parts[3]


def test_a_network_that_nobody_tuned_is_refused(evaluation: Evaluation) -> None:
    with pytest.raises(BadInput, match="the records know no model 'nothing'"):
        evaluation.of_network("nothing", print)


def test_all_networks_together_are_a_row_of_their_own(evaluation: Evaluation) -> None:
    found = [task for name in ("net", "other") for task in evaluation.of_network(name, print)]
    rows = rows_of(found)
    shares = [("net", 2), ("other", 2), ("all", 4)]
    expected = [(name, share, tasks) for name, tasks in shares for share in (1.0, 0.0)]
    assert [(row.network, row.share, row.tasks) for row in rows] == expected
    assert rows[4].instant == pytest.approx((rows[0].instant * rows[2].instant) ** 0.5)
