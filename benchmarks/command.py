"""``tunemesh bench``: run an experiment and render its report."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def run(arguments: Sequence[str]) -> int:
    """Run the command with ``arguments``. Returns its exit code; usage errors are raised for the caller."""
    code = app(list(arguments), prog_name="tunemesh bench", standalone_mode=False)
    return code if isinstance(code, int) else 0


@app.command()
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
    # matplotlib takes a second to import, which a usage error need not.
    from benchmarks.experiment import load
    from benchmarks.report import render
    from benchmarks.running import Bench, load_results

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
