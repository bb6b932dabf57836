"""``python -m benchmarks.searches``: searches compared, on real kernels and on tables of measured ones."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.peers.networks import NETWORKS
from benchmarks.searches import (
    comparing,
    operators,
    simulating,
    summary,
    table,
    tabulating,
    tasks,
    woodpecker,
)
from tunemesh.comparing.racing import TURNS
from tunemesh.stage_workers.engines.template import searches


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.searches", description=__doc__)
    commands = parser.add_subparsers(required=True)

    run = commands.add_parser("run", help="searches on real kernels, one trial a line; goes on where it was")
    run.add_argument("--operators", nargs="+", choices=operators.NAMES, default=operators.NAMES)
    run.add_argument("--makers", nargs="+", choices=comparing.MAKERS, default=comparing.HERE)
    run.add_argument("--trials", type=int, default=128)
    run.add_argument("--seconds", type=float, default=600.0, help="for one search")
    run.add_argument("--seeds", type=int, default=1)
    run.add_argument(
        "--limit", type=float, default=3600.0, help="seconds in which no search is begun any more"
    )
    run.add_argument("--out", type=Path, required=True, help="a file that lines are added to")
    run.set_defaults(call=_run)

    tabulate = commands.add_parser(
        "tabulate", help="measure all kernels of a part of a space, for `simulate`"
    )
    tabulate.add_argument("step", choices=("compile", "measure", "save"))
    tabulate.add_argument("operator", choices=tabulating.PARTS)
    tabulate.add_argument("--folder", type=Path, required=True, help="of kernels and measurements")
    tabulate.add_argument("--part", default="0/1", help="of the kernels to compile: number and count")
    tabulate.add_argument("--limit", type=float, default=3600.0, help="seconds, after which it stops")
    tabulate.set_defaults(call=_tabulate)

    simulate = commands.add_parser(
        "simulate", help="searches on tables, one search a line; goes on where it was"
    )
    simulate.add_argument("--operators", nargs="+", choices=table.names(), default=table.names())
    simulate.add_argument("--searches", nargs="+", choices=searches.OWN, default=searches.OWN)
    simulate.add_argument("--plain", action="store_true", help="hide what the template promises")
    simulate.add_argument("--trials", type=int, default=1024)
    simulate.add_argument("--seeds", type=int, default=50)
    simulate.add_argument("--limit", type=float, default=3600.0)
    simulate.add_argument("--out", type=Path, required=True)
    simulate.set_defaults(call=_simulate)

    figure = commands.add_parser(
        "woodpecker", help="Woodpecker-DL's convolution: many trials, and the best beside others in turns"
    )
    figure.add_argument("--trials", type=int, default=1600, help="of the template engine")
    figure.add_argument("--metaschedule", type=int, default=350, help="trials of MetaSchedule")
    figure.add_argument("--turns", type=int, default=TURNS, help="of each contestant")
    figure.add_argument("--out", type=Path, help="a file of JSON")
    figure.set_defaults(call=_woodpecker)

    both = commands.add_parser(
        "tasks",
        help="tasks of the networks of benchmarks.peers, by template and MetaSchedule in equal seconds",
    )
    both.add_argument("--networks", nargs="+", choices=tuple(NETWORKS), default=tuple(NETWORKS))
    both.add_argument("--count", type=int, default=30, help="of tasks")
    both.add_argument("--seconds", type=float, default=4.0, help="of a core, for each engine and task")
    both.add_argument("--precision", choices=("f32", "bf16"), default="f32")
    both.add_argument("--out", type=Path, required=True, help="a file that lines are added to")
    both.set_defaults(call=_tasks)

    report = commands.add_parser("report", help="tables and plots of what `run` and `simulate` have kept")
    report.add_argument("--real", type=Path, help="a file of `run`")
    report.add_argument("--simulated", type=Path, help="a file of `simulate`")
    report.add_argument("--figures", type=Path, default=Path("docs/figures"), help="a folder")
    report.set_defaults(call=_report)

    given = parser.parse_args()
    given.call(given)


def _run(given: argparse.Namespace) -> None:
    plan = comparing.Plan(given.operators, given.makers, given.seeds, given.trials, given.seconds)
    print(f"left: {comparing.run(plan, given.out, given.limit)} searches")


def _tabulate(given: argparse.Namespace) -> None:
    made = tabulating.Tabulation(given.operator, given.folder)
    if given.step == "compile":
        number, _, count = given.part.partition("/")
        print(f"left: {made.compile(int(number), int(count), given.limit)} of {len(made.genomes)} kernels")
    elif given.step == "measure":
        print(f"left: {made.measure(given.limit)} measurements")
    else:
        path = table.FOLDER / f"{given.operator}.npz"
        saved = made.save(path)
        print(f"{path}: {len(saved.latencies)} kernels, the best takes {saved.best * 1e6:.1f} us")


def _simulate(given: argparse.Namespace) -> None:
    left = simulating.run(
        given.operators, given.searches, range(given.seeds), given.plain, given.trials, given.out, given.limit
    )
    print(f"left: {left} searches")


def _woodpecker(given: argparse.Namespace) -> None:
    trials = {"template": given.trials, "metaschedule": given.metaschedule}
    figure = woodpecker.run(trials, given.turns)
    if given.out is not None:
        woodpecker.save(figure, given.out)
    print("\n".join(woodpecker.text(figure)))


def _tasks(given: argparse.Namespace) -> None:
    found = tasks.run(given.networks, given.count, given.seconds, given.precision, given.out)
    print("\n".join(tasks.text(found)))


def _report(given: argparse.Namespace) -> None:
    if given.simulated is not None:
        found = simulating.load(given.simulated)
        print("\n".join(summary.simulated(found)))
        summary.plot_simulated(given.figures / "searches-tables.svg", found)
    if given.real is not None:
        tried = comparing.load(given.real)
        print("\n".join(summary.real(tried)))
        over_trials, over_time = (given.figures / f"searches-{name}.svg" for name in ("trials", "seconds"))
        summary.plot_real(over_trials, over_time, tried)


if __name__ == "__main__":
    main()
