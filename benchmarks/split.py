"""What splitting the search of a task by regions of its space brings, and what it costs.

``python -m benchmarks.split`` simulates jobs of one to eight tasks, with the coordinator's real core, on a
mesh of four devices, and prints how long they take with one, two, and four searches of each task. With
``--price`` it tunes operators for real, on a mesh of its own with MetaSchedule, as a whole and split, with as
many trials, and prints how much slower the kernels are that are found.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import markdown
from benchmarks.searches import operators
from benchmarks.summary import geometric_mean
from tunemesh import following, tuning
from tunemesh.coordinator.simulation import Scenario, simulate
from tunemesh.coordinator.simulation.scenario import Spread
from tunemesh.model_files import ModelFile
from tunemesh.shared.errors import TunemeshError
from tunemesh.shared.messages import Level, Settings

DEVICES = 4
TASKS = (1, 2, 4, 8)
SPLITS = (1, 2, 4)
SEEDS = 5
UPDATES = (0.5, 2.0)
"""Seconds: of the first updates of MetaSchedule, and of later ones."""
OPERATORS = ("conv1x1-576x14x14-96", "conv3x3-128x28x28-128", "product-128x256-768")


def seconds(tasks: int, split: int, update: float, seed: int) -> float:
    """Of a job of 256 trials for each task, alone on four devices and four workers of each other kind."""
    steps = {"import": 1.0, "assemble": 1.0, "validate": 1.0, "model-update": update}
    scenario = Scenario(
        jobs=1,
        tasks=tasks,
        trials=256 * tasks,
        devices=DEVICES,
        builders=DEVICES,
        updaters=DEVICES,
        split=split,
        seed=seed,
        durations={stage: Spread(median=each) for stage, each in steps.items()}
        | {"build": Spread(median=0.2, sigma=0.3), "profile": Spread(median=0.25, sigma=0.3)},
    )
    return simulate(scenario).makespan


def speed() -> list[str]:
    """The table of simulated jobs."""
    rows = []
    for update in UPDATES:
        for tasks in TASKS:
            times = [
                statistics.median(seconds(tasks, split, update, seed) for seed in range(SEEDS))
                for split in SPLITS
            ]
            rows.append([f"{tasks}, updates of {update:g} s", *(f"{each:.1f}" for each in times)])
    return markdown.table(("Tasks", *(f"{split} searches of each, s" for split in SPLITS)), rows)


def found(names: Sequence[str], split: int, trials: int, seed: int, folder: Path) -> list[float]:
    """Latencies of the best kernels of operators, each tuned in a job of its own.

    Raises:
        TunemeshError: a job is not done.
    """
    plan = tuning.Plan(
        target="native",
        engines=("metaschedule",),
        level=Level(trials=trials, split=split, shared=False),
        settings=Settings(known="never", batch=16),
        seed=seed,
        out=folder / f"{split}-{seed}",
    )
    models = [ModelFile(name=f"{name}.onnx", data=operators.model(name)) for name in names]
    latencies = []
    for ending in tuning.tune(models, plan, following.Watcher()):
        if ending.report is None or (best := ending.report.tasks[0].best_s) is None:
            raise TunemeshError(f"{ending.job}: {ending.error or 'nothing was measured'}")
        latencies.append(best)
    return latencies


def price(split: int, trials: int, seeds: Sequence[int]) -> list[str]:
    """The table of real kernels: microseconds as a whole and split, medians of the seeds."""
    whole: list[list[float]] = []
    parts: list[list[float]] = []
    with tempfile.TemporaryDirectory(prefix="tunemesh-split-") as folder:
        for seed in seeds:
            whole.append(found(OPERATORS, 1, trials, seed, Path(folder)))
            parts.append(found(OPERATORS, split, trials, seed, Path(folder)))
            print(f"seed {seed}: {whole[-1]} {parts[-1]}", flush=True)
    rows = []
    for number, name in enumerate(OPERATORS):
        one, other = ([each[number] for each in latencies] for latencies in (whole, parts))
        ratios = [b / a for a, b in zip(one, other, strict=True)]
        rows.append(
            [
                name,
                f"{1e6 * statistics.median(one):.0f}",
                f"{1e6 * statistics.median(other):.0f}",
                markdown.ranged(ratios),
            ]
        )
    every = [b / a for one, other in zip(whole, parts, strict=True) for a, b in zip(one, other, strict=True)]
    rows.append(["geometric mean", "", "", f"{geometric_mean(every):.3f}"])
    return markdown.table(("Operator", "whole, us", f"{split} searches, us", "ratio"), rows)


def main() -> None:
    """Print one of the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--price", action="store_true", help="tune for real")
    parser.add_argument("--split", type=int, default=4)
    parser.add_argument("--trials", type=int, default=96, help="of each operator")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    given = parser.parse_args()
    print(*(price(given.split, given.trials, given.seeds) if given.price else speed()), sep="\n")


if __name__ == "__main__":
    main()
