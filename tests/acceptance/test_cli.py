"""The command line as a person uses it: what comes out."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import Run, command_line, complaint
from tests.conftest import Broker
from tunemesh.layout import plan
from tunemesh.shared.errors import LinkDown
from tunemesh.shared.transport.link import Link, Outgoing

pytestmark = pytest.mark.alone


def test_two_models_are_tuned_at_once_and_reported(tunemesh: Run, tmp_path: Path, mock_model: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(mock_model.read_text())
    arguments = ("--engine", "mock", "--target", "mock", "--trials", 40, "--out", tmp_path / "out", "--json")
    ended = tunemesh("tune", mock_model, other, *arguments, "--no-shared")
    assert ended.returncode == 0, ended.stderr
    for job in json.loads(ended.stdout):
        report = json.loads((Path(job["folder"]) / "report.json").read_text())
        assert report == job["report"]
        assert report["trials"] == 40
        assert report["speedup"] > 1
        stages = {"import", "model-update", "build", "profile", "assemble", "validate"}
        assert {step["stage"] for step in report["timeline"]} == stages
    jobs = [{s["step"].split("/")[0] for s in j["report"]["timeline"]} for j in json.loads(ended.stdout)]
    assert jobs == [{"model"}, {"other"}]
    recorded = json.loads(tunemesh("records", "list", "--limit", 100, "--json").stdout)
    assert Counter(each["job"] for each in recorded) == {"model": 40, "other": 40}
    assert {each["source"] for each in recorded} == {"here"}


def test_results_that_do_not_fit_on_the_disk_are_kept(
    tunemesh: Run, tmp_path: Path, mock_model: Path
) -> None:
    out = tmp_path / "out"
    (out / "model" / "model.so").mkdir(parents=True)  # cannot be replaced by a file, also not by root
    arguments = ("--engine", "mock", "--target", "mock", "--trials", 4, "--out", out)
    ended = tunemesh("tune", mock_model, *arguments)
    assert ended.returncode == 1
    assert "cannot write" in complaint(ended.stderr)
    assert "the results are kept in" in ended.stdout


def interrupted(model: Path, folder: Path, signals: list[tuple[str, int]]) -> tuple[int, str]:
    """Tune on a mesh of its own, send each signal after a line that contains the text beside it, and see that
    nothing is left of the mesh. Returns the exit code and what was written to stderr."""
    environment = {**os.environ, "HOME": str(folder), "TMPDIR": str(folder)}
    command = [sys.executable, "-m", "tunemesh", "tune", str(model), "--engine", "mock"]
    command += ["--target", "mock", "--trials", "100000", "--out", str(folder / "out")]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for text, signum in signals:
            assert any(text in line for line in process.stdout)
            process.send_signal(signum)
        _, errors = process.communicate(timeout=60)
    left = subprocess.run(["pgrep", "-f", str(folder)], capture_output=True, text=True).stdout
    assert left == ""
    assert not list(folder.glob("tunemesh-*"))
    return process.returncode, errors


def test_ctrl_c_stops_early_and_keeps_what_was_found(tmp_path: Path, mock_model: Path) -> None:
    assert interrupted(mock_model, tmp_path, [(" -> ", signal.SIGINT)]) == (0, "")
    report = json.loads((tmp_path / "out" / "model" / "report.json").read_text())
    assert 0 < report["trials"] < report["budget"] == 100_000
    assert report["speedup"] > 1


@pytest.mark.parametrize(
    "signals",
    [
        [("tuning", signal.SIGINT), ("stopping early", signal.SIGINT)],
        [("tuning", signal.SIGTERM)],
        [("starting a mesh", signal.SIGINT)],
    ],
)
def test_a_second_ctrl_c_takes_everything_down(
    tmp_path: Path, mock_model: Path, signals: list[tuple[str, int]]
) -> None:
    assert interrupted(mock_model, tmp_path, signals) == (130, "error: interrupted\n")


def test_what_was_measured_outlives_everything(tunemesh: Run, tmp_path: Path, mock_model: Path) -> None:
    """The model is never assembled: everything is killed while it is."""
    mock_model.write_text(mock_model.read_text().replace("{model-update", "{assemble: 600, model-update"))
    folder = tmp_path / "out" / "model"
    environment = {**os.environ, "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "tunemesh", "tune", str(mock_model), "--engine", "mock"]
    command += ["--target", "mock", "--trials", "16", "--out", str(tmp_path / "out")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while len(closed := list((folder / "measured").glob("[!.]*.json"))) < 2:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.1)
        process.kill()
    assert not (folder / "report.json").exists()
    ended = tunemesh("export", folder, "--as", "database")
    assert (ended.returncode, ended.stdout) == (0, f"{folder}\n"), ended.stderr
    records = json.loads((folder / "records.json").read_text())
    assert {record["task"] for record in records} == {"conv", "dense"}
    assert sum(record["trials"] for record in records) == 16
    assert len(closed) == 2


@pytest.fixture(scope="module")
def mesh_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """``tunemesh up`` with the mock engine; the environment that finds it. To start and stop it takes 15 s,
    so there is one for all tests."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TUNEMESH_")}
    environment |= {"HOME": str(tmp_path_factory.mktemp("home")), "COLUMNS": "200"}
    environment.pop("XDG_DATA_HOME", None)
    command = [sys.executable, "-m", "tunemesh", "up", "--engine", "mock", "--target", "mock"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "mesh is up" in process.stdout.readline()
        yield environment
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=40)


