"""What splitting the search of a task by regions of its space brings, and what it costs.

``python -m benchmarks.split`` simulates jobs on a mesh of four devices, with the coordinator's real core, and
prints how long they take with one, two, and four searches of each task; and what is found of the kernels in
a table of real ones (:mod:`benchmarks.searches.table`) by the template engine's own search, split like that.
With ``--price`` it tunes operators for real, on a mesh of its own with MetaSchedule, as a whole and split,
with as many trials, and prints how much slower the kernels are that are found.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import markdown
from benchmarks.searches import operators, table
from benchmarks.searches.table import Table
from benchmarks.summary import geometric_mean
from tunemesh import following, tuning
from tunemesh.coordinator.simulation import Scenario, doing, simulate
from tunemesh.coordinator.simulation.drawing import Durations
from tunemesh.coordinator.simulation.scenario import Spread
from tunemesh.coordinator.simulation.world import World
from tunemesh.model_files import ModelFile
from tunemesh.shared.errors import TunemeshError
from tunemesh.shared.messages import (
    Blob,
    BuildDone,
    BuildWork,
    Built,
    Candidate,
    Level,
    Profiled,
    ProfileDone,
    ProfileWork,
    Result,
    Settings,
    Step,
    TaskState,
    UpdateDone,
    UpdateWork,
)
from tunemesh.stage_workers.engines.template import searches
from tunemesh.stage_workers.engines.template.space import Genome

DEVICES = 4
TASKS = (1, 2, 4, 8)
SPLITS = (1, 2, 4)
SEEDS = 5
UPDATES = (0.5, 2.0)
"""Seconds: of the first updates of MetaSchedule, and of later ones."""
TRIALS = (64, 128, 256)
TABLE_SEEDS = 20
CONFIRMED = 4
"""Kernels of a search that are measured again, at most."""
OPERATORS = ("conv1x1-576x14x14-96", "conv3x3-128x28x28-128", "product-128x256-768")


def _scenario(tasks: int, split: int, update: float, seed: int, trials: int) -> Scenario:
    """A job that is alone on four devices, and four workers of each other kind."""
    steps = {"import": 1.0, "assemble": 1.0, "validate": 1.0, "model-update": update}
    return Scenario(
        jobs=1,
        tasks=tasks,
        trials=trials * tasks,
        devices=DEVICES,
        builders=DEVICES,
        updaters=DEVICES,
        split=split,
        seed=seed,
        durations={stage: Spread(median=each) for stage, each in steps.items()}
        | {"build": Spread(median=0.2, sigma=0.3), "profile": Spread(median=0.25, sigma=0.3)},
    )


def speed() -> list[str]:
    """The table of simulated jobs."""
    rows = []
    for update in UPDATES:
        for tasks in TASKS:
            times = [
                statistics.median(
                    simulate(_scenario(tasks, split, update, seed, 256)).makespan for seed in range(SEEDS)
                )
                for split in SPLITS
            ]
            rows.append([f"{tasks}, updates of {update:g} s", *(f"{each:.1f}" for each in times)])
    return markdown.table(("Tasks", *(f"{split} searches of each, s" for split in SPLITS)), rows)


class Kernels:
    """What simulated workers make of the steps of a job with one task: kernels of a table, found by the
    template engine's own search.

    Args:
        known: the table.
        seed: of the search.
    """

    def __init__(self, known: Table, seed: int) -> None:
        self._known = known
        self._seed = seed
        self._best: dict[str, list[tuple[float, Genome]]] = {}
        """By search: all that it tried."""

    @property
    def share(self) -> float:
        """The share of the best known: its latency by the lowest that was found."""
        return self._known.best / min(latency for tried in self._best.values() for latency, _ in tried)

    def result(self, step: Step, scenario: Scenario, durations: Durations) -> Result:
        """As :func:`.doing.result`."""
        match step.work:
            case UpdateWork() as work:
                return self._proposed(step, work)
            case ProfileWork() as work:
                return ProfileDone(
                    profiled=self._profiled(work.artifacts, durations.candidates(step)),
                    rivals={
                        rival: self._profiled(built, durations.candidates(step, rival))
                        for rival, built in work.rivals.items()
                    },
                    in_turns=work.confirm,
                    untuned=doing.UNTUNED if work.baseline else None,
                )
            case BuildWork() as work:
                took = durations.candidates(step)
                built = [
                    Built(index=each.index, seconds=took[each.index], artifact=_blob(each.schedule))
                    for each in work.candidates
                ]
                return BuildDone(built=built)
        return doing.result(step, scenario, durations)

    def _profiled(self, built: list[Built], seconds: dict[int, float]) -> list[Profiled]:
        return [self._measured(each, seconds[each.index]) for each in built]

    def _proposed(self, step: Step, work: UpdateWork) -> UpdateDone:
        space, region = self._known.space, work.task.region
        if region is not None:
            space = space.within(region.number, region.of)
        results = [(_genome(trial.candidate.schedule), trial.latency) for trial in work.trials]
        tried = self._best.setdefault(step.task, [])
        tried += [(latency, genome) for genome, latency in results]
        state = work.state.search.data if work.state is not None else None
        if work.want:
            state, genomes = searches.propose("portfolio", space, state, results, work.want, self._seed)
        else:
            genomes = [genome for _, genome in sorted(tried)[:CONFIRMED]]
        candidates = [
            Candidate(number, "-".join(map(str, genome)), bytes(genome))
            for number, genome in enumerate(genomes)
        ]
        return UpdateDone(
            state=TaskState(search=_blob(state or b""), history=[]),
            candidates=candidates,
            learned=work.learns,
            chunk_size=work.chunk_size,
            exhausted=0 < work.want > len(candidates),
        )

    def _measured(self, built: Built, seconds: float) -> Profiled:
        assert built.artifact is not None
        latency = self._known.latencies[_genome(built.artifact.data or b"")]
        if math.isinf(latency):
            return Profiled(index=built.index, seconds=seconds, outcome="run-failed")
        return Profiled(index=built.index, seconds=seconds, outcome="measured", latencies=[latency])


def _genome(schedule: bytes) -> Genome:
    return tuple(schedule)


def _blob(content: bytes) -> Blob:
    return Blob(hashlib.sha256(content).hexdigest(), len(content), content)


def quality(known: Table) -> list[str]:
    """The table of what is found of one operator, and in how many seconds."""
    rows = []
    for trials in TRIALS:
        cells = []
        for split in SPLITS:
            shares, times = [], []
            for seed in range(TABLE_SEEDS):
                kernels = Kernels(known, seed)
                world = World(_scenario(1, split, UPDATES[0], seed, trials), result=kernels.result)
                world.run()
                shares.append(kernels.share)
                times.append(max(world.ends.values()))
            cells += [f"{statistics.mean(shares):.3f}", f"{statistics.median(times):.1f}"]
        rows.append([str(trials), *cells])
    headers = [f"{what}, {split}" for split in SPLITS for what in ("share", "s")]
    return markdown.table(("Trials", *headers), rows)


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
    if given.price:
        print(*price(given.split, given.trials, given.seeds), sep="\n")
        return
    print(*speed(), sep="\n")
    for name in table.names():
        print(f"\n{name}:\n", *quality(table.load(table.FOLDER / f"{name}.npz")), sep="\n")


if __name__ == "__main__":
    main()
