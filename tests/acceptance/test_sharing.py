"""Jobs that share tasks, with MetaSchedule: what one has measured the other goes on from."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from examples import make_models
from tunemesh import tuning
from tunemesh.client import Client
from tunemesh.layout import plan
from tunemesh.mesh import LocalMesh
from tunemesh.model_files import ModelFile
from tunemesh.report import histories
from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.messages import FINAL_KINDS, JobEvent, Level, Settings

pytestmark = pytest.mark.alone

FIRST, MORE = 12, 20
LIMIT = 100.0


def follow(
    client: Client, mesh: LocalMesh, jobs: list[str], meanwhile: Callable[[JobEvent], None]
) -> dict[str, JobEvent]:
    endings: dict[str, JobEvent] = {}
    deadline = time.monotonic() + LIMIT
    for event in client.follow(jobs, idle=0.1):
        mesh.supervise()
        assert time.monotonic() < deadline, endings
        if event is not None and event.kind in FINAL_KINDS:
            endings[event.job] = event
        elif event is not None:
            meanwhile(event)
    return endings


def test_jobs_of_one_model_take_the_trials_of_one_whatever_becomes_of_the_first(tmp_path: Path) -> None:
    """One mesh, because it takes seconds to start."""
    data = make_models.square_product("product", 64, 1).SerializeToString()
    model = ModelFile(name="product.onnx", data=data)
    settings = Settings(batch=8, chunk=4, repeats=1, min_repeat_ms=5)
    jobs = ["first", "second", "cancelled", "heir"]
    # Of two cores one is the device; of its own a mesh on a single core does one job after the other.
    with LocalMesh(plan(None), "native", folder=tmp_path / "mesh") as mesh, Client(mesh.url, jobs) as client:
        store = ArtifactStore(mesh.artifacts)
        client.set_strategy("interleaved")

        def submit(seed: int, **trials: int) -> None:
            for job, count in trials.items():
                level = Level(trials=count)
                wanted = tuning.Plan(target="native", out=tmp_path, level=level, seed=seed, settings=settings)
                client.submit(tuning.make_request(job, model, wanted, store))

        def cancel(event: JobEvent) -> None:
            if event.job == "cancelled" and event.progress is not None and event.progress.trials:
                client.cancel("cancelled")

        submit(0, first=FIRST, second=MORE)
        submit(1, cancelled=400, heir=FIRST)
        endings = follow(client, mesh, jobs, cancel)

    assert {job: event.kind for job, event in endings.items()} == dict.fromkeys(jobs, "done") | {
        "cancelled": "cancelled"
    }
    for job, leader, asked in (("second", "first", MORE), ("heir", "cancelled", FIRST)):
        event = endings[job]
        assert event.progress is not None
        assert event.assembled is not None
        assert event.validated is not None
        assert event.validated.equal
        (task,) = event.progress.tasks
        assert task.taken is not None
        assert (task.taken.job, task.taken.closed) == (leader, leader == "first")
        # It goes on from there, and tries nothing again.
        tried = [
            trial.candidate.hash for history in histories(store, event.assembled) for trial in history.trials
        ]
        assert len(tried) == len(set(tried)) == task.trials + task.taken.trials >= asked
    told = [endings[job].progress for job in ("first", "second")]
    assert sum(each.trials for each in told if each is not None) == MORE
