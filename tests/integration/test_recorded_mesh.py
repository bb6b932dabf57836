"""A whole mesh that writes down what it measures, when things happen to its workers and to the database."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import psutil
import pytest

from tunemesh import past_jobs, record_exchange, tuning
from tunemesh.broker_config.node import installed
from tunemesh.client import Client
from tunemesh.layout import plan
from tunemesh.mesh import LocalMesh
from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.messages import AskHistory, JobEvent, Level, PastJob, Settings
from tunemesh.stage_workers.records import history
from tunemesh.stage_workers.records.database import Database
from tunemesh.stage_workers.records.sweeping import sweep

pytestmark = pytest.mark.skipif(
    not installed() and not os.environ.get("CI"), reason="needs rabbitmq-server on this machine"
)

MODEL = b"""
tasks:
  - {name: conv, weight: 2, space: 300}
  - {name: dense, space: 300}
durations: {model-update: 0.05, build: 0.01, profile: 0.01}
failures: {build-error: {indices: [3, 11]}}
"""
TRIALS = 64
OLD = time.time() - 200 * 86_400


@pytest.fixture
def records(tmp_path: Path) -> Path:
    return tmp_path / "records" / "records.sqlite"


@pytest.fixture
def mesh(tmp_path: Path, records: Path, nodes_end_at_once: None) -> Iterator[LocalMesh]:
    folder = tmp_path / "mesh"
    with LocalMesh(plan(None), "mock", ["mock"], folder=folder, records=str(records)) as running:
        yield running


def test_every_trial_is_recorded_once_whatever_happens(
    mesh: LocalMesh, records: Path, tmp_path: Path
) -> None:
    """One test, because a node takes ten seconds to start."""
    store = ArtifactStore(mesh.artifacts)
    with (
        Client(mesh.url, ["killed", "again", "locked", "killed-2"], 30.0) as client,
        Database(str(records)) as database,
    ):
        # Only workers know where the records are: neither what runs in their sandboxes, nor the coordinator.
        knowing = {name: _knows(pid, str(records)) for name, pid in mesh.pids.items()}
        assert knowing == {name: name != "coordinator" for name in mesh.pids}
        for pid in mesh.pids.values():
            assert not any(
                _knows(child.pid, str(records)) for child in psutil.Process(pid).children(recursive=True)
            )

        # Workers are killed in the middle of it, again and again; each task is searched twice at once.
        done = _followed(client, mesh, store, "killed", kill=["model-update-0", "build-0"], split=2)
        assert done.progress is not None
        assert [each.regions for task in done.progress.tasks for each in task.searches] == [2, 2]
        assert _trials(records, "killed") == _told(done) == TRIALS
        assert done.assembled is not None
        assert not done.assembled.notes

        # The same model again: all is known, and nothing is measured but the whole model.
        again = _followed(client, mesh, store, "again", known="first")
        assert (_told(again), _trials(records, "again")) == (0, 0)
        assert again.validated is not None
        assert done.validated is not None
        assert again.validated.latency_after == pytest.approx(done.validated.latency_after)

        # Nothing can be written, and the workers that remember are killed.
        with contextlib.closing(sqlite3.connect(records, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            done = _followed(client, mesh, store, "locked")
            for name, pid in mesh.pids.items():
                if name != "coordinator":
                    os.kill(pid, signal.SIGKILL)
            assert done.assembled is not None
            assert "locked: what was measured is not in the records yet" in done.assembled.notes[-1]
            assert _trials(records, "locked") == 0
        synced = {each.job: each for each in record_exchange.sync(client, store, database)}
        assert (synced["locked"].trials, synced["locked"].error) == (TRIALS, "")
        assert synced["killed"].new == 0
        assert _trials(records, "locked") == _told(done) == TRIALS
        assert {each.new for each in record_exchange.sync(client, store, database)} == {0}

        # Somebody asks for a lesson: a worker learns from them, now that there is nothing else to do.
        client.learn("mock", 1)
        logs = [*(mesh.folder / "logs").glob("model-update-*.log")]
        _await(mesh, lambda: any("mock learns nothing from the records" in each.read_text() for each in logs))

        assert len(_history(mesh, database, 3)) == 3
        # Everything in the store is old. What is removed while a job runs that makes much of it again is
        # missed neither by that job nor by those that have ended.
        for path in Path(mesh.artifacts).glob("*/*"):
            os.utime(path, (OLD, OLD))
        removed: list[int] = []
        with Client(mesh.url) as other:  # this one listens to the job
            done = _followed(
                client,
                mesh,
                store,
                "killed-2",
                meanwhile=lambda: removed.append(_swept(other, database, store)),
            )
        assert done.kind == "done", done.text
        assert sum(removed)
        past = _history(mesh, database, 4)
        assert {each.job: each.phase for each in past} == dict.fromkeys(
            ("killed", "again", "locked", "killed-2"), "done"
        )
        assert {each.asked_by for each in past} == {"operator"}
        for each in past:
            with database.reading() as connection:
                event = history.answered(connection, past_jobs.about(each.job)).ended
            assert event is not None
            report = past_jobs.save(event, store, tmp_path / each.job)
            assert report.job == each.job
            assert report.timeline


def _swept(client: Client, database: Database, store: ArtifactStore) -> int:
    return sweep(store, database, client.census(), retention=0.0).removed


def _history(mesh: LocalMesh, database: Database, count: int) -> list[PastJob]:
    """All jobs that have ended; workers may still be about to write down the last."""
    deadline = time.monotonic() + 30.0
    while True:
        mesh.supervise()
        with database.reading() as connection:
            found = history.answered(connection, AskHistory(answer=past_jobs.NO_KEY)).jobs
        if len(found) >= count or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


def _await(mesh: LocalMesh, come_about: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30.0
    while not come_about():
        assert time.monotonic() < deadline
        mesh.supervise()
        time.sleep(0.1)


def _knows(pid: int, secret: str) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return secret.encode() in Path(f"/proc/{pid}/environ").read_bytes()
    return False


def _followed(
    client: Client,
    mesh: LocalMesh,
    store: ArtifactStore,
    job: str,
    kill: list[str] | None = None,
    known: Literal["first", "never"] = "never",
    meanwhile: Callable[[], object] | None = None,
    split: int = 1,
) -> JobEvent:
    """Tune, and return the last event; the workers of these names are killed twice a second meanwhile."""
    settings = Settings(batch=8, repeats=1, known=known)
    level = Level(trials=TRIALS, split=split)
    wanted = tuning.Plan(target="mock", level=level, out=Path(), engines=("mock",), settings=settings)
    client.submit(tuning.make_request(job, tuning.ModelFile(name="model.yaml", data=MODEL), wanted, store))
    last, killed, at = None, 0, time.monotonic() + 1.0
    for event in client.follow([job], idle=0.1):
        mesh.supervise()
        if event is not None:
            last = event
        if meanwhile is not None:
            meanwhile()
        if kill and killed < 4 and time.monotonic() > at:
            name = kill[killed % len(kill)]
            if name in mesh.pids:
                os.kill(mesh.pids[name], signal.SIGKILL)
                killed, at = killed + 1, time.monotonic() + 0.7
    assert last is not None
    assert last.kind == "done", last.text
    assert killed or not kill
    return last


def _told(done: JobEvent) -> int:
    assert done.progress is not None
    return done.progress.trials


def _trials(records: Path, job: str) -> int:
    """How many there are; none of a task has the hash of another."""
    with contextlib.closing(sqlite3.connect(records)) as connection:
        asked = (
            "SELECT count(*), count(DISTINCT task || hash) FROM trials"
            " JOIN jobs ON jobs.id = trials.job WHERE jobs.job = ?"
        )
        count, distinct = connection.execute(asked, (job,)).fetchone()
    assert count == distinct
    return int(count)