@pytest.fixture
def there(mesh_home: dict[str, str]) -> Run:
    """Run ``tunemesh`` where it finds the standing mesh."""
    return command_line(Path(mesh_home["HOME"]))


@pytest.fixture
def through(mesh_home: dict[str, str]) -> tuple[str, ...]:
    """Options of ``tune`` for the standing mesh."""
    place = json.loads((Path(mesh_home["HOME"]) / ".local/share/tunemesh/mesh.json").read_text())
    return ("--broker", place["broker"], "--artifacts", place["artifacts"])


def test_poison_costs_one_candidate_each_and_says_why(
    there: Run, through: tuple[str, ...], tmp_path: Path
) -> None:
    model = tmp_path / "poison.yaml"
    model.write_text(
        "tasks:\n  - name: t\n    failures:\n"
        "      build-crash: {indices: [1]}\n      build-hang: {indices: [3]}\n"
        "      profile-memory: {indices: [5]}\n      wrong-result: {indices: [7]}\n"
    )
    arguments = (
        "--engine",
        "mock",
        "--target",
        "mock",
        "--trials",
        16,
        "--out",
        tmp_path,
        "--json",
        *through,
    )
    # Not cut short: filling the memory takes many times as long as measuring another candidate.
    limits = ("--build-timeout", 1, "--profile-timeout", 60, "--cut-short", "none")
    ended = there("tune", model, *arguments, *limits)
    assert ended.returncode == 0, ended.stderr
    (task,) = json.loads(ended.stdout)[0]["report"]["tasks"]
    assert task["outcomes"] == {
        "measured": 12,
        "build-failed": 1,
        "build-timed-out": 1,
        "run-failed": 1,
        "wrong-result": 1,
    }
    assert task["last_error"]


def test_every_distinct_task_of_a_list_of_models_is_tuned_once(
    there: Run, through: tuple[str, ...], tmp_path: Path, mock_model: Path
) -> None:
    listed = tmp_path / "zoo.yaml"
    listed.write_text(
        f"models: [{{name: one, file: {mock_model.name}}}, {{name: two, file: {mock_model.name}}}]"
    )
    arguments = (
        "--engine",
        "mock",
        "--target",
        "mock",
        "--trials",
        16,
        "--out",
        tmp_path,
        "--json",
        *through,
    )
    ended = there("tune", listed, *arguments)
    assert ended.returncode == 0, ended.stderr
    one, two = (job["report"] for job in json.loads(ended.stdout))
    assert (one["trials"], two["trials"]) == (16, 0)
    assert one["latency_after_s"] == two["latency_after_s"] < one["latency_before_s"]
    assert {each["step"].partition("/")[0] for each in two["timeline"]} == {two["job"]}


