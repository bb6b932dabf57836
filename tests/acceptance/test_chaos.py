"""Kill anything, any time: every job ends, and every trial is counted once."""

from __future__ import annotations

import contextlib
import math
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tunemesh import client as client_module
from tunemesh import mesh as mesh_module
from tunemesh.children import Child
from tunemesh.client import Client
from tunemesh.layout import plan
from tunemesh.mesh import LocalMesh
from tunemesh.results import histories, save_results
from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.errors import BrokerUnavailable
from tunemesh.shared.messages import FINAL_KINDS, JobEvent, Level, Request, Settings

MODEL = """
tasks:
  - {name: a, weight: 3}
  - {name: b, weight: 1}
  - {name: c, weight: 1}
durations: {model-update: 0.1, build: 0.02, profile: 0.02}
"""
TRIALS = 120
LIMIT = 150.0


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMesh]:
    """One for all tests, each with jobs of its own: whatever one does to it, the next finds it at work."""
    with LocalMesh(plan(None), "mock", ["mock"], folder=tmp_path_factory.mktemp("mesh")) as running:
        yield running
        running.node.kill()  # an orderly stop takes 6 s


def submit(client: Client, mesh: LocalMesh, jobs: list[str]) -> None:
    store = ArtifactStore(mesh.artifacts)
    for seed, job in enumerate(jobs):
        client.submit(
            Request(
                job=job,
                model=store.put(MODEL.encode()),
                target="mock",
                level=Level(trials=TRIALS),
                engines=["mock"],
                seed=seed,
                settings=Settings(chunk=4, batch=16),
            )
        )


def follow(
    client: Client, mesh: LocalMesh, jobs: list[str], now_and_then: Callable[[], None]
) -> dict[str, JobEvent]:
    """Until all jobs have ended."""
    deadline = time.monotonic() + LIMIT
    endings: dict[str, JobEvent] = {}
    for event in client.follow(jobs, idle=0.05):
        mesh.supervise()
        now_and_then()
        assert time.monotonic() < deadline, f"only {sorted(endings)} of {jobs} have ended"
        if event is not None and event.kind in FINAL_KINDS:
            endings[event.job] = event
    return endings


def check(endings: dict[str, JobEvent], mesh: LocalMesh, folder: Path) -> None:
    """Exactly N trials, none twice, and the report agrees with the history."""
    store = ArtifactStore(mesh.artifacts)
    for job, event in endings.items():
        assert event.kind == "done", event.text
        assert event.progress is not None
        report = save_results(store, event.progress, event.assembled, event.validated, folder / job)
        assert report.trials == TRIALS
        assert sum(sum(task.outcomes.values()) for task in report.tasks) == TRIALS
        steps = [timing.step for timing in report.timeline]
        assert len(steps) == len(set(steps))
        assert len(tried(store, event)) == TRIALS


def tried(store: ArtifactStore, event: JobEvent) -> set[str]:
    """What the histories of a job say was tried; nothing of it twice."""
    assert event.assembled is not None
    everything = [
        f"{history.task} {trial.candidate.hash}"
        for history in histories(store, event.assembled)
        for trial in history.trials
    ]
    assert len(everything) == len(set(everything))
    return set(everything)


def test_every_process_is_killed_twice_and_then_the_mesh_takes_new_jobs(
    mesh: LocalMesh, tmp_path: Path
) -> None:
    rng = random.Random(os.environ.get("TUNEMESH_CHAOS_SEED", "1"))
    victims = [name for name in mesh.pids for _ in range(2)]
    assert len(victims) >= 8
    rng.shuffle(victims)
    killed: list[str] = []
    due = time.monotonic() + 2.0

    def kill() -> None:
        nonlocal due
        if victims and time.monotonic() >= due and victims[-1] in mesh.pids:
            killed.append(victims.pop())
            os.kill(mesh.pids[killed[-1]], signal.SIGKILL)
            due = time.monotonic() + rng.uniform(0.3, 1.5)

    first, second = ["one", "two"], ["three", "four"]
    with Client(mesh.url, [*first, *second]) as client:
        submit(client, mesh, first)
        endings = follow(client, mesh, first, kill)
        submit(client, mesh, second)
        endings |= follow(client, mesh, second, kill)
    assert not victims, f"jobs were over before all were killed; only {killed}"
    check(endings, mesh, tmp_path)


