"""The results of jobs, fetched from the artifact store into a folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from tunemesh.report import JobReport, Report, make_job_report, make_report, write_file
from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.errors import JobFailed, TunemeshError
from tunemesh.shared.messages import AssembleDone, History, JobProgress, TaskRecords, ValidateDone
from tunemesh.stage_workers.engines import load
from tunemesh.stage_workers.engines.protocol import ExportCall, Exported
from tunemesh.stage_workers.graph.signatures import unpack_signatures
from tunemesh.stage_workers.stages import exporting
from tunemesh.stage_workers.stages.histories import read_histories, read_records, trials_of


def save_results(
    store: ArtifactStore,
    progress: JobProgress,
    assembled: AssembleDone | None,
    validated: ValidateDone | None,
    folder: Path,
) -> Report:
    """Fetch the results of a finished job into ``folder`` (made if missing).

    Raises:
        JobFailed: the job has no results.
        ArtifactError: a result is missing or damaged in the store.
        TunemeshError: the folder cannot be written.
    """
    if assembled is None or validated is None:
        raise JobFailed(f"job {progress.job} has no results: {progress.error or progress.phase}")
    store = store.of(progress.tenant)
    measured = list(histories(store, assembled))
    signature = store.get(assembled.signature)
    report = make_report(progress, validated, unpack_signatures(signature), measured, assembled)
    files = {name: store.get(blob) for name, blob in assembled.files.items()}
    files |= {"model.so": store.get(assembled.tuned), "signature.json": signature}
    _write(report, files, folder)
    return report


def save_measured(
    store: ArtifactStore, progress: JobProgress, measured: Sequence[TaskRecords], folder: Path
) -> JobReport:
    """Fetch what was measured for a job that has no results into ``folder`` (made if missing): the files of
    its engines, and a report that says what failed.

    Raises:
        TunemeshError: something is missing in the store, no engine of that name is installed here or it
            fails, or the folder cannot be written. The report is written all the same, if it can be.
    """
    store = store.of(progress.tenant)
    read: list[History] = []
    problem: TunemeshError | None = None
    files: dict[str, bytes] = {}
    try:
        for records in measured:
            read += read_histories(records.history, store)
        ended = [(records, trials_of(records, store)) for records in measured]
        engines = dict.fromkeys(each.task.engine for each in measured if each.task.engine is not None)
        files = exporting.files(ended, list(engines), progress.target, store, exported_here)
    except TunemeshError as error:
        problem = error
    report = make_job_report(progress, read)
    _write(report, files, folder)
    if problem is not None:
        raise problem
    return report


def exported_here(name: str, call: ExportCall) -> Exported:
    """What an engine writes down, asked here: there may be no worker any more.

    Raises:
        TunemeshError: it fails.
    """
    engine = load(name)
    try:
        return engine.export(call)
    except TunemeshError:
        raise
    except Exception as error:  # whatever an engine raises
        raise TunemeshError(f"engine {name} cannot write down what was measured: {error}") from error


def _write(report: JobReport, files: Mapping[str, bytes], folder: Path) -> None:
    text = msgspec.json.format(msgspec.json.encode(report), indent=2)
    for name, data in {**files, "report.json": text}.items():
        if Path(name).name != name:
            raise TunemeshError(
                f"the result of job {report.job} has a file called {name!r}; it is not written"
            )
        write_file(folder / name, data)


def histories(store: ArtifactStore, assembled: AssembleDone) -> Iterator[History]:
    """Everything that was measured for a job.

    Raises:
        ArtifactError: a part of it is missing or damaged in the store.
    """
    for records in read_records(assembled.records, store):
        yield from read_histories(records.history, store)