def test_a_bad_job_fails_with_its_cause_and_the_other_is_not_affected(
    there: Run, through: tuple[str, ...], tmp_path: Path, mock_model: Path
) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("tasks: 7\n")
    late = tmp_path / "late.yaml"
    late.write_text("{tasks: [{name: a}], stages: {assemble: error}}")
    arguments = ("--engine", "mock", "--target", "mock", "--trials", 8, "--out", tmp_path / "out", *through)
    ended = there("tune", bad, late, mock_model, *arguments)
    assert ended.returncode == 1
    failed, unbuilt = (line for line in ended.stderr.splitlines() if line.startswith("error: "))
    assert re.match("error: job bad-[0-9a-f]{6} failed: import: ", failed)
    assert list((tmp_path / "out").glob("model-*/report.json"))
    # What was measured before it failed is there all the same, and the report says what failed.
    (folder,) = (tmp_path / "out").glob("late-*")
    assert unbuilt.startswith(f"error: job {folder.name} failed: assemble: ")
    assert unbuilt.endswith(f"; what was measured is in {folder}")
    (record,) = json.loads((folder / "records.json").read_text())
    assert (record["task"], record["trials"]) == ("a", 8)
    report = json.loads((folder / "report.json").read_text())
    assert report["error"].startswith("assemble: ")
    assert report["tasks"][0]["trials"] == 8
    assert {"import", "build", "profile"} <= {each["stage"] for each in report["timeline"]}
    assert not (folder / "model.so").exists()


