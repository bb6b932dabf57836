"""Jobs that the coordinator has forgotten, and those that it knows beside them.

Whoever has a mesh asks its workers; whoever has none asks the database of this machine.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from tunemesh import snapshots
from tunemesh.checks import check_job_id
from tunemesh.client import Client
from tunemesh.mesh_address import MeshAddress
from tunemesh.report import Report
from tunemesh.report_page import writing
from tunemesh.results import save_measured, save_results
from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.errors import BadInput, BrokerUnavailable, JobFailed, Unavailable
from tunemesh.shared.messages import AskHistory, JobEvent, JobProgress, PastJob, PastJobs, Snapshot, past_job

NO_KEY = "0" * 32
"""The client has a key of its own."""
RUNNING = "running"
"""Any phase in which a job has not ended."""


def ask_mesh(broker: str, asked: AskHistory) -> PastJobs:
    """What workers of a mesh know.

    Raises:
        Unavailable: none answers; with the reason.
    """
    with Client(broker) as client:
        if why := client.nobody_answers():
            raise Unavailable(f"this mesh keeps no history: {why}")
    with Client(broker, history=True) as client:
        return client.past_jobs(asked)


def ask_database(address: str, asked: AskHistory) -> PastJobs:
    """What a database knows.

    Raises:
        BadInput: nothing was ever written there.
        Unavailable: it is away.
    """
    # Slow to import.
    from tunemesh.stage_workers.records import history
    from tunemesh.stage_workers.records.database import Database

    with Database(address) as database:
        if not database.exists:
            raise BadInput(f"there are no records in {database.name} yet: tune something first")
        with database.reading() as connection:
            return history.answered(connection, asked)


def about(job: str) -> AskHistory:
    """The question about one job."""
    return AskHistory(answer=NO_KEY, job=job, limit=1)


def merged(known: Iterable[JobProgress], past: Iterable[PastJob], asked: AskHistory) -> list[PastJob]:
    """Jobs of the coordinator that were asked for, and those of the history, each once: the latest first. Of
    those that have ended the history says more."""
    found = {(each.job, each.accepted): each for each in past}
    for progress in known:
        one = past_job(progress)
        wanted = not asked.phases or one.phase in asked.phases
        wanted &= asked.tenant is None or one.tenant == asked.tenant
        wanted &= not asked.since or not one.finished or one.finished >= asked.since
        if wanted:
            found.setdefault((one.job, one.accepted), one)
    ordered = sorted(found.values(), key=lambda each: (not each.finished, each.accepted), reverse=True)
    return ordered[: asked.limit]


def save(event: JobEvent, store: ArtifactStore, folder: Path, html: bool = False) -> Report:
    """Fetch what a job has left into ``folder``; with ``html`` also a page for people.

    Raises:
        JobFailed: it has no results; what was measured for it is in the folder.
        ArtifactError: something is missing or damaged in the store.
        TunemeshError: the folder cannot be written.
    """
    progress = event.progress
    if progress is None:
        raise JobFailed(f"job {event.job} has no results: {event.text or event.kind}")
    if event.measured:
        save_measured(store, progress, event.measured, folder)
        if html:
            writing.write_beside(folder)
        why = progress.error or progress.phase
        raise JobFailed(f"job {event.job} has no results: {why}; what was measured is in {folder}")
    report = save_results(store, progress, event.assembled, event.validated, folder)
    if html:
        writing.write_beside(folder)
    return report


def ending(found: PastJobs, job: str) -> JobEvent:
    """How a job ended, with where its results lie.

    Raises:
        BadInput: nobody knows it, or its results are not kept any more.
    """
    if not found.jobs:
        raise BadInput(f"nobody knows a job {job!r}: neither the coordinator nor the history of the mesh")
    if found.ended is None:
        past = found.jobs[0]
        raise BadInput(
            f"job {job} ended {day(past.finished)}: {past.phase}; its results are not kept any more"
        )
    return found.ended


def day(at: float) -> str:
    """A moment for people."""
    return datetime.fromtimestamp(at).isoformat(" ", "minutes")


def fetch(job: str, folder: Path, address: MeshAddress, html: bool = False) -> Report:
    """Write the results of a finished job to ``folder``; with ``html`` also a page for people.

    Raises:
        JobFailed: it has none; what was measured for it is in the folder.
    """
    check_job_id(job)
    return save(last_told(job, address), ArtifactStore(address.artifacts), folder, html)


def check_known(snapshot: Snapshot, job: str, besides: str = "") -> None:
    """Raises:
    JobFailed: its request was rejected lately.
    BadInput: the coordinator does not know it; ``besides`` says more.
    """
    if snapshot.rejected and not snapshot.jobs:
        raise JobFailed(f"job {job} was rejected: {snapshot.rejected}")
    if not snapshot.jobs:
        raise BadInput(f"the coordinator knows no job {job!r}{besides}")


def last_told(job: str, address: MeshAddress) -> JobEvent:
    """The last that is known of a job: from the coordinator, or where that has forgotten it, from the
    history.

    Raises:
        BadInput: nobody knows it, or its results are not kept any more.
        JobFailed: its request was rejected lately.
        Unavailable: nobody answers who might know it.
    """
    try:
        with Client(address.broker) as client:
            snapshot = client.snapshot(job)
            why = "" if snapshot.jobs or snapshot.rejected else client.nobody_answers()
            if snapshot.jobs or snapshot.rejected or why:
                check_known(snapshot, job, f"; {why}" if why else "")
                return snapshots.as_event(snapshot)
    except BrokerUnavailable as error:
        # The coordinator is away; workers may be there.
        try:
            return ending(ask_mesh(address.broker, about(job)), job)
        except Unavailable:
            raise error from None
    return ending(ask_mesh(address.broker, about(job)), job)
