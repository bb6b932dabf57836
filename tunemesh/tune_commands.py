"""``tunemesh tune`` and ``tunemesh submit``: models in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from msgspec import structs
from rich.console import Console

from tunemesh import compare_commands, live, mesh_address, model_files, options, tuning, zoo
from tunemesh.broker_config.topology import MOCK
from tunemesh.early_stop import EarlyStop
from tunemesh.following import Ending, Watcher
from tunemesh.job_options import describes_job
from tunemesh.layout import MEMORY
from tunemesh.model_files import Given
from tunemesh.report import read_report
from tunemesh.shared.errors import BadInput, JobFailed
from tunemesh.tables import print_reports, quote_text
from tunemesh.terminal import complain, print_json, tell


@describes_job
def tune(
    models: options.Models,
    job: tuning.Plan,
    device: options.Device = None,
    out: Annotated[Path, typer.Option(help="Folder for the results, one folder per job.")] = Path("tuned"),
    strategy: options.Strategy = "interleaved",
    price: options.Prices = None,
    builders: options.Builders = None,
    memory: options.Memory = MEMORY,
    broker: options.Broker = None,
    artifacts: options.Artifacts = None,
    compare: Annotated[
        bool,
        typer.Option("--compare", help="Then compare each result with what else runs the model here."),
    ] = False,
    peer: options.Peers = None,
    html: options.Html = True,
    overwrite: options.Overwrite = False,
    quote: Annotated[
        bool, typer.Option("--quote", help="Only say what it would take: try nothing, write nothing.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Tune models, all at once, and write the results. Without a broker (--broker, or TUNEMESH_BROKER_URL) it
    brings its own mesh. Ctrl-C stops early and keeps what was found; a second one leaves at once."""
    address = mesh_address.find(broker, artifacts) if artifacts or mesh_address.named(broker) else None
    own = (device is not None, builders is not None, memory != MEMORY, bool(price))
    if address is not None and any(own):
        raise BadInput(
            "--device, --builders, --memory and --price are for a mesh of its own; a running one has its"
            " workers and its prices"
        )
    records = mesh_address.records_in(mesh_address.data_folder()) if address is None else ""
    plan = replace(
        job,
        records=records,
        imports=mesh_address.imports() if address is None else "",
        out=out,
        device=device,
        strategy=strategy,
        prices=options.prices_of(price),
        builders=builders,
        memory=memory,
        address=address,
        html=html,
        overwrite=overwrite,
    )
    if quote:
        if compare or peer is not None:
            raise BadInput("--quote makes no result that could be compared")
        _print_quotes(models, plan, as_json)
        return
    console = Console(stderr=as_json)
    with live.LiveView(console) as view:
        comparison = _comparison(plan, peer, view) if compare or peer is not None else None
        found = zoo.expand(models, view.note) if comparison is not None else models
        endings = tuning.tune(found, plan, view, EarlyStop())
        if comparison is not None:
            endings = _compared(comparison, found, endings, plan, view)
    reports = [ending.report for ending in endings if ending.report is not None]
    if as_json:
        print_json(
            [
                {"job": e.job, "error": e.error, "folder": str(out / e.job), "report": e.report}
                for e in endings
            ]
        )
    elif reports:
        print_reports(console, reports, out)
    for ending in endings:
        if ending.report is None:
            complain(f"job {ending.job} failed: {ending.story}", JobFailed.exit_code)
    raise typer.Exit(0 if len(reports) == len(endings) else JobFailed.exit_code)


def _comparison(
    plan: tuning.Plan, names: Sequence[str] | None, view: live.LiveView
) -> compare_commands.Comparison:
    """Raises:
    BadInput: results cannot be compared here.
    """
    if plan.address is not None:
        raise BadInput(
            "--compare is for a mesh of its own; after a job of a running one: tunemesh compare MODEL RESULT"
        )
    if MOCK in plan.engines:
        raise BadInput("the mock engine makes no model that could be compared")
    from tunemesh.comparing.comparison import check_target

    check_target(plan.target)
    return compare_commands.prepare(plan.device, names, view.note)


def _compared(
    comparison: compare_commands.Comparison,
    models: Sequence[Given],
    endings: Sequence[Ending],
    plan: tuning.Plan,
    view: live.LiveView,
) -> list[Ending]:
    """The endings, with what came of the comparison in their reports."""
    jobs = []
    for given, ending in zip(models, endings, strict=True):
        if ending.report is not None:
            model = model_files.read(given, view.note)
            samples = plan.samples or model.samples
            jobs.append((structs.replace(model, samples=samples), plan.out / ending.job))
    compare_commands.after(jobs, plan, comparison, view.note)
    return [
        ending if ending.report is None else replace(ending, report=read_report(plan.out / ending.job))
        for ending in endings
    ]


@describes_job
def submit(
    models: options.Models,
    job: tuning.Plan,
    broker: options.Broker = None,
    artifacts: options.Artifacts = None,
    as_json: options.AsJson = False,
) -> None:
    """Hand models to a running mesh, and return when its coordinator has taken them. Prints the job ids."""
    address = mesh_address.find(broker, artifacts)
    submitted = tuning.submit(models, job, address, lambda text: typer.echo(text, err=True))
    if as_json:
        print_json(
            [
                {"job": each.job, "model": each.model, "answer": each.answer, "text": each.text}
                for each in submitted
            ]
        )
    for each in submitted:
        if each.answer == "rejected":
            complain(f"job {each.job} was rejected: {each.text}", JobFailed.exit_code)
            continue
        if not as_json:
            tell(each.job)
        if each.answer == "queued":
            waits = "no coordinator has answered yet; the request is queued, and taken when one is there"
            typer.echo(f"{each.job}: {waits}", err=True)
    if any(each.answer == "rejected" for each in submitted):
        raise typer.Exit(JobFailed.exit_code)


@describes_job
def quote(
    models: options.Models,
    job: tuning.Plan,
    broker: options.Broker = None,
    artifacts: options.Artifacts = None,
    as_json: options.AsJson = False,
) -> None:
    """Ask a running mesh what tuning these models would take: it imports them, and tries nothing."""
    _print_quotes(models, replace(job, address=mesh_address.find(broker, artifacts)), as_json)


class _OnStderr(Watcher):
    """What goes on beside the answer."""

    def note(self, text: str) -> None:
        typer.echo(text, err=True)


def _print_quotes(models: Sequence[Given], plan: tuning.Plan, as_json: bool) -> None:
    answers = tuning.quote(models, plan, _OnStderr())
    if as_json:
        print_json([{"model": each.model, "quote": each.quote, "error": each.error} for each in answers])
    for each in answers:
        if each.quote is None:
            complain(f"{each.model}: {each.error}", JobFailed.exit_code)
        elif not as_json:
            tell(f"{each.model}: {quote_text(each.quote)}")
    if any(each.quote is None for each in answers):
        raise typer.Exit(JobFailed.exit_code)