def test_the_broker_is_killed_twice_and_restarted_on_its_folder(mesh: LocalMesh, tmp_path: Path) -> None:
    due = math.inf
    kills = 0

    def kill() -> None:
        nonlocal kills, due
        if time.monotonic() >= due and mesh.node.pid is not None:
            os.kill(mesh.node.pid, signal.SIGKILL)  # from outside: the mesh itself must notice
            kills, due = kills + 1, math.inf

    endings: dict[str, JobEvent] = {}
    for jobs, after in ((["five", "six"], 3.0), (["seven"], 1.0)):
        with Client(mesh.url, jobs) as client:
            submit(client, mesh, jobs)
            due = time.monotonic() + after
            endings |= follow(client, mesh, jobs, kill)
    assert kills == 2
    check(endings, mesh, tmp_path)


def test_a_coordinator_that_stood_by_takes_over(mesh: LocalMesh, tmp_path: Path) -> None:
    log = tmp_path / "standby.log"
    url = {"TUNEMESH_BROKER_URL": mesh.node.url("coordinator")}
    standby = Child("standby", ["coordinator"], url, log=log)
    up: list[float] = []
    killed: list[int] = []

    def kill() -> None:
        if not up and log.exists() and "is up" in log.read_text():
            up.append(time.monotonic())
        # It has stood by for a while. The mesh starts its coordinator again, which then stands by.
        if up and not killed and time.monotonic() > up[0] + 1.0:
            killed.append(mesh.pids["coordinator"])
            os.kill(killed[0], signal.SIGKILL)

    with Client(mesh.url, ["eight", "nine"]) as client:
        client.snapshot(timeout=30.0)  # the mesh's own is the active one
        submit(client, mesh, ["eight"])
        standby.start()
        try:
            endings = follow(client, mesh, ["eight"], kill)
            assert killed, "the job was over before the standby was up"
            assert client.snapshot(timeout=10.0).jobs
            submit(client, mesh, ["nine"])
            endings |= follow(client, mesh, ["nine"], lambda: None)
        finally:
            assert standby.process is not None
            standby.process.kill()
            standby.process.wait(10)
    check(endings, mesh, tmp_path)


def test_a_model_that_kills_its_workers_fails_and_takes_no_other_job_along(
    mesh: LocalMesh, tmp_path: Path
) -> None:
    """Whatever is in it: here the worker is killed from outside whenever it imports that model."""
    seen: dict[int, float] = {}

    def kill() -> None:
        """Each build worker three seconds after it was first seen: it has the step by then."""
        for name, pid in mesh.pids.items():
            if name.startswith("build") and time.monotonic() - seen.setdefault(pid, time.monotonic()) > 3.0:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    path = tmp_path / "poison.yaml"
    path.write_text(MODEL.replace("durations: {", "durations: {import: 8, "))
    store = ArtifactStore(mesh.artifacts)
    with Client(mesh.url, ["poison", "good"]) as client:
        model = store.put(path.read_bytes())
        client.submit(
            Request(job="poison", model=model, target="mock", level=Level(trials=8), engines=["mock"])
        )
        endings = follow(client, mesh, ["poison"], kill)
        submit(client, mesh, ["good"])
        endings |= follow(client, mesh, ["good"], lambda: None)
    assert endings["poison"].kind == "failed"
    assert (
        "import: 3 workers were lost while they did it, the last one build-cpu.mock@"
        in endings["poison"].text
    )
    check({"good": endings["good"]}, mesh, tmp_path)


def test_a_job_that_nobody_knows_is_not_followed_for_ever(
    mesh: LocalMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "SILENCE", 0.2)
    with Client(mesh.url, ["nobody"]) as client:
        began = time.monotonic()
        events = [event for event in client.follow(["nobody"], idle=0.1) if event is not None]
        assert time.monotonic() - began < 30
    assert [(event.job, event.kind) for event in events] == [("nobody", "rejected")]
    assert "does not know job nobody" in events[0].text


def test_a_broker_that_cannot_come_back_ends_the_mesh(
    mesh: LocalMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mesh_module, "NODE_DEATHS", 3)
    assert mesh.node.pid is not None
    os.kill(mesh.node.pid, signal.SIGKILL)
    while mesh.node.pid is not None:
        time.sleep(0.05)
    data = mesh.node.folder / "data"
    shutil.rmtree(data)
    data.write_text("a file where the data folder should be")

    def go_on() -> None:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            mesh.supervise()
            time.sleep(0.1)

    with pytest.raises(BrokerUnavailable, match=r"keeps ending: .*log: "):
        go_on()
