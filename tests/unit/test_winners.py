"""Several engines search a task: whose kernel goes into the model, and what people are told of it."""

from __future__ import annotations

import io
import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tunemesh import tables
from tunemesh.coordinator.jobs import searches
from tunemesh.coordinator.jobs.ledger import TaskLedger
from tunemesh.report import make_job_report
from tunemesh.shared.messages import (
    Blob,
    Candidate,
    Confirmed,
    ImportDone,
    JobProgress,
    SearchProgress,
    TaskProgress,
    TaskRecords,
    TaskSpec,
    Trial,
)
from tunemesh.stage_workers.stages.assembling import fastest
from tunemesh.stage_workers.stages.model_update import leaders

BLOB = Blob("0" * 64, 0, b"")


def spec(engine: str | None, number: int = 0, weight: int = 1, key: str = "a") -> TaskSpec:
    return TaskSpec(
        id=f"t00.{engine}{number}", name="t", key=key * 64, weight=weight, engine=engine, workload=BLOB,
        untuned=BLOB,
    )  # fmt: skip


def tried(*latencies: float, drift: float = 0.0) -> list[Trial]:
    return [
        Trial(candidate=Candidate(n, f"h{n}", b"s"), outcome="measured", latencies=[each], drift=drift)
        if math.isfinite(each)
        else Trial(candidate=Candidate(n, f"h{n}", b"s"), outcome="wrong-result", error="it is wrong")
        for n, each in enumerate(latencies)
    ]


def search(
    engine: str,
    latencies: list[float],
    confirmed: dict[int, float] | None = None,
    untuned: float | None = 9.0,
) -> tuple[TaskRecords, list[Trial]]:
    """A search with what it tried, as ``assemble`` reads it."""
    again = confirmed or {}
    records = TaskRecords(
        task=spec(engine),
        history=[],
        confirmed=[Confirmed(hash=f"h{n}", latencies=[each]) for n, each in again.items()],
        untuned=untuned,
    )
    return records, tried(*(again.get(n, each) for n, each in enumerate(latencies)))


def winner(*searches: tuple[TaskRecords, list[Trial]]) -> tuple[str | None, str] | None:
    best = fastest(searches)
    return (best.records.task.engine, best.trial.candidate.hash) if best is not None else None


def test_the_fastest_confirmed_kernel_wins_whichever_engine_made_it() -> None:
    one = search("one", [1.0, 1.2], {0: 1.1})
    assert winner(one, search("two", [1.05, 3.0], {0: 1.05})) == ("two", "h0")
    assert winner(one, search("two", [1.05, 3.0], {0: 1.3})) == ("one", "h0")
    # One that was measured once, and looked faster then, was not confirmed.
    assert winner(one, search("two", [1.05, 0.9], {0: 1.3})) == ("one", "h0")
    assert winner(search("one", [1.0]), search("two", [0.9])) == ("two", "h0")


def test_a_wrong_kernel_never_wins() -> None:
    assert winner(search("one", [2.0]), search("two", [math.inf, 3.0])) == ("one", "h0")
    assert winner(search("two", [math.inf])) is None


def test_what_is_slower_than_the_untuned_kernel_is_of_no_use() -> None:
    assert winner(search("one", [2.0]), search("two", [1.5], untuned=1.4)) is None
    assert winner(search("one", [2.0], untuned=None)) == ("one", "h0")


@pytest.mark.parametrize("most", [0, 1, 2, 4])
def test_no_more_are_named_than_are_asked_for(most: int) -> None:
    found = leaders(tried(1.0, 1.01, 1.02, 1.03, 1.04), most, rival=1.0)
    assert len(found) == most


def named(trials: list[Trial], rival: float | None) -> list[str]:
    return [name for name, _ in leaders(trials, 4, rival)]


def test_what_may_be_the_best_of_all_engines_is_measured_again() -> None:
    close, far = tried(1.0, 1.05, 2.0), tried(1.0, 2.0)
    assert named(close, None) == named(close, 1.0) == named(close, 3.0) == ["h0", "h1"]
    # Alone there is nothing to decide; beside another engine there is.
    assert named(far, None) == []
    assert named(far, 3.0) == named(far, 0.95) == ["h0"]
    # Too far behind another engine to win.
    assert named(close, 0.5) == named(far, 0.9) == []
    assert named(close, 0.93) == ["h0"]
    assert named([], 1.0) == named(tried(math.inf), 1.0) == []


@given(st.lists(st.floats(1e-6, 1.0), max_size=12), st.floats(1e-6, 1.0))
def test_of_all_engines_what_is_within_reach_of_the_best_is_measured_again(
    latencies: list[float], rival: float
) -> None:
    found = named(tried(*latencies), rival)
    lead = min([*latencies, rival])
    near = sorted((each, f"h{n}") for n, each in enumerate(latencies) if each <= 1.1 * lead)
    assert found == [name for _, name in near][:4]


