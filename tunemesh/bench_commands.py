"""``tunemesh bench``: run an experiment and render its report."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from tunemesh.shared.errors import BadInput


def bench(
    experiment: Annotated[Path, typer.Argument(help="A YAML file; see docs/benchmarks.md.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results; by default build/bench/<name>.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="Do this run only; may be given again.")] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Do runs again that have failed.")] = False,
    render_only: Annotated[
        bool, typer.Option("--render-only", help="Make the report from what is there; run nothing.")
    ] = False,
) -> None:
    """Run an experiment unattended, going on where it was stopped, and render its report."""
    # matplotlib takes a second to import, and no other command needs it.
    try:
        from benchmarks.experiment import load
        from benchmarks.report import render
        from benchmarks.running import Bench, load_results
    except ModuleNotFoundError as error:
        if error.name != "benchmarks":
            raise
        raise BadInput("benchmarks are not part of this installation; run it from the repository") from None

    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    loaded = load(experiment)
    folder = out if out is not None else Path("build", "bench", loaded.name)
    job = Bench(load_results(folder) if render_only else loaded, experiment.resolve(), folder.resolve())
    failed = False
    if not render_only:
        rows = job.run_all(tell=lambda text: print(text, flush=True), only=only or (), retry=retry)
        failed = any(row["status"] != "done" for row in rows)
    print(f"report: {render(job)}")
    raise typer.Exit(1 if failed else 0)
