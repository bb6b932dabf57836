"""The dashboard: what it knows, and what it shows."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest

from tests.unit.fake_mesh import FakeMesh, job, until
from tunemesh.dashboard import board as boards
from tunemesh.dashboard import feed as feeds
from tunemesh.dashboard.board import Board
from tunemesh.dashboard.feed import Feed
from tunemesh.dashboard.listing import PAGE, Wanted, course, listing
from tunemesh.shared.messages import OTHERS, JobEvent, ResourceProgress, Snapshot

NOW = 10_000.0


def snapshot(*jobs: Any, **more: Any) -> Snapshot:
    return Snapshot(strategy="interleaved", jobs=list(jobs), resources=[], **more)


@pytest.fixture
def board() -> Board:
    made = Board()
    made.listed(snapshot(*(job(number, NOW) for number in range(1000))), NOW)
    return made


# -- What is shown -------------------------------------------------------------------------------------------


def test_those_that_run_come_first_and_the_newest_of_them(board: Board) -> None:
    shown = listing(board.view(), Wanted(), NOW)
    assert [row.job for row in shown.rows[:3]] == ["net-0998", "net-0996", "net-0994"]
    assert (len(shown.rows), shown.found, shown.pages) == (PAGE, 1000, 1000 // PAGE)
    assert shown.counts == {
        "all": 1000, "running": 343, "waiting": 57, "done": 500, "failed": 100, "cancelled": 0
    }  # fmt: skip
    assert shown.reasons == [("no device serves target nvidia/nvidia-h100", 57)]
    last = listing(board.view(), Wanted(page=99999), NOW)
    assert last.page == last.pages


@pytest.mark.parametrize(
    ("text", "shown", "found"),
    [
        ("NET-0012", "all", 1), ("gold waiting", "all", 0),
        ("nvidia gold", "waiting", 19),
        ("operator foo", "all", 100), ("", "failed", 100), ("model3.onnx", "done", 14),
        ("znver5", "cancelled", 0),
    ],
)  # fmt: skip
def test_jobs_are_found_by_all_that_is_known_of_them(board: Board, text: str, shown: Any, found: int) -> None:
    assert listing(board.view(), Wanted(text, shown), NOW).found == found


def test_what_fails_for_one_reason_is_told_once() -> None:
    failed = {"phase": "failed", "finished": NOW}
    jobs = [msgspec.structs.replace(job(number, NOW), error="no disk", **failed) for number in range(3)]
    latest = msgspec.structs.replace(job(7, NOW), error="no device", phase="failed", finished=NOW + 1)
    board = Board()
    board.listed(snapshot(*jobs, latest), NOW)
    assert listing(board.view(), Wanted(), NOW).errors == [
        ("net-0007", 0, "no device"),
        ("net-0002", 2, "no disk"),
    ]


@pytest.mark.parametrize(
    ("order", "first"),
    [("oldest", "net-0000"), ("name", "net-0000"), ("trials", "net-0959"), ("newest", "net-0998")],
)
def test_jobs_are_ordered_as_a_person_asks(board: Board, order: Any, first: str) -> None:
    assert listing(board.view(), Wanted(order=order), NOW).rows[0].job == first


def test_what_makes_no_sense_in_an_address_counts_as_not_said() -> None:
    strange = {"shown": "x", "order": "y", "page": "-1", "text": "a" * 500}
    assert Wanted.of(strange) == Wanted(text="a" * 200)
    assert Wanted.of({"page": "0"}).page == Wanted.of({"page": "1e9"}).page == 1
    chosen = Wanted("a b", "failed", "name", 3)
    assert chosen.query() == "text=a+b&shown=failed&order=name&page=3"
    assert chosen.query(page=1) == "text=a+b&shown=failed&order=name"


def test_the_latest_is_at_the_right_of_the_course_of_a_resource() -> None:
    assert course([]) == ""
    assert course([1.0]) == "100.0,1.0"
    assert course([0.0] * 90).startswith("0.0,20.0 ")


# -- What is known -------------------------------------------------------------------------------------------


def resource(*running: str) -> ResourceProgress:
    return ResourceProgress(
        queue="build-cpu",
        slots=2,
        workers=["w"],
        targets=[],
        running=list(running),
        busy=1.0,
        utilisation=0.5,
    )


def test_an_operator_keeps_knowing_whose_steps_are_in_flight_when_a_tenant_is_told_less() -> None:
    board = Board()
    board.listed(
        msgspec.structs.replace(snapshot(job(2, NOW)), resources=[resource("net-0002/t00/1/0/build")]), NOW
    )
    told = msgspec.structs.replace(resource(OTHERS), utilisation=0.75)
    board.event(
        JobEvent(job="net-0005", kind="progress", at=NOW, progress=job(5, NOW), resources=[told]), NOW
    )
    (row,) = listing(board.view(), Wanted(), NOW).resources
    assert row.running == [("net-0002", "net-0002 t00 build")]
    assert row.busy == 0.75


def test_a_step_of_another_tenant_is_said_to_be_one() -> None:
    board = Board()
    board.listed(msgspec.structs.replace(snapshot(), resources=[resource(OTHERS)]), NOW)
    (row,) = listing(board.view(), Wanted(), NOW).resources
    assert row.running == [("", "of another tenant")]


def test_a_job_that_nobody_lists_any_more_goes_unless_it_has_ended(board: Board) -> None:
    board.listed(snapshot(job(2, NOW)), NOW + 10)
    board.not_listed_since(NOW + 5)
    kept = {each.job for each in board.view().jobs}
    assert "net-0002" in kept
    assert "net-0004" not in kept
    assert "net-0001" in kept  # done


def test_a_board_does_not_grow_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boards, "MOST_JOBS", 10)
    small = Board()
    small.listed(snapshot(*(job(number, NOW) for number in range(40))), NOW)
    jobs = small.view().jobs
    assert len(jobs) == 10
    assert all(each.finished is None for each in jobs)  # those that have ended went first


def test_what_was_measured_is_known_of_jobs_that_somebody_looks_at(board: Board) -> None:
    event = JobEvent(job="net-0002", kind="progress", at=NOW, progress=job(2, NOW))
    board.event(event, NOW)
    detail = board.detail("net-0002")
    assert detail is not None
    assert not detail.asked
    board.told("net-0002", snapshot(job(2, NOW)), NOW)
    detail = board.detail("net-0002")
    assert detail is not None
    assert detail.asked
    changed = msgspec.structs.replace(job(2, NOW), trials=77)
    board.event(msgspec.structs.replace(event, progress=changed), NOW)
    detail = board.detail("net-0002")
    assert detail is not None
    assert (detail.asked, detail.progress.trials) == (NOW, 77)
    assert board.detail("no-such") is None


# -- Listening -----------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "TURN", 0.01)
    monkeypatch.setattr(feeds, "EVERY", 0.05)
    monkeypatch.setattr(feeds, "PAUSE", 0.02)


def mesh_of(count: int, **more: Any) -> FakeMesh:
    return FakeMesh([job(number) for number in range(count)], **more)


def test_a_thousand_jobs_come_in_several_lists_and_then_as_events(quick: None) -> None:
    mesh, board = mesh_of(1000), Board()
    with Feed("amqp://x", board, mesh.client):  # type: ignore[arg-type]
        assert until(lambda: len(board.view().jobs) == 1000)
        mesh.change("net-0002", trials=99)
        assert until(lambda: any(each.trials == 99 for each in board.view().jobs if each.job == "net-0002"))
        assert until(lambda: len(board.view().resources) == 4 and not board.view().left_out)


def test_a_broker_that_goes_is_told_and_what_happened_meanwhile_is_asked_for(quick: None) -> None:
    mesh, board = mesh_of(10), Board()
    with Feed("amqp://x", board, mesh.client):  # type: ignore[arg-type]
        assert until(lambda: not board.view().link.away)
        mesh.goes("connection reset")
        assert until(lambda: "the broker is away: connection reset" in board.view().link.away)
        mesh.jobs["net-0002"] = msgspec.structs.replace(mesh.jobs["net-0002"], trials=111)  # nobody is told
        mesh.comes()
        assert until(lambda: 111 in {each.trials for each in board.view().jobs})
        assert not board.view().link.away


def test_a_coordinator_that_is_away_is_told(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "ANSWER", 0.1)
    mesh, board = mesh_of(10), Board()
    mesh.answers = False
    with Feed("amqp://x", board, mesh.client):  # type: ignore[arg-type]
        assert until(lambda: "no coordinator answers" in board.view().link.away)
        mesh.answers = True
        assert until(lambda: not board.view().link.away and len(board.view().jobs) == 10)


def test_a_broker_that_is_not_there_yet_is_waited_for(quick: None) -> None:
    mesh, board = mesh_of(10), Board()
    mesh.goes()
    with Feed("amqp://x", board, mesh.client):  # type: ignore[arg-type]
        assert until(lambda: "cannot reach the broker" in board.view().link.away)
        mesh.comes()
        assert until(lambda: len(board.view().jobs) == 10)


@pytest.mark.parametrize(("lets", "may_ask"), [("asking", True), ("monitor", False)])
def test_with_fewer_rights_less_is_asked(quick: None, lets: str, may_ask: bool) -> None:
    mesh, board = mesh_of(10, lets=lets), Board()
    with Feed("amqp://x", board, mesh.client):  # type: ignore[arg-type]
        assert until(lambda: not board.view().link.away)
        mesh.change("net-0002", trials=99)
        wanted = {each.job: each.trials for each in board.view().jobs}
        assert until(lambda: board.view().jobs)
        assert board.view().link.may_ask == may_ask, wanted
    assert bool(mesh.asked) == may_ask


def test_who_may_do_nothing_is_told_why(quick: None) -> None:
    mesh, board = mesh_of(1, lets="nothing"), Board()
    with Feed("amqp://x", board, mesh.client):  # type: ignore[arg-type]
        assert until(lambda: "lacks a right" in board.view().link.away)


def test_a_job_is_looked_up_and_a_silence_does_not_last(quick: None) -> None:
    mesh, board = mesh_of(10), Board()
    with Feed("amqp://x", board, mesh.client) as feed:  # type: ignore[arg-type]
        feed.look("net-0003")
        detail = board.detail("net-0003")
        assert detail is not None
        assert detail.asked
        mesh.answers = False
        began = time.monotonic()
        feed.look("net-0004", 0.05)
        assert time.monotonic() - began < 2.0
