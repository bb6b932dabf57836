"""What was measured of a job that still runs, in the folder of its results: a file for each task.

Whatever happens to the mesh, or to whoever listens, is then no loss. The files are JSON and need nothing
else: :func:`database` makes of them what the engines would have written down at the end. When the results are
there, or what was measured is written as a whole, they go.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tunemesh.report import write_file
from tunemesh.results import exported_here
from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.errors import BadInput
from tunemesh.shared.messages import Blob, TaskRecords
from tunemesh.stage_workers.stages import exporting
from tunemesh.stage_workers.stages.histories import read_trials, trials_of

FOLDER = "measured"
"""Inside the folder of a job's results."""


class TaskFile(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a file.

    Attributes:
        job: its id.
        target: canonical.
        records: of one task. The workload is inside, and all trials are: there is no history elsewhere.
    """

    version: int = 1
    job: str
    target: str
    records: TaskRecords


def keep(store: ArtifactStore, job: str, target: str, measured: Sequence[TaskRecords], folder: Path) -> None:
    """Write down what was measured of some tasks so far, in place of what was known of them before.

    Raises:
        TunemeshError: something is missing in the store, or the folder cannot be written.
    """
    for records in measured:
        task, data = records.task, store.get(records.task.workload)
        whole = msgspec.structs.replace(
            records,
            task=msgspec.structs.replace(task, workload=Blob(task.workload.sha256, len(data), data)),
            history=[],
            trials=read_trials(records.history, store) + records.trials,
        )
        text = msgspec.json.encode(TaskFile(job=job, target=target, records=whole))
        write_file(folder / FOLDER / f"{task.key}.json", text)


def drop(folder: Path) -> None:
    """Remove the files: what is in them is written elsewhere."""
    with contextlib.suppress(OSError):
        for path in (folder / FOLDER).glob("*.json"):
            path.unlink()
        (folder / FOLDER).rmdir()


def database(folder: Path, to: Path) -> Path:
    """Write what the engines write down of what was measured, and return ``to``.

    Args:
        folder: of a job's results.

    Raises:
        BadInput: nothing was measured, or a file cannot be read.
        TunemeshError: no engine of that name is installed here, it fails, or ``to`` cannot be written.
    """
    found = [_read(path) for path in sorted((folder / FOLDER).glob("*.json"))]
    if not found:
        raise BadInput(
            f"{folder} holds no folder {FOLDER!r}: that is there while a job runs; one that has ended has"
            " its database in the folder itself"
        )
    store = ArtifactStore(folder.resolve().as_uri())  # not read: all is inside
    ended = [(each.records, trials_of(each.records, store)) for each in found]
    engines = dict.fromkeys(each.records.task.engine for each in found if each.records.task.engine)
    for name, data in exporting.files(ended, list(engines), found[0].target, store, exported_here).items():
        write_file(to / name, data)
    return to


def _read(path: Path) -> TaskFile:
    try:
        return msgspec.json.decode(path.read_bytes(), type=TaskFile)
    except (OSError, msgspec.DecodeError) as error:
        raise BadInput(f"{path} holds no measurements of a task: {error}") from None
