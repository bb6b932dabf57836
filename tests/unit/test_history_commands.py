"""``tunemesh jobs``, ``sweep`` and ``fetch`` of old jobs, as a person uses them."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.unit.past import ended, progress
from tunemesh import cli, history_commands, job_commands, mesh_address, past_jobs
from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.errors import BadInput, BrokerUnavailable
from tunemesh.shared.messages import AskHistory, Cancelled, Census, JobProgress, PastJobs, Snapshot
from tunemesh.stage_workers.records import history
from tunemesh.stage_workers.records.database import Database

NOW = time.time()
DAY = 86_400.0


class Mesh:
    """What the coordinator knows, and what workers answer from their database."""

    def __init__(self, known: Sequence[JobProgress] = (), records: str = "", why: str = "") -> None:
        self.known = list(known)
        self.records = records
        self.why = why
        self.away = False

    def __call__(self, *_: Any, **__: Any) -> Mesh:
        return self

    def __enter__(self) -> Mesh:
        return self

    def __exit__(self, *_: object) -> None: ...

    def snapshot(self, job: str | None = None) -> Snapshot:
        if self.away:
            raise BrokerUnavailable("no coordinator answers")
        found = [each for each in self.known if job in (None, each.job)]
        return Snapshot(strategy="fair", jobs=found, resources=[])

    def census(self) -> Census:
        return Census(at=NOW)

    def nobody_answers(self) -> str:
        return self.why

    def past_jobs(self, asked: AskHistory) -> PastJobs:
        return past_jobs.ask_database(self.records, asked)


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The database of a person, with three jobs."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    for name in (mesh_address.RECORDS, mesh_address.BROKER, mesh_address.ARTIFACTS, "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    path = str(tmp_path / "tunemesh" / "records.sqlite")
    with Database(path) as database:
        for event in (
            ended("resnet18-4f81c2", at=NOW - 100 * DAY),
            ended("bert-base-91ab3c", "failed", NOW - 3 * DAY, error="no device serves the target"),
            ended(
                "unet-77de01", "cancelled", NOW - DAY, asked_by="ann",
                cancelled=Cancelled(by="bob", at=NOW - DAY - 5),
            ),
        ):  # fmt: skip
            history.keep(database, event)
    return path


@pytest.fixture
def mesh(records: str, monkeypatch: pytest.MonkeyPatch) -> Mesh:
    """A mesh that runs, and keeps its history there."""
    found = Mesh([progress("convnext-55", "tuning", NOW - 60, trials=7)], records)
    for module in (history_commands, job_commands, past_jobs):
        monkeypatch.setattr(module, "Client", found)
    return found


class Said:
    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capsys = capsys
        self._monkeypatch = monkeypatch

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        self._monkeypatch.setattr(cli.logs, "setup", lambda *_, **__: None)
        self._monkeypatch.setattr(sys, "argv", ["tunemesh", *arguments])
        code = cli.run()
        printed = self._capsys.readouterr()
        return code, printed.out, printed.err


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Said:
    return Said(capsys, monkeypatch)


MESH = ("--broker", "amqp://mesh")


def listed(said: Said, *arguments: str) -> list[str]:
    code, out, _ = said("jobs", *arguments, "--json")
    assert code == 0
    return [each["job"] for each in json.loads(out)]


def test_running_jobs_come_first_then_those_that_ended_latest(mesh: Mesh, said: Said) -> None:
    assert listed(said, *MESH) == [
        "convnext-55", "unet-77de01", "bert-base-91ab3c", "resnet18-4f81c2"
    ]  # fmt: skip
    assert listed(said, *MESH, "--limit", "2") == ["convnext-55", "unet-77de01"]


def test_the_table_fits_a_terminal_of_80_columns(mesh: Mesh, said: Said) -> None:
    code, out, _ = said("jobs", *MESH)
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    for job in ("convnext-55", "unet-77de01", "bert-base-91ab3c", "resnet18-4f81c2"):
        assert sum(line.strip().startswith(f"{job} ") for line in out.splitlines()) == 1
    (done,) = [line for line in out.splitlines() if "resnet18" in line]
    assert "1.00 ms" in done
    assert "2.0x" in done


def test_jobs_are_asked_for_by_state_tenant_and_time(mesh: Mesh, said: Said) -> None:
    assert listed(said, *MESH, "--state", "running") == ["convnext-55"]
    assert listed(said, *MESH, "--state", "failed", "--state", "done") == [
        "bert-base-91ab3c", "resnet18-4f81c2"
    ]  # fmt: skip
    assert listed(said, *MESH, "--since", "7d") == ["convnext-55", "unet-77de01", "bert-base-91ab3c"]
    assert listed(said, *MESH, "--tenant", "gold") == []


def test_a_state_that_there_is_not_is_named(mesh: Mesh, said: Said) -> None:
    code, _, err = said("jobs", *MESH, "--state", "finished")
    assert code == 2
    assert "there is no state 'finished' of jobs; known: running, importing" in err


def test_where_nobody_keeps_a_history_what_the_coordinator_knows_is_listed(mesh: Mesh, said: Said) -> None:
    mesh.why = "no worker with a database of records is there (see TUNEMESH_RECORDS)"
    code, out, err = said("jobs", *MESH)
    assert code == 0
    assert "convnext-55" in out
    assert err == f"only jobs that the coordinator knows are listed: this mesh keeps no history: {mesh.why}\n"


def test_where_the_coordinator_is_away_the_history_is_listed(mesh: Mesh, said: Said) -> None:
    mesh.away = True
    assert listed(said, *MESH)[0] == "unet-77de01"
    assert said("jobs", *MESH, "--state", "running")[0] == 75
    mesh.why = "no worker"
    assert said("jobs", *MESH)[0] == 75


def test_without_a_mesh_the_database_of_this_machine_is_asked(records: str, said: Said) -> None:
    assert listed(said) == ["unet-77de01", "bert-base-91ab3c", "resnet18-4f81c2"]
    assert listed(said, "--database", records, "--state", "done") == ["resnet18-4f81c2"]


def test_one_job_tells_who_asked_for_it_and_who_stopped_it(mesh: Mesh, said: Said) -> None:
    code, out, _ = said("jobs", "show", "unet-77de01", *MESH)
    assert code == 0
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert lines["state"] == "cancelled"
    assert lines["asked"].endswith("by ann")
    assert lines["stopped"].endswith("by bob")
    assert lines["took"] == "1 min 40 s"
    code, out, _ = said("jobs", "show", "convnext-55", *MESH, "--json")
    assert json.loads(out)["progress"]["phase"] == "tuning"
    assert "results" not in json.loads(out)["job"]


def test_a_job_that_nobody_knows_is_bad_input(mesh: Mesh, said: Said) -> None:
    for command in (["jobs", "show", "nobody", *MESH], ["jobs", "show", "nobody"]):
        code, _, err = said(*command)
        assert code == 2
        assert "'nobody'" in err


def test_the_results_of_a_job_of_last_month_are_fetched(
    mesh: Mesh, said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[str] = []

    def save(store: ArtifactStore, of: JobProgress, made: Any, *more: Any) -> object:
        if made is None:
            return save_results(store, of, made, *more)
        saved.append(of.job)
        raise BrokerUnavailable("enough for this test")

    save_results = past_jobs.save_results
    monkeypatch.setattr(past_jobs, "save_results", save)
    arguments = [*MESH, "--artifacts", str(tmp_path / "store"), "--out", str(tmp_path)]
    said("fetch", "resnet18-4f81c2", *arguments)
    assert saved == ["resnet18-4f81c2"]
    code, _, err = said("fetch", "bert-base-91ab3c", *arguments)
    assert code == 1
    assert err.splitlines() == [
        "fetching what job bert-base-91ab3c has left",
        "error: job bert-base-91ab3c has no results: no device serves the target",
    ]
    code, _, err = said("fetch", "nobody", *arguments)
    assert code == 2
    assert "nobody knows a job 'nobody'" in err
    mesh.away = True
    said("fetch", "resnet18-4f81c2", *arguments)
    assert len(saved) == 2


def test_a_sweep_says_what_it_would_remove_and_removes_it(mesh: Mesh, said: Said, tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path / "store"))
    blob = store.put(b"x" * 2_000_000)
    path = tmp_path / "store" / blob.sha256[:2] / blob.sha256
    os.utime(path, (NOW - 200 * DAY, NOW - 200 * DAY))
    arguments = ["sweep", *MESH, "--artifacts", store.url]
    code, _, err = said(*arguments)
    assert code == 2
    assert "give the mesh's database of records" in err  # this machine's may be that of another mesh
    arguments += ["--database", mesh.records]
    code, out, _ = said(*arguments, "--dry-run")
    assert code == 0
    assert out.startswith("1 artifacts would be removed, 2.0 MB would be freed\n")
    assert "1 jobs ended longer ago than 90 days" in out
    assert path.exists()
    assert said(*arguments, "--retention", "300")[1].startswith("0 artifacts removed")
    assert said(*arguments)[1].startswith("1 artifacts removed, 2.0 MB freed\n")
    assert not path.exists()
    code, out, _ = said("fetch", "resnet18-4f81c2", *MESH, "--artifacts", store.url)
    assert code == 2


@pytest.mark.parametrize("retention", ["none", "-1", "long", "nan"])
def test_a_retention_that_is_no_number_of_days_is_refused(mesh: Mesh, said: Said, retention: str) -> None:
    code, _, err = said("sweep", *MESH, "--artifacts", "/nowhere", "--retention", retention)
    assert code == 2
    assert "--retention" in err


@pytest.mark.parametrize(
    ("asked", "noted", "days"),
    [
        ("7", "none", 7.0),
        (None, "30", 30.0),
        (None, "", 90.0),
        (None, "none", "for ever"),
        ("none", "30", "nothing"),
    ],
)
def test_a_sweep_keeps_what_the_mesh_keeps(asked: str | None, noted: str, days: float | str) -> None:
    address = mesh_address.MeshAddress(broker="amqp://b", artifacts="a", retention=noted)
    if isinstance(days, float):
        assert history_commands.kept_for(asked, address) == days
    else:
        with pytest.raises(BadInput, match=days):
            history_commands.kept_for(asked, address)
