"""What is kept of what was measured for a job without results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.stage_calls import MODEL, TIMING, expect, imported, missing, proposed, step, trials_of
from tunemesh import measured_files
from tunemesh.client import Client
from tunemesh.coordinator.jobs import measured
from tunemesh.coordinator.jobs.ledger import TaskLedger
from tunemesh.following import Following, Watcher
from tunemesh.model_files import ModelFile
from tunemesh.report import JobReport, read_report
from tunemesh.results import save_measured
from tunemesh.shared.errors import ArtifactError, BadInput
from tunemesh.shared.messages import (
    Blob,
    Candidate,
    JobEvent,
    JobProgress,
    TaskRecords,
    TaskSpec,
    Trial,
    UpdateDone,
    UpdateWork,
)
from tunemesh.stage_workers.stages import Context, run_stage

BLOB = Blob("0" * 64, 1)


def spec(number: int) -> TaskSpec:
    return TaskSpec(
        id=f"t{number}", name="n", key="0" * 64, weight=1, engine="mock", workload=BLOB, untuned=BLOB
    )


def trial(number: int, size: int) -> Trial:
    failed = number % 3 == 0
    return Trial(
        candidate=Candidate(number, f"h{number}", b"x" * size),
        outcome="run-failed" if failed else "measured",
        latencies=[] if failed else [1.0 / number],
    )


@given(st.integers(0, 60), st.integers(0, 20_000), st.integers(0, 200_000))
@settings(max_examples=50, deadline=None)
def test_where_a_message_has_no_room_for_all_trials_the_slowest_are_left_out(
    count: int, size: int, room: int
) -> None:
    trials = [trial(number, size) for number in range(count)]
    kept = measured.fitting(trials, room)
    assert len(msgspec.msgpack.encode(kept)) <= room + 10
    left = [each for each in trials if each not in kept]
    slowest = max((each.latency for each in kept), default=0.0)
    assert all(each.latency >= slowest for each in left)
    if count * (size + measured.PER_TRIAL + 9) <= room:
        assert not left


def test_records_of_too_many_tasks_for_a_message_are_cut() -> None:
    tasks = [TaskLedger(spec=spec(number), rest=[trial(1, 50_000)]) for number in range(30)]
    found = measured.records(tasks)
    assert [each.task.id for each in found] == [f"t{number}" for number in range(len(found))]
    assert 5 < len(found) < 30
    assert len(msgspec.msgpack.encode(found)) <= measured.ROOM_TOLD + 10


def test_tasks_of_which_nothing_was_measured_have_no_records() -> None:
    assert measured.records([TaskLedger(spec=spec(0), trials=0)]) == []


def failed(error: str = "assemble: it broke") -> JobProgress:
    return JobProgress(
        job="job",
        name="m",
        phase="failed",
        target="mock",
        trials=3,
        budget=9,
        accepted=1.0,
        finished=2.0,
        tasks=[],
        usage={},
        error=error,
    )


def records_of(context: Context) -> TaskRecords:
    """Of one task: two trials in a history, and one that is in none."""
    task = imported(context, MODEL).tasks[0]
    trials = trials_of(proposed(context, task, 3).candidates)
    work = UpdateWork(task=task, want=1, trials=trials[:2], timings=[TIMING])
    state = expect(UpdateDone, run_stage(step(work, 1), context)).state
    return TaskRecords(task=task, history=state.history, trials=trials[2:], untuned=0.9)


def test_what_was_measured_is_written_with_a_report_of_what_failed(context: Context, tmp_path: Path) -> None:
    records = records_of(context)
    report = save_measured(context.store, failed(), [records], tmp_path / "job")
    assert report == msgspec.json.decode((tmp_path / "job" / "report.json").read_bytes(), type=JobReport)
    assert report.error == "assemble: it broke"
    (written,) = msgspec.json.decode((tmp_path / "job" / "records.json").read_bytes())
    assert (written["task"], written["trials"], written["best"]) == ("a", 3, 0.2)
    with pytest.raises(BadInput, match="holds no result: the job failed: assemble: it broke"):
        read_report(tmp_path / "job")


def test_where_something_of_it_is_lost_there_is_a_report(context: Context, tmp_path: Path) -> None:
    lost = msgspec.structs.replace(records_of(context), history=[missing()])
    with pytest.raises(ArtifactError):
        save_measured(context.store, failed(), [lost], tmp_path / "job")
    assert (tmp_path / "job" / "report.json").exists()


# -- While the job runs --------------------------------------------------------------------------------------


def test_what_is_measured_while_a_job_runs_is_enough_for_the_database(
    context: Context, tmp_path: Path
) -> None:
    records = records_of(context)
    less = msgspec.structs.replace(records, history=records.history[:1], trials=[])
    for known in (less, records):  # what comes later takes the place of what was known before
        measured_files.keep(context.store, "job", "mock", [known], tmp_path)
    for path in (tmp_path / "artifacts").rglob("*"):  # the mesh is gone
        path.unlink(missing_ok=True) if path.is_file() else None
    assert measured_files.database(tmp_path, tmp_path / "to") == tmp_path / "to"
    (written,) = msgspec.json.decode((tmp_path / "to" / "records.json").read_bytes())
    assert (written["task"], written["trials"], written["best"]) == ("a", 3, 0.2)


def test_where_nothing_is_kept_the_database_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds no folder 'measured'"):
        measured_files.database(tmp_path, tmp_path)
    (tmp_path / "measured").mkdir()
    (tmp_path / "measured" / "x.json").write_text("{}")
    with pytest.raises(BadInput, match=r"x\.json holds no measurements of a task"):
        measured_files.database(tmp_path, tmp_path)


class Heard(Client):
    """Hears these events."""

    def __init__(self, *events: JobEvent) -> None:
        self.events = events

    def submit(self, request: object) -> None: ...

    def follow(self, jobs: object, idle: float = 0.5) -> Any:
        yield from self.events


class Notes(Watcher):
    def __init__(self) -> None:
        self.noted: list[str] = []

    def note(self, text: str) -> None:
        self.noted.append(text)


def followed(context: Context, out: Path, *events: JobEvent) -> list[str]:
    """What was noted."""
    notes = Notes()
    following = Following(
        Heard(*events),
        context.store,
        out,
        lambda *_: None,
        notes,
        None,
        lambda: None,  # type: ignore[arg-type]
    )
    following.follow({"job": ModelFile(name="m", data=b"", origin="")})
    return notes.noted


def running(*records: TaskRecords) -> JobEvent:
    progress = msgspec.structs.replace(failed(""), phase="tuning", finished=None)
    return JobEvent(job="job", kind="progress", at=1.0, progress=progress, measured=list(records))


def test_the_folder_of_a_job_has_what_was_measured_until_it_has_the_rest(
    context: Context, tmp_path: Path
) -> None:
    records = records_of(context)
    assert followed(context, tmp_path, running(), running(records)) == []
    assert [path.name for path in (tmp_path / "job" / "measured").iterdir()] == [f"{records.task.key}.json"]
    end = JobEvent(job="job", kind="failed", at=1.0, text="x", progress=failed(), measured=[records])
    assert followed(context, tmp_path, running(records), end) == []
    assert sorted(path.name for path in (tmp_path / "job").iterdir()) == [
        "records.json",
        "report.html",
        "report.json",
    ]


def test_that_it_cannot_be_written_down_is_said_once_and_disturbs_nothing(
    context: Context, tmp_path: Path
) -> None:
    lost = msgspec.structs.replace(records_of(context), history=[missing()])
    (noted,) = followed(context, tmp_path, running(lost), running(lost))
    assert noted.startswith("what is measured cannot be written down yet: artifact ")
