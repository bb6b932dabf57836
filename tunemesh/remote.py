"""A running mesh, from Python.

>>> mesh = tunemesh.connect()  # doctest: +SKIP
>>> job = mesh.submit(tunemesh.model("m.onnx").trials(1000))  # doctest: +SKIP
>>> job.status().phase, job.result().speedup  # doctest: +SKIP

Everything has a twin for ``asyncio``: ``await job`` is its result.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tunemesh import checks, mesh_address, past_jobs, tuning
from tunemesh.checks import check_job_id
from tunemesh.client import Client
from tunemesh.mesh_address import MeshAddress
from tunemesh.progress_bar import Callback, ProgressBar
from tunemesh.report import check_empty
from tunemesh.session import Model, check_texts, folder_of, model
from tunemesh.shared.errors import BadInput, JobFailed
from tunemesh.shared.messages import FINAL_KINDS, JobProgress, Snapshot
from tunemesh.tuned import Tuned


@dataclass(frozen=True, slots=True)
class Mesh:
    """A mesh that runs. Every call has a connection of its own."""

    address: MeshAddress

    def status(self) -> Snapshot:
        """Its jobs and its resources.

        Raises:
            BrokerUnavailable: the broker, or a coordinator, does not answer.
        """
        with Client(self.address.broker) as client:
            return client.snapshot()

    def submit(self, what: Model | str | os.PathLike[str] | bytes) -> Job:
        """Hand in a model, and return when the mesh has taken it. Where it is to say how it is tuned it is a
        :class:`~tunemesh.Model`; its device, memory and broker are those of the mesh.

        Raises:
            BadInput: the model, the target or an option cannot be used.
            JobFailed: the coordinator has rejected it; says why.
            BrokerUnavailable: the broker does not answer.
        """
        chosen = what if isinstance(what, Model) else model(what)
        target = checks.usual_target(chosen.plan.target, chosen.plan.engines)
        (taken,) = tuning.submit([chosen.given], replace(chosen.plan, target=target), self.address)
        if taken.answer == "rejected":
            raise JobFailed(f"job {taken.job} was rejected: {taken.text}")
        return Job(self, taken.job)

    def job(self, id: str) -> Job:
        """A job that was submitted before, by whomever.

        Raises:
            BadInput: that cannot be the id of a job.
        """
        check_job_id(id)
        return Job(self, id)


@dataclass(frozen=True, slots=True)
class Job:
    """A job of a mesh. ``await job`` is its :meth:`result`."""

    mesh: Mesh
    id: str

    def status(self) -> JobProgress:
        """How it stands.

        Raises:
            BadInput: the coordinator does not know it.
            JobFailed: it was rejected.
        """
        with Client(self.mesh.address.broker) as client:
            snapshot = client.snapshot(self.id)
        past_jobs.check_known(snapshot, self.id)
        return snapshot.jobs[0]

    def cancel(self, keep: bool = False) -> None:
        """Ask for it to be stopped; with ``keep`` it ends with the best that was found so far. Returns before
        it has ended.

        Raises:
            BadInput: it has ended already, or nobody knows it.
        """
        phase = self.status().phase
        if phase in FINAL_KINDS:
            raise BadInput(f"job {self.id} has ended already: {phase}")
        with Client(self.mesh.address.broker) as client:
            client.cancel(self.id, keep)

    def wait(
        self, timeout: float | None = None, *, progress: bool | None = None, callback: Callback | None = None
    ) -> str:
        """Wait until it has ended: ``done``, ``failed``, ``cancelled`` or ``rejected``. Ctrl-C ends the
        waiting and not the job.

        Args:
            timeout: seconds.
            progress: whether a bar shows how far it is; by default in terminals and notebooks.
            callback: told of its :class:`~shared.messages.JobProgress` whenever something has happened.

        Raises:
            TimeoutError: it has not ended in time.
        """
        return self._wait(timeout, threading.Event(), progress, callback)

    def result(
        self,
        out: str | os.PathLike[str] | None = None,
        timeout: float | None = None,
        *,
        overwrite: bool = False,
        progress: bool | None = None,
        callback: Callback | None = None,
    ) -> Tuned:
        """Wait until it has ended, and fetch what came out.

        Args:
            out: folder for the results, which get a folder of their own there; by default a new one in the
                folder for temporary files. The others as for :meth:`wait`.
            overwrite: whether a result that is there already may be replaced.

        Raises:
            JobFailed: it has no result; what was measured for it is in its folder.
            TimeoutError: it has not ended in time.
        """
        folder = self._folder(out, overwrite)
        self.wait(timeout, progress=progress, callback=callback)
        return self._fetched(folder)

    async def wait_async(self, timeout: float | None = None, *, callback: Callback | None = None) -> str:
        """As :meth:`wait`, while other tasks go on; ``callback`` is called in another thread."""
        stop = threading.Event()
        try:
            return await asyncio.to_thread(self._wait, timeout, stop, False, callback)
        finally:
            stop.set()  # a task that was cancelled waits for nothing

    async def result_async(
        self,
        out: str | os.PathLike[str] | None = None,
        timeout: float | None = None,
        *,
        overwrite: bool = False,
        callback: Callback | None = None,
    ) -> Tuned:
        """As :meth:`result`, while other tasks go on."""
        folder = self._folder(out, overwrite)
        await self.wait_async(timeout, callback=callback)
        return await asyncio.to_thread(self._fetched, folder)

    def __await__(self) -> Generator[Any, None, Tuned]:
        return self.result_async().__await__()

    def _wait(
        self,
        timeout: float | None,
        stop: threading.Event,
        progress: bool | None,
        callback: Callback | None,
    ) -> str:
        deadline = time.monotonic() + timeout if timeout is not None else None
        with Client(self.mesh.address.broker, [self.id]) as client, ProgressBar(progress, callback) as bar:
            for event in client.follow([self.id]):
                if event is not None:
                    bar.event(event)
                    if event.kind in FINAL_KINDS:
                        return event.kind
                if stop.is_set() or (deadline is not None and time.monotonic() > deadline):
                    break
        raise TimeoutError(f"job {self.id} has not ended after {timeout or 0.0:g} s")

    def _folder(self, out: str | os.PathLike[str] | None, overwrite: bool) -> Path:
        made = folder_of(out) if out is not None else Path(tempfile.mkdtemp(prefix="tunemesh-tuned-"))
        if not overwrite:
            check_empty(made / self.id)
        return made / self.id

    def _fetched(self, folder: Path) -> Tuned:
        return Tuned(folder, past_jobs.fetch(self.id, folder, self.mesh.address, html=True))


def connect(broker: str | None = None, artifacts: str | None = None) -> Mesh:
    """A mesh that runs.

    Args:
        broker: its address; by default that of ``TUNEMESH_BROKER_URL``, else of ``tunemesh up`` here.
        artifacts: its artifact store; by default that of ``TUNEMESH_ARTIFACTS``, else of ``tunemesh up``.

    Raises:
        BadInput: no mesh is known.
        BrokerUnavailable: its broker does not answer.
        BrokerRefused: it does not take this login.
    """
    check_texts("a broker and an artifact store", *(each for each in (broker, artifacts) if each is not None))
    mesh = Mesh(mesh_address.find(broker, artifacts))
    with Client(mesh.address.broker):  # it answers
        return mesh
