"""What workers could not write down is written later, from what the mesh still knows of its jobs."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from msgspec.structs import replace
from sqlalchemy import select

from tests.unit.record_rows import HERE, ORIGIN
from tunemesh import record_exchange, tuning
from tunemesh.client import Client
from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.messages import (
    AssembleDone,
    Blob,
    Candidate,
    History,
    JobProgress,
    Snapshot,
    TaskRecords,
    TaskSpec,
    Trial,
)
from tunemesh.stage_workers.records import queries
from tunemesh.stage_workers.records.database import Database
from tunemesh.stage_workers.records.questions import ALL
from tunemesh.stage_workers.records.schema import BASELINES, JOBS

WORKLOAD = b"workload"
BLOB = Blob(hashlib.sha256(WORKLOAD).hexdigest(), len(WORKLOAD), WORKLOAD)
SPEC = TaskSpec(id="t00", name="conv", key="a" * 64, weight=1, engine="mock", workload=BLOB, untuned=BLOB)


class Mesh:
    """What a client is told of jobs."""

    def __init__(self, **snapshots: dict[str, Any]) -> None:
        self._snapshots = snapshots

    def snapshot(self, job: str | None = None) -> Snapshot:
        jobs = [
            JobProgress(
                job=name, name="net.onnx", phase="done", target="mock", trials=1, budget=1, accepted=100.0,
                finished=200.0, tasks=[], usage={},
            )
            for name in self._snapshots
            if job in (None, name)
        ]  # fmt: skip
        return Snapshot(strategy="fair", jobs=jobs, resources=[], **(self._snapshots[job] if job else {}))


def tried(number: int) -> Trial:
    candidate = Candidate(number, f"h{number}", b"schedule")
    return Trial(candidate=candidate, outcome="measured", latencies=[1e-3], conditions=HERE.id)


def finished(store: ArtifactStore) -> AssembleDone:
    """A job whose histories say what it measured."""
    history = History(
        task="t00", round=0, trials=[tried(0), tried(1)], timings=[], origin=ORIGIN, conditions=[HERE]
    )
    kept = store.put(msgspec.msgpack.encode(history), inline=False)
    records = store.put(msgspec.msgpack.encode([TaskRecords(task=SPEC, history=[kept], untuned=2e-3)]))
    return AssembleDone(tuned=BLOB, untuned=BLOB, signature=BLOB, files={}, records=records)


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(str(tmp_path / "records.sqlite"))


def test_jobs_that_are_done_and_jobs_that_are_not(store: ArtifactStore, database: Database) -> None:
    failed = TaskRecords(task=SPEC, history=[], trials=[tried(7)], untuned=1e-3)
    lost = TaskRecords(task=SPEC, history=[Blob("ab" * 32, 10)])
    client = cast(
        Client,
        Mesh(net={"assembled": finished(store)}, failed={"measured": [failed]}, lost={"measured": [lost]}),
    )
    synced = {each.job: each for each in record_exchange.sync(client, store, database)}
    assert (synced["net"].trials, synced["failed"].trials) == (2, 1)
    assert "is not in" in synced["lost"].error
    with database.reading() as connection:
        found = queries.newest(connection, ALL, 10)
    assert {(each.job.job, each.trial.hash) for each in found} == {
        ("net", "h0"),
        ("net", "h1"),
        ("failed", "h7"),
    }
    assert {each.job.model for each in found} == {"net.onnx"}
    # A task that a job has measured untuned counts as searched by it: that is said of jobs that are done.
    assert baselines(database) == {"net": 2e-3}
    assert [each.new for each in record_exchange.sync(client, store, database)] == [0, 0, 0]


def baselines(database: Database) -> dict[str, float]:
    """Of the one task, by job."""
    with database.reading() as connection:
        asked = select(JOBS.c.job, BASELINES.c.latency).join(BASELINES, BASELINES.c.job == JOBS.c.id)
        return {str(job): float(latency) for job, latency in connection.execute(asked)}


def test_what_goes_on_from_another_job_is_recorded_for_whoever_has_tried_it(
    store: ArtifactStore, database: Database
) -> None:
    left = replace(ORIGIN, job="cancelled")
    blobs = [
        store.put(
            msgspec.msgpack.encode(History(task="t00", round=0, trials=[each], timings=[], origin=origin))
        )
        for each, origin in ((tried(0), left), (tried(1), ORIGIN))
    ]
    taken = TaskRecords(task=SPEC, history=blobs, untuned=2e-3)
    done = replace(finished(store), records=store.put(msgspec.msgpack.encode([taken])))
    heir = TaskRecords(task=SPEC, history=[], trials=[tried(2)], origin=left)
    client = cast(Client, Mesh(net={"assembled": done}, failed={"measured": [heir]}))
    assert [each.error for each in record_exchange.sync(client, store, database)] == ["", ""]
    with database.reading() as connection:
        found = queries.newest(connection, ALL, 10)
    assert {(each.job.job, each.trial.hash) for each in found} == {
        ("cancelled", "h0"),
        ("net", "h1"),
        ("cancelled", "h2"),
    }
    # It is the job that was done which has searched the task.
    assert baselines(database) == {"net": 2e-3}


def test_a_mesh_of_ones_own_says_what_became_of_it(
    store: ArtifactStore, database: Database, tmp_path: Path
) -> None:
    client = cast(Client, Mesh(net={"assembled": finished(store)}))
    assert database.file is not None
    said = tuning.write_now(client, store, str(database.file))
    assert said == "what workers could not write is in the records now: 7 rows"
    (tmp_path / "file").touch()
    said = tuning.write_now(client, store, str(tmp_path / "file" / "records"))
    assert said.startswith("what was measured is not in the records, and gone with this mesh: the records in")
    lost = TaskRecords(task=SPEC, history=[Blob("ab" * 32, 10)])
    said = tuning.write_now(cast(Client, Mesh(net={"measured": [lost]})), store, str(database.file))
    assert said.startswith("what job net measured is not in the records: artifact abababababab is not in")
