"""The tables of phases and states: what may follow, and that nothing else does."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.world import BLOB, request
from tunemesh.coordinator.jobs import states
from tunemesh.coordinator.jobs.job import Job
from tunemesh.coordinator.jobs.ledger import Ledger, TaskLedger
from tunemesh.coordinator.jobs.states import FINAL, PHASES, SEARCHES, IllegalMove, check_move, search_state
from tunemesh.coordinator.lifecycle import Lifecycle
from tunemesh.coordinator.scheduling.dispatcher import Dispatcher
from tunemesh.coordinator.scheduling.durations import Durations
from tunemesh.coordinator.scheduling.resources import Resources
from tunemesh.coordinator.scheduling.strategies import by_name
from tunemesh.coordinator.state import State
from tunemesh.shared.messages import TaskSpec

SPEC = TaskSpec(id="t00", name="n", key="0" * 64, weight=1, engine="mock", workload=BLOB, untuned=BLOB)
FRESH = TaskLedger(spec=SPEC)
RUNNING = TaskLedger(spec=SPEC, round=0, want=8)
STARTED = msgspec.structs.replace(RUNNING, trials=2)
CLOSING = TaskLedger(spec=SPEC, round=1, want=0)
CLOSED = TaskLedger(spec=SPEC, round=1, closed=True)


def ledger(phase: str, *tasks: TaskLedger, revision: int = 3) -> Ledger:
    return Ledger(
        request=request(),
        revision=revision,
        phase=phase,  # type: ignore[arg-type]
        accepted=1.0,
        tasks=list(tasks),
    )


def test_a_search_is_fresh_running_closing_or_closed() -> None:
    found = [search_state(each) for each in (FRESH, RUNNING, CLOSING, CLOSED)]
    assert found == ["fresh", "running", "closing", "closed"]


@given(before=st.sampled_from(list(PHASES)), after=st.sampled_from(list(PHASES)))
def test_a_phase_follows_another_only_if_the_table_says_so(before: str, after: str) -> None:
    tasks = () if "importing" in (before, after) else (CLOSED,)
    one, other = ledger(before, *tasks), ledger(after, *tasks, revision=4)
    legal = after in PHASES[before] or (after == before and before not in FINAL)  # type: ignore[index]
    if legal:
        check_move(one, other)
    else:
        with pytest.raises(IllegalMove, match=f"{after}"):
            check_move(one, other)


@pytest.mark.parametrize("before", [FRESH, RUNNING, CLOSING, CLOSED])
@pytest.mark.parametrize("after", [FRESH, RUNNING, CLOSING, CLOSED])
def test_a_search_moves_only_as_the_table_says(before: TaskLedger, after: TaskLedger) -> None:
    rounds = {"fresh": -1, "running": 0, "closing": 1, "closed": 1}
    before = msgspec.structs.replace(before, round=rounds[search_state(before)])
    if search_state(after) != "fresh":
        after = msgspec.structs.replace(after, round=max(before.round, 0))
    if search_state(before) == "running" and search_state(after) == "closing":
        after = msgspec.structs.replace(after, round=1)
    same = search_state(before) == search_state(after)
    one, other = ledger("tuning", before), ledger("tuning", after, revision=4)
    if same or search_state(after) in SEARCHES[search_state(before)]:
        check_move(one, other)
    else:
        with pytest.raises(IllegalMove):
            check_move(one, other)


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (ledger("tuning", RUNNING, revision=3), "revision 3 after 3"),
        (ledger("tuning", RUNNING, revision=5), "revision 5 after 3"),
        (ledger("assembling", STARTED, revision=4), "assembling while t00 is not closed"),
        (ledger("tuning", revision=4), "its tasks are others than before"),
        (ledger("tuning", msgspec.structs.replace(RUNNING, round=2), revision=4), "round 2 after 0"),
        (ledger("tuning", msgspec.structs.replace(RUNNING, trials=1), revision=4), "1 trials after 2"),
    ],
)
def test_a_revision_that_does_not_follow_is_named(after: Ledger, said: str) -> None:
    before = ledger("tuning", STARTED)
    with pytest.raises(IllegalMove, match=said):
        check_move(before, after)


def test_an_illegal_move_changes_nothing() -> None:
    resources = Resources()
    state = State(resources, Durations(), Dispatcher(by_name("interleaved"), resources))
    before = ledger("tuning", RUNNING)
    job = Job(before, 1)
    with pytest.raises(IllegalMove):
        Lifecycle(state).revise(job, (), phase="done")
    assert job.ledger is before
    assert state.out == []


def test_the_figure_in_the_architecture_is_that_of_the_tables() -> None:
    text = Path("docs", "architecture.md").read_text()
    assert states.diagram() in text
