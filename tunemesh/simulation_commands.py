"""``tunemesh simulate`` and ``tunemesh record-trace``: what would happen, by what has happened."""

from __future__ import annotations

import platform
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.console import Console

from tunemesh import options
from tunemesh.report import write_file
from tunemesh.shared.errors import BadInput
from tunemesh.terminal import add_row, print_json, say, table

if TYPE_CHECKING:
    from tunemesh.coordinator.simulation import Outcome


SAID = "as the scenario says"


def simulate(
    scenario: Annotated[Path | None, typer.Argument(help="A YAML file; see docs/simulation.md.")] = None,
    strategy: Annotated[
        str | None, typer.Option(help="Several, with + between them, are compared.", show_default=SAID)
    ] = None,
    jobs: Annotated[int | None, typer.Option(help="How many.", show_default=SAID)] = None,
    tasks: Annotated[int | None, typer.Option(help="Per job.", show_default=SAID)] = None,
    rounds: Annotated[int | None, typer.Option(help="Per task.", show_default=SAID)] = None,
    builders: Annotated[int | None, typer.Option("--build", help="Build workers.", show_default=SAID)] = None,
    updaters: Annotated[
        int | None, typer.Option("--update", help="Model-update workers.", show_default=SAID)
    ] = None,
    devices: Annotated[int | None, typer.Option(help="Devices.", show_default=SAID)] = None,
    trace: Annotated[
        str | None, typer.Option(help="A trace file.", show_default="the one that is shipped")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same durations.", show_default=SAID)] = None,
    as_json: options.AsJson = False,
) -> None:
    """Run the real coordinator core in virtual time, without a broker or a compiler."""
    # Workers and coordinators are started through the same command line, and need none of this.
    from tunemesh.coordinator import simulation
    from tunemesh.coordinator.simulation import Scenario

    given = {
        "jobs": jobs,
        "tasks": tasks,
        "rounds": rounds,
        "builders": builders,
        "updaters": updaters,
        "devices": devices,
        "trace": trace,
        "seed": seed,
    }
    base = simulation.load_scenario(scenario) if scenario is not None else Scenario()
    fields = {**msgspec.to_builtins(base), **{name: v for name, v in given.items() if v is not None}}
    outcomes = []
    for name in (strategy or base.strategy).split("+"):
        try:
            changed = msgspec.convert({**fields, "strategy": name}, Scenario)
        except msgspec.ValidationError as error:
            raise BadInput(f"bad scenario: {error}") from None
        outcomes.append(simulation.simulate(changed))
    if as_json:
        plain: list[dict[str, Any]] = [msgspec.to_builtins(outcome) for outcome in outcomes]
        for each in plain:
            del each["timeline"]
        print_json(plain)
    else:
        _print(outcomes)


def record_trace(
    reports: Annotated[list[Path], typer.Argument(help="report.json files of finished jobs.")],
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("trace.json"),
    source: Annotated[str, typer.Option(help="How it was recorded, for people.")] = "",
    as_json: options.AsJson = False,
) -> None:
    """Make a trace for tunemesh simulate from the reports of real jobs."""
    from tunemesh.coordinator import simulation

    said = source or f"{platform.machine()}, {platform.system()}, {time.strftime('%Y-%m-%d')}"
    recorded = simulation.record(reports, said)
    write_file(out, msgspec.json.format(msgspec.json.encode(recorded), indent=1) + b"\n")
    tasks = sum(len(job.tasks) for job in recorded.jobs)
    if as_json:
        print_json({"file": str(out), "jobs": len(recorded.jobs), "tasks": tasks})
    else:
        print(f"{out}: {len(recorded.jobs)} jobs, {tasks} tasks")


def _print(outcomes: list[Outcome]) -> None:
    console = Console()
    kinds = list(outcomes[0].utilisation)
    headers = ["strategy", "makespan", "/ bound", "mean end", "p95 end"]
    headers += [*kinds, "lost", "us/decision", "us/step"]
    made = table("in virtual time", headers)
    for column in made.columns[1:]:
        column.justify = "right"
    for outcome in outcomes:
        add_row(
            made,
            outcome.strategy,
            f"{outcome.makespan:,.1f} s",
            f"{outcome.ratio:.4f}",
            f"{outcome.completion_mean:,.1f} s",
            f"{outcome.completion_p95:,.1f} s",
            *(f"{outcome.utilisation[kind]:.1%}" for kind in kinds),
            str(outcome.lost),
            f"{outcome.decision_us:.1f}",
            f"{outcome.core_us:.0f}",
        )
    console.print(made)
    for outcome in outcomes:
        kind, share = outcome.scarcest
        lines = [
            f"{outcome.strategy}: {len(outcome.completions)} jobs, {outcome.steps:,} steps;"
            f" lower bound {outcome.lower_bound:,.1f} s; scarcest is {kind}, {share:.1%} busy;"
            f" {1e6 / max(outcome.decision_us, 1e-9):,.0f} decisions/s"
        ]
        if len(outcome.device_seconds) > 1:
            parts = ", ".join(f"{name or '-'} {used:,.1f} s" for name, used in outcome.device_seconds.items())
            lines.append(f"  device time while all tenants had jobs: {parts}")
        say(console, "\n".join(lines))
    slow = next((o for o in outcomes if o.strategy == "sequential"), None)
    if slow is not None and len(outcomes) > 1:
        for outcome in outcomes:
            if outcome is slow:
                continue
            gained, ideal = slow.makespan / outcome.makespan, slow.makespan / outcome.lower_bound
            say(
                console,
                f"{outcome.strategy} is {gained:.2f} times as fast as sequential,"
                f" {gained / ideal:.3f} of the ideal {ideal:.2f}",
            )
