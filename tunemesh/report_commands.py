"""``tunemesh report``: the page of one job, or of several side by side."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from tunemesh import mesh_address, options, past_jobs
from tunemesh.completion import job_argument
from tunemesh.report import read_any, write_file
from tunemesh.report_page import writing
from tunemesh.shared.errors import BadInput, JobFailed
from tunemesh.terminal import print_json


def report(
    jobs: Annotated[
        list[str],
        job_argument("Folders of results, or jobs of a running mesh.", metavar="JOB|FOLDER..."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="File to write. [default: report.html in the folder; for jobs and for several <JOB>.html and"
            " report.html here]",
            show_default=False,
        ),
    ] = None,
    broker: options.Broker = None,
    artifacts: options.Artifacts = None,
    as_json: options.AsJson = False,
) -> None:
    """Write a page for people on what was asked and what came out; several jobs stand side by side. It is one
    file that needs no network. With --json print the reports instead."""
    with tempfile.TemporaryDirectory(prefix="tunemesh-report-") as made:
        folders = [_folder(each, Path(made), broker, artifacts) for each in jobs]
        found = [(folder, read_any(folder)) for folder in folders]
        if as_json:
            print_json([each for _, each in found])
            return
        path = out or _place(jobs, folders)
        _check_ours(path)
        write_file(path, writing.page(found).encode(errors="replace"))
    print(path)


def _place(jobs: list[str], folders: list[Path]) -> Path:
    """Where a page goes for which nobody has named a file."""
    if len(jobs) > 1:
        return Path(writing.PAGE)
    return folders[0] / writing.PAGE if Path(jobs[0]).is_dir() else Path(f"{jobs[0]}.html")


def _check_ours(path: Path) -> None:
    """Raises:
    BadInput: there is another file, or a folder, of that name.
    """
    with contextlib.suppress(FileNotFoundError):
        if path.is_dir() or writing.MARK not in path.read_text(errors="replace")[:2000]:
            raise BadInput(f"{path} is there already, and no report: give another --out")


def _folder(job: str, made: Path, broker: str | None, artifacts: str | None) -> Path:
    """The folder with the report of a job, fetched where that is none.

    Raises:
        BadInput: nobody knows it.
    """
    given = Path(job)
    if given.name == "report.json" and given.is_file():
        return given.parent
    if given.is_dir() or "/" in job:
        return given
    folder = made / job
    # Where it has no result the report says what failed.
    with contextlib.suppress(JobFailed):
        past_jobs.fetch(job, folder, mesh_address.find(broker, artifacts))
    return folder
