"""The report of a job as it grows, and what outlives jobs: from the store, workers and records."""

from __future__ import annotations

import time
from pathlib import Path
from unittest import mock

import msgspec
import pytest

from tests.unit.fake_mesh import job
from tests.unit.past import blob, ended
from tests.unit.past import progress as progress_of
from tests.unit.record_rows import around, trial
from tunemesh.dashboard import growing
from tunemesh.dashboard.board import Detail
from tunemesh.dashboard.growing import Reports
from tunemesh.dashboard.kept import Kept, PastRow, RecordRow
from tunemesh.mesh_address import MeshAddress
from tunemesh.report_page import plots
from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.errors import ArtifactError, Unavailable
from tunemesh.shared.messages import (
    Blob,
    Candidate,
    History,
    JobProgress,
    Origin,
    PastJobs,
    Stage,
    TaskRecords,
    TaskSpec,
    Timing,
    Trial,
    past_job,
)
from tunemesh.stage_workers.records.database import Database

ID = "net-0000"


@pytest.fixture(autouse=True)
def _no_plots() -> object:
    with mock.patch.object(plots, "missing", return_value=True):
        yield


def progress(**changes: object) -> JobProgress:
    """A job that goes on, with one task."""
    at = time.time() - 100
    usual = {"job": ID, "phase": "tuning", "finished": None, "error": "", "accepted": at, "terms": None}
    return msgspec.structs.replace(job(0), **usual | changes)  # type: ignore[arg-type]


def round_(store: ArtifactStore, number: int, latency: float) -> Blob:
    """A round of two candidates, as a worker keeps it."""
    at = time.time() - 90 + 10 * number
    stages: tuple[Stage, ...] = ("build", "profile")
    timings = [
        Timing(
            step=f"{ID}/t00/{number}/0/{stage}", stage=stage, resource="profile-cpu-1", worker="w",
            started=at, finished=at + 1, size=2,
        )
        for stage in stages
    ]  # fmt: skip
    trials = [
        Trial(
            candidate=Candidate(n, f"{number}{n}", b"schedule" * 100),
            outcome="measured",
            latencies=[latency + n],
        )
        for n in range(2)
    ]
    history = History(task="t00", round=number, trials=trials, timings=timings)
    return store.put(msgspec.msgpack.encode(history), inline=False)


def records(*rounds: Blob) -> dict[str, TaskRecords]:
    spec = TaskSpec(
        id="t00", name="conv", key="a" * 64, weight=1, engine="mock", workload=blob("w"), untuned=blob("u")
    )
    return {"t00": TaskRecords(task=spec, history=list(rounds))}


def test_it_shows_what_was_measured_so_far_and_reads_each_round_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(growing, "PAUSE", 0.0)
    monkeypatch.setattr(growing, "SHARE", 0)
    told = progress()
    store = ArtifactStore(str(tmp_path)).of(told.tenant)
    reports = Reports(MeshAddress(broker="amqp://x", artifacts=str(tmp_path)))
    first = round_(store, 0, 3e-3)
    page = reports.of(Detail(told, measured=records(first)))
    assert "went from 4.00 ms to 3.00 ms in 2 trials" in page
    assert "Who worked when" in page
    with mock.patch.object(growing, "read_histories", side_effect=growing.read_histories) as read:
        again = reports.of(Detail(progress(trials=4), measured=records(first, round_(store, 1, 2e-3))))
    assert "to 2.00 ms in 4 trials" in again
    assert read.call_count == 1


