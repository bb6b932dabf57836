"""``tunemesh bench``: run an experiment and render its report."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from tunemesh.terminal import print_json

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
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print where the report is as JSON; what goes on, on standard error."),
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
        said = sys.stderr if as_json else sys.stdout
        rows = job.run_all(tell=lambda text: print(text, file=said, flush=True), only=only or (), retry=retry)
        failed = any(row["status"] != "done" for row in rows)
    made = render(job)
    if as_json:
        print_json({"report": str(made), "failed": failed})
    else:
        print(f"report: {made}")
    raise typer.Exit(1 if failed else 0)
