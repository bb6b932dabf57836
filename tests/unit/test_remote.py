"""A running mesh from Python, without one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.past import ended, progress
from tunemesh import past_jobs, remote
from tunemesh.mesh_address import MeshAddress
from tunemesh.remote import Job, Mesh
from tunemesh.shared.errors import BadInput, JobFailed
from tunemesh.shared.messages import JobEvent, Snapshot
from tunemesh.tuned import Tuned
from tunemesh.tuning import Submitted

MESH = Mesh(MeshAddress(broker="amqp://x", artifacts="/nowhere"))


class FakeClient:
    """Knows one job, and tells what happens to it."""

    phase = "tuning"
    events: tuple[JobEvent | None, ...] = ()
    cancelled: list[tuple[str, bool]]

    def __init__(self, *_: Any) -> None: ...

    def __enter__(self) -> FakeClient:
        return self

    def __exit__(self, *_: object) -> None: ...

    def snapshot(self, job: str | None = None) -> Snapshot:
        known = [progress("j", self.phase)] if job in ("j", None) else []
        return Snapshot(strategy="s", jobs=known, resources=[])

    def cancel(self, job: str, keep: bool) -> None:
        self.cancelled.append((job, keep))

    def follow(self, jobs: list[str]) -> Iterator[JobEvent | None]:
        yield from self.events
        while True:
            yield None


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> type[FakeClient]:
    class Own(FakeClient):
        cancelled: list[tuple[str, bool]] = []  # noqa: RUF012

    monkeypatch.setattr(remote, "Client", Own)
    return Own


def events(end: JobEvent) -> tuple[JobEvent | None, ...]:
    return (JobEvent(job="j", kind="progress", at=1.0, progress=progress("j", "tuning")), None, end)


def test_a_job_says_how_it_stands(client: type[FakeClient]) -> None:
    assert Job(MESH, "j").status().phase == "tuning"
    assert [job.job for job in MESH.status().jobs] == ["j"]
    with pytest.raises(BadInput, match="knows no job 'k'"):
        MESH.job("k").status()
    with pytest.raises(BadInput, match="no id of a job"):
        MESH.job("not one")


def test_a_job_is_stopped_once(client: type[FakeClient]) -> None:
    Job(MESH, "j").cancel(keep=True)
    assert client.cancelled == [("j", True)]
    client.phase = "done"
    with pytest.raises(BadInput, match="has ended already: done"):
        Job(MESH, "j").cancel()


def test_waiting_ends_with_the_job(client: type[FakeClient]) -> None:
    client.events = events(ended("j"))
    heard: list[str] = []
    assert Job(MESH, "j").wait(callback=lambda job: heard.append(job.phase)) == "done"
    assert heard == ["tuning", "done"]


def test_waiting_ends_in_time(client: type[FakeClient]) -> None:
    with pytest.raises(TimeoutError, match=r"job j has not ended after 0\.01 s"):
        Job(MESH, "j").wait(timeout=0.01)
    with pytest.raises(TimeoutError):
        asyncio.run(Job(MESH, "j").wait_async(timeout=0.01))


def test_a_task_that_is_cancelled_leaves_no_thread(client: type[FakeClient]) -> None:
    async def cancelled() -> None:
        task = asyncio.create_task(Job(MESH, "j").wait_async())
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    before = threading.active_count()
    asyncio.run(cancelled())
    assert threading.active_count() <= before


def test_a_result_is_fetched_when_the_job_has_ended(
    client: type[FakeClient], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.events = events(ended("j"))
    monkeypatch.setattr(past_jobs, "fetch", lambda job, folder, address, html: f"report of {job}")
    want = Tuned(tmp_path / "j", "report of j")  # type: ignore[arg-type]
    assert Job(MESH, "j").result(tmp_path) == want

    async def awaited() -> Tuned:
        return await Job(MESH, "j")

    assert asyncio.run(awaited()).report == want.report
    (tmp_path / "j").mkdir()
    (tmp_path / "j" / "model.so").touch()
    with pytest.raises(BadInput, match="holds a result already"):
        Job(MESH, "j").result(tmp_path)


def test_a_model_is_handed_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.onnx"
    path.touch()
    taken = [Submitted("j", "m.onnx", "accepted")]
    asked: list[Any] = []
    monkeypatch.setattr(remote.tuning, "submit", lambda *given: asked.append(given) or taken)
    assert MESH.submit(path) == Job(MESH, "j")
    assert asked[0][0] == [path]
    taken[0] = Submitted("j", "m.onnx", "rejected", "it names an engine twice")
    with pytest.raises(JobFailed, match="job j was rejected: it names an engine twice"):
        MESH.submit(path)
