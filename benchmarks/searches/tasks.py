"""Tasks of the networks of :mod:`benchmarks.peers`, by two engines that have equal seconds of a core: who
wins, and what the best of both is beside MetaSchedule alone. The best kernels of both take turns at the end.
"""

from __future__ import annotations

import itertools
import math
import os
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from benchmarks.peers.networks import NETWORKS
from benchmarks.searches.running import Bench
from tunemesh.shared.messages import Precision, Settings
from tunemesh.stage_workers import engines, platforms
from tunemesh.stage_workers.engines.protocol import BuildCall, TaskRef
from tunemesh.stage_workers.graph import workloads
from tunemesh.stage_workers.platforms.protocol import ConfirmCall, ExtractedTask, ImportCall, TargetCall

OWN, OTHER = "template", "metaschedule"
IN_TURNS = Settings(repeats=5, min_repeat_ms=10)


class Engine(Struct, frozen=True, kw_only=True):
    """What an engine has found for a task.

    Attributes:
        trials: that it made.
        seconds: of its best kernel, the median in turns with the other's; ``None`` where it has none.
    """

    trials: int
    seconds: float | None


class Compared(Struct, frozen=True, kw_only=True):
    """A task.

    Attributes:
        network: that it is of.
        task: its name.
        operations: of floats, in one run.
        engines: by name.
    """

    network: str
    task: str
    operations: float
    engines: dict[str, Engine]

    @property
    def best(self) -> float:
        return min(each.seconds or math.inf for each in self.engines.values())

    @property
    def of_other(self) -> float:
        return self.engines[OTHER].seconds or math.inf


def run(
    networks: Sequence[str], count: int, seconds: float, precision: Precision, out: Path
) -> list[Compared]:
    """Measure ``count`` tasks, as many of each network, those first that compute most; a line of ``out`` for
    each. What is there already is not measured again.

    Args:
        seconds: of a core, for each engine and task.
    """
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    found = load(out)
    done = {(each.network, each.task) for each in found}
    chosen = itertools.islice(_in_turn([list(_tasks(name, precision)) for name in networks]), count)
    for network, bench in chosen:
        if (network, bench.task.name) in done:
            continue
        made = _compared(network, bench, seconds)
        found.append(made)
        with out.open("ab") as file:
            file.write(msgspec.json.encode(made) + b"\n")
        print(_line(made), flush=True)
    return found


def load(path: Path) -> list[Compared]:
    """What was measured before."""
    lines = path.read_bytes().splitlines() if path.exists() else []
    return [msgspec.json.decode(line, type=Compared) for line in lines]


def _tasks(network: str, precision: Precision) -> Iterator[tuple[str, Bench]]:
    """Those that both engines take, the largest first."""
    platform = platforms.load(platforms.TVM)
    platform.preload()
    target = platform.resolve_target(TargetCall(target="native")).canonical
    model = NETWORKS[network]().SerializeToString()
    imported = platform.import_model(ImportCall(model=model, target=target, options={}, precision=precision))

    def takes(task: ExtractedTask) -> bool:
        ref = TaskRef(workload=task.workload, target=target, name=task.name, key=task.key)
        return not any(engines.load(name).objection(ref) for name in (OWN, OTHER))

    def work(task: ExtractedTask) -> float:
        return task.weight * workloads.operations(workloads.load(task.workload))

    for task in sorted(filter(takes, imported.tasks), key=work, reverse=True):
        yield network, Bench(platform, target, imported.model, task)


def _in_turn(lists: Sequence[list[tuple[str, Bench]]]) -> Iterator[tuple[str, Bench]]:
    """The first of each list, then the second ones."""
    for row in itertools.zip_longest(*lists):
        yield from (each for each in row if each is not None)


def _compared(network: str, bench: Bench, seconds: float) -> Compared:
    trials, artifacts = dict[str, int](), dict[str, bytes]()
    for name in (OWN, OTHER):
        tried = list(bench.run(name, {}, 0, 10**9, seconds))
        trials[name] = len(tried)
        measured = [each for each in tried if each.latency is not None]
        if measured:
            schedule = bench.schedules[min(measured, key=lambda each: each.latency or math.inf).hash]
            call = BuildCall(workload=bench.task.workload, target=bench.target, schedule=schedule)
            built = engines.load(name).build(call)
            assert built.artifact is not None
            artifacts[name] = built.artifact
    outcomes = bench.platform.confirm(
        ConfirmCall(
            workload=bench.task.workload,
            target=bench.target,
            artifacts=list(artifacts.values()),
            untuned=bench.task.untuned,
            device="cpu",
            settings=IN_TURNS,
        )
    ).outcomes
    latencies = {
        name: statistics.median(each.latencies) if each.latencies else None
        for name, each in zip(artifacts, outcomes, strict=True)
    }
    return Compared(
        network=network,
        task=bench.task.name,
        operations=bench.operations,
        engines={name: Engine(trials=count, seconds=latencies.get(name)) for name, count in trials.items()},
    )


def text(found: Sequence[Compared]) -> list[str]:
    """A table for people, and what it comes to."""
    lines = [
        f"| network | task | {OWN}, us (trials) | {OTHER}, us (trials) | best / {OTHER} |",
        "| --- | --- | ---: | ---: | ---: |",
        *map(_line, found),
    ]
    both = [each for each in found if math.isfinite(each.of_other)]
    if both:
        won = sum(each.best < each.of_other for each in both)
        mean = statistics.geometric_mean(each.best / each.of_other for each in both)
        lines += ["", f"{OWN} wins {won} of {len(both)}; the best of both takes {mean:.3f} of {OTHER}'s"]
    return lines


def _line(each: Compared) -> str:
    cells = []
    for name in (OWN, OTHER):
        known = each.engines[name]
        us = "" if known.seconds is None else f"{known.seconds * 1e6:.1f}"
        cells.append(f"{us} ({known.trials})")
    return f"| {each.network} | {each.task} | {' | '.join(cells)} | {each.best / each.of_other:.2f} |"
