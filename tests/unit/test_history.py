"""How jobs ended, in the database, and which artifacts are kept for it."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.unit.past import ended, progress
from tunemesh import past_jobs
from tunemesh.shared import codec
from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.errors import ArtifactError, BadInput, JobFailed, Unavailable
from tunemesh.shared.messages import (
    AskHistory,
    AssembleDone,
    Blob,
    Cancelled,
    Census,
    JobEvent,
    PastJobs,
    TaskRecords,
    TaskSpec,
)
from tunemesh.shared.messages.history import MOST_PAST
from tunemesh.stage_workers.records import history
from tunemesh.stage_workers.records.database import Database
from tunemesh.stage_workers.records.sweeping import BEFORE_JOBS, DAY, sweep

NOW = time.time()
ASKED = AskHistory(answer="0" * 32)


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(str(tmp_path / "records"), wait=0.2)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path / "store"))


def asked(database: Database, **question: Any) -> PastJobs:
    with database.reading() as connection:
        return history.answered(connection, msgspec.structs.replace(ASKED, **question))


def names(database: Database, **question: Any) -> list[str]:
    return [each.job for each in asked(database, **question).jobs]


# -- What is written down and asked for -------------------------------------------------------------------


def test_the_end_of_a_job_is_written_down_once(database: Database) -> None:
    event = ended("net", asked_by="ann", cancelled=Cancelled(by="bob", at=990.0, keep=True), tenant="gold")
    assert history.keep(database, event)
    assert not history.keep(database, msgspec.structs.replace(event, text="told again after a restart"))
    (past,) = asked(database).jobs
    assert (past.job, past.phase, past.tenant, past.trials) == ("net", "done", "gold", 64)
    assert (past.accepted, past.finished, past.before, past.after) == (900.0, 1000.0, 2e-3, 1e-3)
    assert (past.asked_by, past.cancelled_by, past.cancelled_at) == ("ann", "bob", 990.0)
    assert past.results
    found = asked(database, job="net")
    assert found.ended == event


def test_of_a_mesh_that_goes_with_its_store_the_results_are_not_kept(database: Database) -> None:
    history.keep(database, ended("net"), results=False)
    (past,) = asked(database).jobs
    assert (past.phase, past.results) == ("done", False)
    assert asked(database, job="net").ended is None


def test_each_store_is_swept_by_itself(database: Database) -> None:
    with database.writing() as connection:
        history.note_sweep(connection, "s3://one", 5.0)
        history.note_sweep(connection, "s3://one", 7.0)
        assert history.last_sweep(connection, "s3://one") == 7.0
        assert history.last_sweep(connection, "s3://other") == 0.0


def test_a_job_that_goes_on_is_not_written_down(database: Database) -> None:
    going = JobEvent(job="net", kind="progress", at=1.0, progress=progress("net", "tuning"))
    with pytest.raises(ValueError, match="has not ended"):
        history.keep(database, going)


def test_the_history_is_asked_by_state_tenant_and_time(database: Database) -> None:
    for number, kind in enumerate(("done", "failed", "cancelled", "done")):
        event = ended(f"job-{number}", kind, 1000.0 + number, tenant="gold" if number > 1 else "")
        history.keep(database, event)
    assert names(database) == ["job-3", "job-2", "job-1", "job-0"]
    assert names(database, phases=["failed", "cancelled"]) == ["job-2", "job-1"]
    assert names(database, tenant="gold") == ["job-3", "job-2"]
    assert names(database, tenant="") == ["job-1", "job-0"]
    assert names(database, since=1002.0) == ["job-3", "job-2"]
    some = asked(database, limit=3)
    assert len(some.jobs) == 3
    assert some.more
    assert not asked(database, limit=4).more


def test_of_several_jobs_with_one_id_the_latest_is_told(database: Database) -> None:
    for at in (1000.0, 3000.0, 2000.0):
        history.keep(database, ended("net", at=at))
    found = asked(database, job="net")
    assert [each.finished for each in found.jobs] == [3000.0]
    assert found.ended is not None
    assert found.ended.at == 3000.0


def test_the_longest_answer_fits_into_a_message(database: Database) -> None:
    longest = ended("j" * 64, error="e" * 1000, asked_by="u" * 300, tenant="t" * 64, target="x" * 2000)
    history.keep(database, msgspec.structs.replace(longest, text="t" * 1000))
    (past,) = asked(database).jobs
    answer = PastJobs(jobs=[msgspec.structs.replace(past, name="n" * 200)] * MOST_PAST)
    assert codec.decode(codec.encode(answer), PastJobs) == answer


# -- What is kept -----------------------------------------------------------------------------------------


def put(store: ArtifactStore, text: str, days: float) -> Blob:
    """An artifact that was stored so many days ago."""
    blob = store.put(text.encode(), inline=False)
    age(store, blob, days)
    return blob


def place(store: ArtifactStore, blob: Blob) -> Path:
    own = Path(store.url, *(["tenants", store.tenant] if store.tenant else []))
    return own / blob.sha256[:2] / blob.sha256


def age(store: ArtifactStore, blob: Blob, days: float) -> None:
    at = time.time() - days * DAY
    os.utime(place(store, blob), (at, at))


def there(store: ArtifactStore, blob: Blob) -> bool:
    return place(store, blob).exists()


def census(oldest_days: float | None = None, *named: Blob, complete: bool = True) -> Census:
    oldest = None if oldest_days is None else time.time() - oldest_days * DAY
    return Census(at=NOW, oldest=oldest, named=[each.sha256 for each in named], complete=complete)


def finished_job(store: ArtifactStore, name: str, days: float) -> tuple[JobEvent, list[Blob]]:
    """A job that ended so many days ago, and lasted long: all of its artifacts are half a year old."""
    workload, untuned, seen, objects, tuned = (
        put(store, f"{name} {what}", 180) for what in ("workload", "untuned", "history", "objects", "tuned")
    )
    spec = TaskSpec(
        id="t00", name="conv", key="a" * 64, weight=1, engine="mock", workload=workload, untuned=untuned
    )
    confirmed = [{"hash": "h", "latencies": [1e-3], "objects": objects}]
    records = TaskRecords(
        task=spec, history=[seen], confirmed=msgspec.convert(confirmed, list[Any]), untuned=1e-3
    )
    told = put(store, "", 180)
    data = msgspec.msgpack.encode([msgspec.to_builtins(records, builtin_types=(bytes,))])
    told = store.put(data, inline=False)
    age(store, told, 180)
    made = AssembleDone(tuned=tuned, untuned=untuned, signature=tuned, files={"d.json": tuned}, records=told)
    event = ended(name, at=time.time() - days * DAY)
    return msgspec.structs.replace(event, assembled=made), [workload, untuned, seen, objects, tuned, told]


def test_what_is_past_its_time_and_not_named_is_removed(store: ArtifactStore, database: Database) -> None:
    old, young = put(store, "old", 91), put(store, "young", 89)
    done = sweep(store, database, census())
    assert (done.removed, done.freed, done.kept) == (1, 3, 0)
    assert not there(store, old)
    assert there(store, young)


def test_what_tenants_have_stored_is_swept_as_well(store: ArtifactStore, database: Database) -> None:
    acme = store.of("acme")
    kept, of_kept = finished_job(acme, "kept", 89)
    assert kept.progress is not None
    own = msgspec.structs.replace(kept.progress, tenant="acme")
    history.keep(database, msgspec.structs.replace(kept, progress=own))
    old = put(acme, "old", 91)
    done = sweep(store, database, census())
    assert done.freed == len("old")
    assert not there(acme, old)
    assert all(there(acme, blob) for blob in of_kept)


def test_a_dry_run_says_the_same_and_removes_nothing(store: ArtifactStore, database: Database) -> None:
    old = put(store, "old", 91)
    history.keep(database, ended("long-ago", at=NOW - 100 * DAY))
    tried = sweep(store, database, census(), dry_run=True)
    assert there(store, old)
    assert asked(database, job="long-ago").ended is not None
    done = sweep(store, database, census())
    assert (done.removed, done.freed, done.jobs) == (tried.removed, tried.freed, tried.jobs) == (1, 3, 1)


@pytest.mark.parametrize("ahead", [{"ours": 365.0}, {"coordinator": 365.0}])
def test_a_clock_that_is_a_year_ahead_makes_nothing_old(
    store: ArtifactStore, database: Database, monkeypatch: pytest.MonkeyPatch, ahead: dict[str, float]
) -> None:
    old, young = put(store, "old", 91), put(store, "young", 89)
    told = msgspec.structs.replace(census(), at=time.time() + ahead.get("coordinator", 0.0) * DAY)
    ours = time.time() + ahead.get("ours", 0.0) * DAY
    monkeypatch.setattr(time, "time", lambda: ours)
    assert sweep(store, database, told).removed == 1
    assert there(store, young)
    assert not there(store, old)


def test_results_stay_as_long_as_they_are_kept_and_not_longer(
    store: ArtifactStore, database: Database
) -> None:
    kept, of_kept = finished_job(store, "kept", 89)
    gone, of_gone = finished_job(store, "gone", 91)
    for event in (kept, gone):
        history.keep(database, event)
    sweep(store, database, census())
    assert all(there(store, blob) for blob in of_kept)
    assert not any(there(store, blob) for blob in of_gone)
    assert {each.job: each.results for each in asked(database).jobs} == {"kept": True, "gone": False}
    with pytest.raises(BadInput, match=r"job gone ended .*: done; its results are not kept any more"):
        past_jobs.ending(asked(database, job="gone"), "gone")


def test_what_a_live_job_needs_stays_however_old_it_is(store: ArtifactStore, database: Database) -> None:
    model, other = put(store, "model of a job that waited", 200), put(store, "other", 200)
    sweep(store, database, census(1, model))
    assert there(store, model)
    assert not there(store, other)


def test_nothing_is_removed_that_was_stored_since_the_first_job_that_is_known(
    store: ArtifactStore, database: Database
) -> None:
    taken = BEFORE_JOBS / DAY
    during, before = put(store, "during", 119), put(store, "before", 120 + taken + 1)
    others = put(store, "of a job that it takes from", 120 + taken - 1)
    sweep(store, database, census(120))
    assert there(store, during)
    assert there(store, others)
    assert not there(store, before)


def test_where_too_many_jobs_are_there_nothing_is_removed(store: ArtifactStore, database: Database) -> None:
    old = put(store, "old", 91)
    with pytest.raises(Unavailable, match="nothing is removed"):
        sweep(store, database, census(complete=False))
    assert there(store, old)


def test_what_killed_writers_have_left_is_removed(store: ArtifactStore, database: Database) -> None:
    written = place(store, put(store, "x", 91))
    left = written.with_name(f"{written.name}.12-ab.partial")
    left.write_bytes(b"half")
    os.utime(left, (1.0, 1.0))
    sweep(store, database, census())
    assert not left.exists()


# -- Artifacts that are stored again ----------------------------------------------------------------------


def test_what_is_stored_again_is_young(store: ArtifactStore, database: Database) -> None:
    blob = put(store, "model", 200)
    assert store.put(b"model", inline=False) == blob
    sweep(store, database, census())
    assert there(store, blob)


def test_what_is_stored_again_between_a_look_and_its_end_stays(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = put(store, "model", 200)
    rename = os.rename

    def slow(source: Any, target: Any, **places: Any) -> None:
        monkeypatch.setattr(os, "rename", rename)
        os.utime(place(store, blob))  # somebody stores it at this moment
        rename(source, target, **places)

    monkeypatch.setattr(os, "rename", slow)
    assert not store.remove(blob.sha256, time.time() - DAY)
    assert store.get(blob) == b"model"


def test_whoever_stores_while_it_is_removed_has_it_afterwards(store: ArtifactStore) -> None:
    """Whatever the order: what was stored can be read by whoever is told of it."""
    ended_, problems = threading.Event(), []

    def removes() -> None:
        while not ended_.is_set():
            for name, _ in list(store.older(time.time() - DAY)):
                store.remove(name, time.time() - DAY)

    thread = threading.Thread(target=removes)
    thread.start()
    try:
        for number in range(300):
            data = f"model {number % 7}".encode()
            try:
                blob = store.put(data, inline=False)
                assert store.get(blob) == data
                age(store, blob, 200)
            except (ArtifactError, FileNotFoundError) as error:
                problems.append(error)
    finally:
        ended_.set()
        thread.join()
    # It may be removed as soon as it is old again; never before.
    assert not [each for each in problems if isinstance(each, ArtifactError)]


def test_a_store_that_is_no_folder_is_swept_too(database: Database) -> None:
    store = ArtifactStore("memory://swept")
    blob = store.put(b"x" * 10, inline=False)
    assert not sweep(store, database, census()).removed
    assert store.get(blob)
    before = time.time() + 10
    assert [name for name, _ in store.older(before)] == [blob.sha256]
    assert store.remove(blob.sha256, before)
    with pytest.raises(ArtifactError, match="is not in"):
        store.get(blob)


# -- Both sides together ----------------------------------------------------------------------------------


def test_jobs_of_both_sides_are_listed_once_running_ones_first() -> None:
    known = [progress("both", at=2000.0), progress("runs", "tuning", at=500.0), progress("new", at=3000.0)]
    past = [
        each
        for name, at in (("both", 2000.0), ("old", 1000.0))
        for each in [past_jobs.past_job(progress(name, at=at), ended(name).validated)]
    ]
    found = past_jobs.merged(known, past, ASKED)
    assert [each.job for each in found] == ["runs", "new", "both", "old"]
    assert [each.after for each in found] == [None, None, 1e-3, 1e-3]
    only = msgspec.structs.replace(ASKED, phases=["tuning"])
    assert [each.job for each in past_jobs.merged(known, [], only)] == ["runs"]
    late = msgspec.structs.replace(ASKED, since=2500.0)
    assert [each.job for each in past_jobs.merged(known, [], late)] == ["runs", "new"]


def test_a_job_that_nobody_knows_is_named() -> None:
    with pytest.raises(BadInput, match="nobody knows a job 'net'"):
        past_jobs.ending(PastJobs(), "net")


def test_a_job_without_results_is_fetched_with_what_failed(store: ArtifactStore, tmp_path: Path) -> None:
    event = ended("net", "failed", error="no device")
    with pytest.raises(JobFailed, match="job net has no results: no device"):
        past_jobs.save(event, store, tmp_path)