@pytest.mark.parametrize(
    ("specs", "why"),
    [
        ([spec("one"), spec("two", 1)], ""),
        ([spec("one"), spec("one", 1)], "are not all for different engines"),
        ([spec("one"), spec(None, 1)], "are not all for different engines"),
        ([spec("one"), spec("two", 1, weight=2)], "do not agree on its weight"),
        ([spec("one"), spec("one", 1, key="b")], ""),
    ],
)
def test_the_searches_of_a_task_agree(specs: list[TaskSpec], why: str) -> None:
    found = ImportDone(model=BLOB, tasks=specs).problem(["one", "two"])
    assert why in found
    assert bool(why) == bool(found)


def progress(*tasks: TaskProgress) -> JobProgress:
    return JobProgress(
        job="j", name="network", phase="done", target="llvm", trials=1, budget=1, accepted=1.0, finished=2.0,
        tasks=list(tasks), usage={},
    )  # fmt: skip


def task(
    name: str, engine: str | None, bests: dict[str, float | None], untuned: float = 10.0
) -> TaskProgress:
    return TaskProgress(
        id=name, name=name, weight=1, trials=4, outcomes={}, untuned=untuned, engine=engine, last_error="",
        best=bests[engine] if engine is not None else None,
        searches=[SearchProgress(engine=each, trials=2, best=best) for each, best in bests.items()],
    )  # fmt: skip


def test_the_report_says_who_won_and_by_how_much() -> None:
    report = make_job_report(
        progress(
            task("t00", "one", {"one": 2.0, "two": 5.0}),
            task("t01", "two", {"one": 3.0, "two": 2.0}),
            task("t02", "two", {"one": None, "two": 2.0}),
            task("t03", "two", {"one": 30.0, "two": 20.0}),
            task("t04", None, {"one": None, "two": None}),
        ),
        [],
    )
    assert [each.engine for each in report.tasks] == ["one", "two", "two", None, None]
    assert [each.ahead for each in report.tasks] == [2.5, 1.5, None, 1.5, None]
    assert [each.best_s for each in report.tasks[0].searches] == [2.0, 5.0]
    assert tables.winners(report) == (
        "tasks by the engine of the fastest kernel: 2 two (by 1.50 times), 2 untuned, 1 one (by 2.50 times)"
    )
    console = Console(width=120, file=io.StringIO())
    console.print(tables.winners_table(report))
    assert isinstance(console.file, io.StringIO)
    _, header, _, *rows = console.file.getvalue().splitlines()
    assert header.split()[-4:] == ["one", "two", "winner", "by"]
    assert len(rows) == 5


def test_what_took_turns_with_the_winner_says_how_far_that_is_ahead() -> None:
    found = task("t00", "one", {"one": 2.0, "two": 2.4, "three": 2.1, "four": 5.0})
    behind = {"two": 1.25, "three": 1.1}
    near = msgspec.structs.replace(
        found,
        searches=[msgspec.structs.replace(each, behind=behind.get(each.engine)) for each in found.searches],
    )
    report = make_job_report(progress(near, task("t01", "one", {"one": 2.0, "two": 3.0})), [])
    assert [each.ahead for each in report.tasks] == [1.1, 1.5]
    assert [each.behind for each in report.tasks[0].searches] == [None, 1.25, 1.1, None]
    console = Console(width=120, file=io.StringIO())
    console.print(tables.winners_table(report))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert " 1.10x" in text
    assert " ~1.50x" in text  # none was near enough to take turns


def turn_ledger(engine: str, *confirmed: tuple[str, list[float]]) -> TaskLedger:
    return TaskLedger(
        spec=spec(engine),
        best=1.0,
        confirmed=[
            Confirmed(hash=f"h{n}", latencies=each, turns=turns) for n, (turns, each) in enumerate(confirmed)
        ],
    )


def test_ratios_are_those_within_a_turn() -> None:
    """In the second turn something else had the core: both took twice as long."""
    ahead = turn_ledger("one", ("a", [1.0, 2.0, 1.0]), ("a", [1.5, 3.0, 1.5]))
    near = turn_ledger("two", ("a", [1.2, 2.2, 1.2]), ("a", [1.3, 2.6, 1.3]))
    assert searches.behind(ahead, [near]) == pytest.approx(1.2)
    # Measured at another time, or it is not known when.
    assert searches.behind(ahead, [turn_ledger("two", ("b", [1.2, 2.2, 1.2]))]) is None
    assert searches.behind(turn_ledger("one", ("", [1.0])), [turn_ledger("two", ("", [1.2]))]) is None
    assert searches.behind(turn_ledger("one"), [near]) is None
    assert searches.behind(ahead, [turn_ledger("two")]) is None


def test_where_one_engine_searches_alone_nobody_wins() -> None:
    assert tables.winners(make_job_report(progress(task("t00", "one", {"one": 2.0})), [])) == ""


def test_where_all_is_known_nobody_wins() -> None:
    known = msgspec.structs.replace(task("t00", "one", {"one": 2.0, "two": None}), trials=0)
    assert tables.winners(make_job_report(progress(known), [])) == ""