def test_trials_that_no_update_has_learned_from_are_shown_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(growing, "PAUSE", 0.0)
    monkeypatch.setattr(growing, "SHARE", 0)
    told = progress()
    store = ArtifactStore(str(tmp_path)).of(told.tenant)
    reports = Reports(MeshAddress(broker="amqp://x", artifacts=str(tmp_path)))
    measured = records(round_(store, 0, 3e-3))["t00"]
    late = Trial(candidate=Candidate(9, "99", b"schedule"), outcome="measured", latencies=[1e-3])
    measured = msgspec.structs.replace(measured, trials=[late])
    page = reports.of(Detail(told, measured={"t00": measured}))
    assert "went from 4.00 ms to 1.00 ms in 3 trials" in page
    other = msgspec.structs.replace(measured, origin=Origin(job="other", accepted=1.0))
    assert "in 2 trials" in reports.of(Detail(progress(trials=4), measured={"t00": other}))


def test_it_is_not_made_again_for_every_event_but_at_the_end() -> None:
    reports = Reports(MeshAddress(broker="amqp://x", artifacts=""))
    first = reports.of(Detail(progress(trials=1)))
    assert reports.of(Detail(progress(trials=2))) is first
    done = reports.of(Detail(progress(trials=3, phase="failed", finished=time.time(), error="it broke")))
    assert "3 of 128" in done
    assert "so far" not in done


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    reports = Reports(MeshAddress(broker="amqp://x", artifacts=str(tmp_path)))
    with pytest.raises(ArtifactError):
        reports.of(Detail(progress(), measured=records(blob("gone"))))


def test_a_job_that_the_coordinator_has_forgotten_is_asked_of_workers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reports = Reports(MeshAddress(broker="amqp://x", artifacts=""))
    monkeypatch.setattr(growing.past_jobs, "ask_mesh", lambda *_: PastJobs(ended=ended("net-1", "failed")))
    found = reports.past("net-1")
    assert found is not None
    assert (found.progress.phase, bool(found.asked)) == ("failed", True)
    monkeypatch.setattr(growing.past_jobs, "ask_mesh", lambda *_: PastJobs())
    assert reports.past("net-1") is None


# -- What outlives jobs --------------------------------------------------------------------------------------


def test_the_fastest_of_each_task_is_read_from_the_records(tmp_path: Path) -> None:
    place = tmp_path / "records.sqlite"
    with Database(str(place)) as database:
        database.add([*around(), trial(0, 3e-3), trial(1, 1e-3), trial(2, None)])
    with mock.patch.dict("os.environ", {"TUNEMESH_RECORDS": ""}):
        kept = Kept(MeshAddress(broker="amqp://x", artifacts="", records=str(place)))
    (row,) = kept.records("", "").rows
    assert isinstance(row, RecordRow)
    assert (row.name, row.latency, row.engine, row.model) == (
        "fused_conv2d_add",
        "1.00 ms",
        "mock",
        "net.onnx",
    )
    assert kept.records("dense", "").rows == []
    assert "3 trials of 1 tasks" in kept.records("", "").summary
    with mock.patch.dict("os.environ", {"TUNEMESH_RECORDS": str(tmp_path / "none.sqlite")}):
        nothing = Kept(MeshAddress(broker="amqp://x", artifacts=""))
    assert "There are no records" in nothing.records("", "").note


def test_jobs_that_have_ended_are_found_by_words(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [past_job(progress_of("net-1", "failed", error="out of memory")), past_job(progress_of("net-2"))]
    monkeypatch.setattr(growing.past_jobs, "ask_mesh", lambda *_: PastJobs(jobs=jobs, more=True))
    kept = Kept(MeshAddress(broker="amqp://x", artifacts=""))
    assert [row.job for row in kept.jobs("", "all").rows if isinstance(row, PastRow)] == ["net-1", "net-2"]
    assert [row.job for row in kept.jobs("memory NET", "").rows if isinstance(row, PastRow)] == ["net-1"]
    assert "Older ones" in kept.jobs("", "").note

    def away(*_: object) -> PastJobs:
        raise Unavailable("this mesh keeps no history: nobody answers")

    monkeypatch.setattr(growing.past_jobs, "ask_mesh", away)
    assert kept.jobs("", "").note == "this mesh keeps no history: nobody answers"