def test_a_standing_mesh_takes_lists_cancels_and_returns_jobs(
    mesh_home: dict[str, str], there: Run, through: tuple[str, ...], mock_model: Path, tmp_path: Path
) -> None:
    def await_trials(job: str) -> None:
        deadline = time.monotonic() + 60
        while not json.loads(there("status", job, "--json").stdout)["jobs"][0]["trials"]:
            assert time.monotonic() < deadline

    # The other runs of this test have left records on the same mesh.
    # Nor do they share: what a job takes over from another one is in its records, and no trial of its own.
    common = ("--engine", "mock", "--target", "mock", "--known", "never", "--no-shared")
    (short,) = there("submit", mock_model, *common, "--trials", 12).stdout.split()
    long, kept = (there("submit", mock_model, *common, "--trials", 100_000).stdout.strip() for _ in range(2))
    assert there("watch", short).returncode == 0
    listed = json.loads(there("status", "--json").stdout)
    phases = {job["job"]: job["phase"] for job in listed["jobs"]}
    assert (phases[short], phases[long], kept in phases) == ("done", "tuning", True)
    assert {r["queue"] for r in listed["resources"]} >= {"build-cpu.mock", "model-update.mock"}
    await_trials(long)
    assert "cancelled" in there("cancel", long).stdout
    assert "cancelled" in complaint(there("fetch", long, "--out", tmp_path / "out").stderr)
    report = json.loads((tmp_path / "out" / long / "report.json").read_text())
    records = json.loads((tmp_path / "out" / long / "records.json").read_text())
    assert sum(record["trials"] for record in records) == report["trials"]
    await_trials(kept)
    assert f"{kept}: done" in there("cancel", kept, "--keep").stdout
    assert there("fetch", kept, "--out", tmp_path / "out").returncode == 0
    assert 0 < json.loads((tmp_path / "out" / kept / "report.json").read_text())["trials"] < 100_000
    assert there("fetch", short, "--out", tmp_path / "out").returncode == 0
    assert json.loads((tmp_path / "out" / short / "report.json").read_text())["trials"] == 12
    assert "for mock is no model that can run" in complaint(there("export", short, "--as", "cpp").stderr)
    assert "knows no job" in complaint(there("status", "nobody").stderr)
    chosen = ("--engine", "mock", "--target", "mock", "--option", "mock.speed=3", "--json")
    (taken,) = json.loads(there("submit", mock_model, *chosen).stdout)
    assert taken["answer"] == "accepted"
    assert there("strategy", "fair:gold=3,free=1").stdout == "fair:gold=3,free=1\n"
    assert "unknown strategy 'best'; there are: fair" in complaint(there("strategy", "best").stderr)
    # The one of this mesh: its journal lies in this home.
    mine = ["pgrep", "-f", f"tunemesh coordinator .*{mesh_home['HOME']}"]
    coordinator = subprocess.run(mine, capture_output=True, text=True, check=True)
    os.kill(int(coordinator.stdout.split()[-1]), signal.SIGKILL)
    assert there("strategy").stdout == "fair:gold=3,free=1\n"
    example = [sys.executable, "examples/publish_request.py", str(mock_model), "--engine", "mock"]
    example += ["--target", "mock", "--trials", "8", "--out", str(tmp_path / "example")]
    variables = {"TUNEMESH_BROKER_URL": through[1], "TUNEMESH_ARTIFACTS": through[3]}
    ended = subprocess.run(
        example, env={**mesh_home, **variables}, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_workers_and_a_coordinator_find_the_standing_mesh(mesh_home: dict[str, str], there: Run) -> None:
    def count() -> int:
        resources = json.loads(there("status", "--json").stdout)["resources"]
        return sum(len(each["workers"]) for each in resources if each["queue"] == "model-update.mock")

    def await_workers(number: int) -> None:
        deadline = time.monotonic() + 30
        while (found := count()) != number:
            assert time.monotonic() < deadline, f"{found} workers instead of {number}"

    own = plan(None).updaters
    await_workers(own)
    commands = [["worker", "model-update", "--engine", "mock"], ["coordinator"]]
    more = [
        subprocess.Popen([sys.executable, "-m", "tunemesh", *command], env=mesh_home) for command in commands
    ]
    try:
        await_workers(own + 1)
        assert [each.poll() for each in more] == [None, None]
    finally:
        for each in more:
            each.terminate()
        assert [each.wait(30) for each in more] == [0, 0]


def test_a_worker_with_the_rights_of_a_client_ends_with_the_reason(tunemesh: Run, node: Broker) -> None:
    url = node.url("client")
    ended = tunemesh("worker", "build-cpu", "--engine", "mock", "--broker", url, "--artifacts", "/tmp")
    assert "lacks a right that its role needs" in complaint(ended.stderr)
    assert ended.returncode == 2


def test_messages_that_cannot_be_read_are_put_aside_and_block_nothing(
    there: Run, through: tuple[str, ...], mock_model: Path
) -> None:
    bodies = [
        b"\xc1 not MessagePack",
        b"\x82\xa4type\xa7request\xa7version\x63",  # version 99
        b"\x81\xa4type\xa7request",
        b"x" * 1_000_000,
    ]
    link = Link(through[1], "bad client")
    link.start()
    for body in bodies:
        link.publish(Outgoing("tunemesh.clients", "request.-", body, "bad", "request", signed=True)).result(
            10
        )
    # The broker itself refuses what is too large, and closes the channel of whoever sent it.
    huge = Outgoing("tunemesh.clients", "request.-", b"x" * 2**21, "huge", "request", signed=True)
    with pytest.raises(LinkDown):
        link.publish(huge).result(10)
    link.close()
    ended = there("tune", mock_model, "--engine", "mock", "--target", "mock", "--trials", 4, *through)
    assert ended.returncode == 0, ended.stderr
