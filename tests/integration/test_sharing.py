"""Jobs that share tasks, and service levels, on a real mesh of the mock engine."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tunemesh.broker_config.node import installed
from tunemesh.client import Client
from tunemesh.layout import plan
from tunemesh.mesh import LocalMesh
from tunemesh.report import JobReport
from tunemesh.results import histories, save_results
from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.messages import FINAL_KINDS, JobEvent, Level, Request, Settings
from tunemesh.tables import saved

pytestmark = pytest.mark.skipif(
    not installed() and not os.environ.get("CI"), reason="needs rabbitmq-server on this machine"
)

MODEL = """
tasks:
  - {name: a, weight: 3}
  - {name: b, weight: 1}
durations: {model-update: 0.02, build: 0.005, profile: 0.01}
"""
TRIALS = 96


@pytest.fixture
def mesh(tmp_path: Path, nodes_end_at_once: None) -> Iterator[LocalMesh]:
    folder = tmp_path / "mesh"
    with LocalMesh(plan(None), "mock", ["mock"], folder=folder, prices={"profile": 36.0}) as running:
        yield running


def submit(client: Client, mesh: LocalMesh, seed: int, **levels: Level) -> None:
    model = ArtifactStore(mesh.artifacts).put(MODEL.encode())
    for job, level in levels.items():
        asked = Request(
            job=job, model=model, target="mock", level=level, engines=["mock"], seed=seed,
            settings=Settings(batch=16, chunk=4),
        )  # fmt: skip
        client.submit(asked)


def follow(
    client: Client, mesh: LocalMesh, jobs: list[str], meanwhile: Callable[[JobEvent], None] | None = None
) -> dict[str, JobEvent]:
    endings: dict[str, JobEvent] = {}
    limit = time.monotonic() + 60
    for event in client.follow(jobs, idle=0.1):
        mesh.supervise()
        assert time.monotonic() < limit, endings
        if event is not None and event.kind in FINAL_KINDS:
            endings[event.job] = event
        elif event is not None and meanwhile is not None:
            meanwhile(event)
    return endings


def tried(mesh: LocalMesh, event: JobEvent) -> list[str]:
    """Candidates that served a job, whoever tried them: none of them twice."""
    assert event.assembled is not None, event.text
    read = histories(ArtifactStore(mesh.artifacts), event.assembled)
    names = [trial.candidate.hash for history in read for trial in history.trials]
    assert len(names) == len(set(names))
    return names


def report(mesh: LocalMesh, event: JobEvent, folder: Path) -> JobReport:
    assert event.progress is not None
    store = ArtifactStore(mesh.artifacts)
    return save_results(store, event.progress, event.assembled, event.validated, folder / event.job)


def test_jobs_that_share_and_what_they_are_promised(mesh: LocalMesh, tmp_path: Path) -> None:
    """One test, because a node takes seconds to start."""
    jobs = ["one", "two", "killed", "heir", "asked", "timed"]
    with Client(mesh.url, jobs) as client:
        # Of its own a mesh on a single core does one job after the other.
        client.set_strategy("interleaved")
        # Two equal jobs make the trials of one, although the coordinator is killed.
        submit(client, mesh, 0, one=Level(trials=TRIALS), two=Level(trials=TRIALS))
        kills = iter([mesh.pids["coordinator"]])

        def kill(event: JobEvent) -> None:
            tuning = event.progress is not None and event.progress.phase == "tuning"
            if tuning and (pid := next(kills, None)):
                os.kill(pid, signal.SIGKILL)

        endings = follow(client, mesh, ["one", "two"], kill)
        assert next(kills, None) is None
        assert {event.kind for event in endings.values()} == {"done"}
        assert sorted(tried(mesh, endings["one"])) == sorted(tried(mesh, endings["two"]))
        reports = [report(mesh, event, tmp_path) for event in endings.values()]
        assert sum(each.trials for each in reports) == TRIALS
        (second,) = [each for each in reports if not each.trials]
        text = saved(second)
        assert text.startswith("2 of 2 tasks were tuned by other jobs at the same time (")
        assert f"which saved {TRIALS} trials" in text

        # The first is cancelled half-way: the other goes on from there.
        submit(client, mesh, 1, killed=Level(trials=400), heir=Level(trials=TRIALS))

        def cancel(event: JobEvent) -> None:
            if event.job == "killed" and event.progress is not None and event.progress.trials >= 32:
                client.cancel("killed")

        endings = follow(client, mesh, ["killed", "heir"], cancel)
        assert (endings["killed"].kind, endings["heir"].kind) == ("cancelled", "done")
        progress = endings["heir"].progress
        assert progress is not None
        taken = [task.taken for task in progress.tasks if task.taken is not None]
        assert {each.job for each in taken} == {"killed"}
        assert not any(each.closed for each in taken)
        assert len(tried(mesh, endings["heir"])) == progress.trials + sum(each.trials for each in taken)
        assert progress.trials < TRIALS <= progress.trials + sum(each.trials for each in taken)

        # A quote, and a deadline that is kept.
        submit(client, mesh, 2, asked=Level(trials=TRIALS, quote_only=True))
        (event,) = follow(client, mesh, ["asked"]).values()
        assert event.progress is not None
        assert event.progress.quote is not None
        assert (event.kind, event.progress.quote.tasks, event.progress.trials) == ("cancelled", 2, 0)
        submit(client, mesh, 2, timed=Level(trials=100_000, deadline=6.0, cost=1.0))
        (event,) = follow(client, mesh, ["timed"]).values()
        assert event.progress is not None
        assert event.progress.standing is not None
        assert (event.kind, event.progress.standing.verdict) == ("done", "met")
        assert 0 < event.progress.trials < 100_000
