"""Records from and for elsewhere: those of jobs that workers could not write, and those of other programs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from tunemesh.client import Client
from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.errors import BadInput, TunemeshError, unusable
from tunemesh.shared.messages import (
    Blob,
    Candidate,
    JobProgress,
    Origin,
    Snapshot,
    TaskRecords,
    TaskSpec,
    Trial,
)
from tunemesh.stage_workers import engines
from tunemesh.stage_workers.engines.protocol import (
    BuildCall,
    Engine,
    ExportCall,
    ReadCall,
    ReadTask,
    Source,
    TaskTrials,
)
from tunemesh.stage_workers.records import gathering, queries, rows
from tunemesh.stage_workers.records.database import Database
from tunemesh.stage_workers.records.questions import Filter, Found
from tunemesh.stage_workers.sandbox import allocator
from tunemesh.stage_workers.sandbox.sandbox import CallFailure, Sandbox
from tunemesh.stage_workers.stages.histories import read_histories, read_records

METASCHEDULE = "metaschedule"
GIB = 2**30
MOST = 1_000_000
"""Trials that are exported at a time."""
READ_LIMIT = 3600.0
"""Seconds: a trace is replayed in some 10 ms, and there may be a hundred thousand."""


class Synced(Struct, frozen=True, kw_only=True):
    """What became of a job."""

    job: str
    trials: int = 0
    """That its histories hold."""
    new: int = 0
    """Rows that were not there."""
    error: str = ""
    """Why it could not be written."""


def sync(client: Client, store: ArtifactStore, database: Database) -> Iterator[Synced]:
    """Write the records of all jobs that the mesh still knows: what is there already is left as it is.

    Raises:
        BrokerUnavailable: no coordinator answers.
        RecordsUnavailable: the records cannot be written.
    """
    for progress in client.snapshot().jobs:
        try:
            found = _rows_of(client.snapshot(progress.job), progress, store)
        except TunemeshError as error:
            yield Synced(job=progress.job, error=str(error))
            continue
        trials = sum(isinstance(row, rows.Trial) for row in found)
        yield Synced(job=progress.job, trials=trials, new=database.add(found))


def _rows_of(snapshot: Snapshot, progress: JobProgress, store: ArtifactStore) -> list[rows.Row]:
    """Raises:
    ArtifactError: a history is missing or damaged.
    """
    origin = Origin(
        job=progress.job,
        accepted=progress.accepted,
        tenant=progress.tenant,
        model=progress.name,
        visibility=progress.visibility,
    )
    store = store.of(progress.tenant)
    if snapshot.assembled is not None:
        measured: Sequence[TaskRecords] = read_records(snapshot.assembled.records, store)
    else:
        # How long a task takes untuned is written for jobs that are done: it says that they have searched it.
        measured = [replace(each, untuned=None) for each in snapshot.measured]
    found: list[rows.Row] = []
    for records in measured:
        if records.task.engine is None:
            continue
        workload = store.get(records.task.workload)
        found += gathering.of_task(records.task, progress.target, workload)
        found += gathering.of_records(records, read_histories(records.history, store), origin)
    return found


def write_metaschedule(database: Database, which: Filter, folder: Path, memory: float) -> tuple[int, int]:
    """Write trials as a database of MetaSchedule.

    Returns:
        How many trials were written, and how many left out: it has no schedules for kernels by Winograd's
        algorithm.

    Raises:
        BadInput: there are none, or they are for several targets; or the folder cannot be written.
    """
    which = replace(which, engine=METASCHEDULE)
    with database.reading() as connection:
        found = [each for each in queries.newest(connection, which, MOST) if each.trial.latency is not None]
        tasks = [
            TaskTrials(
                workload=data, trials=[_trial(number, each) for number, each in enumerate(of_workload)]
            )
            for data, of_workload in queries.by_workload(connection, found)
        ]
    targets = sorted({each.task.target for each in found})
    if not tasks:
        raise BadInput("there are no records of the engine metaschedule that this is about")
    if len(targets) > 1:
        raise BadInput(f"a database of MetaSchedule is for one target: choose with --target, of {targets}")
    with sandbox_of(METASCHEDULE, memory) as sandbox:
        call = ExportCall(target=targets[0], tasks=tasks)
        exported = sandbox.call(METASCHEDULE, Engine.export, call, READ_LIMIT)
    if isinstance(exported, CallFailure):
        raise TunemeshError(f"engine {METASCHEDULE}, export: {exported.kind}: {exported.text}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in exported.files.items():
            (folder / name).write_bytes(content)
    except OSError as error:
        raise unusable(f"cannot write {folder}", error) from None
    # A line for each, in one of its two files.
    written = max(content.count(b"\n") for name, content in exported.files.items() if "record" in name)
    return written, sum(len(task.trials) for task in tasks) - written


def _trial(number: int, found: Found) -> Trial:
    latencies = found.confirmed.latencies if found.confirmed is not None else found.trial.latencies
    candidate = Candidate(number, found.trial.hash, found.trial.schedule)
    return Trial(candidate=candidate, outcome="measured", latencies=latencies)


def read_metaschedule(
    folder: Path, database: Database, label: str, memory: float
) -> tuple[int, int, list[str]]:
    """Add what MetaSchedule itself has measured to the records.

    Args:
        label: where it comes from, for people.

    Returns:
        Trials that were read, rows that are new, and what was skipped and why.

    Raises:
        BadInput: the folder holds no such database.
    """
    try:
        files = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".json"}
    except OSError as error:
        raise unusable(f"cannot read {folder}", error) from None
    with sandbox_of(METASCHEDULE, memory) as sandbox:
        read = sandbox.call(METASCHEDULE, Engine.read, ReadCall(files=files), READ_LIMIT)
    if isinstance(read, CallFailure):
        raise TunemeshError(f"engine {METASCHEDULE} cannot read {folder}: {read.kind}: {read.text}")
    new = database.add([row for task in read.tasks for row in _foreign(task, read.format, label)])
    return sum(len(task.trials) for task in read.tasks), new, read.skipped


def _foreign(task: ReadTask, format_: int, label: str) -> list[rows.Row]:
    """The rows of a task that another program has tuned: for no job of ours, and nobody knows where."""
    origin = Origin(job=METASCHEDULE, accepted=0.0, model=label)
    workload = Blob(hashlib.sha256(task.workload).hexdigest(), len(task.workload))
    spec = TaskSpec(
        id="t",
        name=task.name,
        key=task.key,
        weight=1,
        engine=METASCHEDULE,
        workload=workload,
        untuned=workload,
    )
    return [
        replace(gathering.of_job(origin), source=METASCHEDULE),
        *gathering.of_task(spec, task.target, task.workload),
        *gathering.of_trials(spec, task.trials, origin, format_, at=0.0),
    ]


def source_of(found: Found, workload: bytes, memory: float) -> Source:
    """The kernel of a record, for people to read.

    Raises:
        BadInput: its engine is not installed, or lacks something.
        TunemeshError: it cannot make anything of the record.
    """
    engine = found.trial.engine
    if engine not in engines.names():
        raise BadInput(f"the record is of engine {engine!r}, which is not installed here")
    with sandbox_of(engine, memory) as sandbox:
        call = BuildCall(workload=workload, target=found.task.target, schedule=found.trial.schedule)
        answer = sandbox.call(engine, Engine.source, call, READ_LIMIT)
    if isinstance(answer, CallFailure):
        raise TunemeshError(f"engine {engine}, source: {answer.kind}: {answer.text}")
    return answer


def sandbox_of(engine: str, memory: float) -> Sandbox:
    """A sandbox for what an engine does with records: they come from anywhere.

    Args:
        memory: in GiB.
    """
    return Sandbox(
        [engine],
        memory=round(memory * GIB),
        cpus=os.sched_getaffinity(0),
        environment=allocator.environment(),
    )
