"""What a search gains from what was measured of a similar task, and from a prior that was learned.

    python -m benchmarks.transfer RECORDS [SOURCE:TASK ...] [--seeds 3] [--cores 0,1] [--out FILE]

Tasks are named by the beginnings of their keys. Each task is tuned anew, in rounds of 16, in four ways: with
the prior that comes with the engine; with one that is learned from the records of other models than the
task's; and with that and what was measured of the source, as examples for the cost model, or as schedules
among the first. One process per core builds and measures; each takes the four ways of a seed one after the
other, another one first each time, and then measures the best of the four in turns: what else a machine does
while it searches says nothing there. What was measured already is in FILE, and is not measured again.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import Struct

from benchmarks import lines
from benchmarks.markdown import table
from tunemesh.shared.errors import BadInput
from tunemesh.shared.messages import Candidate, Settings, Trial
from tunemesh.stage_workers.engines.metaschedule import (
    MetaScheduleEngine,
    learning,
    prior,
)
from tunemesh.stage_workers.engines.metaschedule.learning import Kernel
from tunemesh.stage_workers.engines.metaschedule.prior import Prior
from tunemesh.stage_workers.engines.protocol import BuildCall, Examples, UpdateCall
from tunemesh.stage_workers.graph import compilation, workloads
from tunemesh.stage_workers.platforms.protocol import ConfirmCall, ProfileCall
from tunemesh.stage_workers.platforms.tvm_platform import TvmPlatform
from tunemesh.stage_workers.records import memory, queries
from tunemesh.stage_workers.records.database import Database
from tunemesh.stage_workers.records.questions import Filter, Similar
from tunemesh.stage_workers.stages.known import examples_of

PAIRS = (
    "9025654e:b216a332",
    "331592ea:89e6d87c",
    "e8008a6c:d6322827",
    "6e87a712:39e7d817",
    "979f2862:86b1d10a",
)
"""Of BERT, MobileNetV2, BERT and ViT, MobileNetV2, ResNet-18: products, pointwise convolutions,
normalisations, convolutions by depth, and of 3x3."""
BATCH = 16
AT = (16, 32, 64)
SETTINGS = Settings(repeats=3, min_repeat_ms=3)
CONFIRMED = Settings(repeats=5, min_repeat_ms=100)
ENGINE = "metaschedule"

Way = Literal["shipped", "learned", "examples", "schedules"]
WAYS: tuple[Way, ...] = ("shipped", "learned", "examples", "schedules")


class Pair(Struct, frozen=True):
    """A task, and one like it that was tuned before."""

    name: str
    source: Examples
    workload: bytes
    target: str
    prior: bytes


class Ran(Struct, frozen=True):
    """A search. Latencies in seconds."""

    pair: str
    seed: int
    way: Way
    latencies: list[float]
    """In the order of its trials; infinite where one failed."""
    again: float
    """Of its best, measured in turns with those of the other ways."""


class Searched(NamedTuple):
    """What a search came to."""

    latencies: list[float]
    best: bytes
    """The fastest kernel."""


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description="What a search gains from similar tasks.")
    parser.add_argument("records")
    parser.add_argument("pairs", nargs="*", default=list(PAIRS))
    parser.add_argument("--seeds", type=int, default=3)
    usable = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    parser.add_argument("--cores", default=usable, help="by default all that it may use")
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin nothing new after that")
    parser.add_argument("--out", type=Path, default=Path("build/transfer.jsonl"))
    arguments = parser.parse_args()
    done = lines.read(arguments.out, Ran)
    known = {(each.pair, each.seed) for each in done}
    wanted = [
        (pair, seed)
        for seed in range(arguments.seeds)
        for pair in arguments.pairs
        if (pair, seed) not in known
    ]
    if wanted:
        pairs = _pairs(arguments.records, [name for name, _ in wanted], arguments.out.with_suffix(".pairs"))
        cores = multiprocessing.get_context("fork").Queue()
        for core in arguments.cores.split(","):
            cores.put(int(core))
        until = time.monotonic() + arguments.seconds
        jobs = [(pairs[name], seed, until) for name, seed in wanted]
        with multiprocessing.get_context("fork").Pool(
            len(arguments.cores.split(",")), _pinned, (cores,)
        ) as pool:
            for ran in pool.imap_unordered(_runs, jobs):
                done += ran
                lines.add(arguments.out, ran)
    if done:
        print("\n".join(_table(done)))


def _pinned(cores: Any) -> None:
    os.sched_setaffinity(0, {cores.get()})


def _pairs(records: str, names: Sequence[str], kept: Path) -> dict[str, Pair]:
    """By name, from a file where they were made before: to fit priors takes a minute."""
    if kept.exists():
        return {each.name: each for each in msgspec.msgpack.decode(kept.read_bytes(), type=list[Pair])}
    with Database(records) as database:
        known = _known(database)
        pairs = [_pair(database, name, known) for name in dict.fromkeys(names)]
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(msgspec.msgpack.encode(pairs))
    return {each.name: each for each in pairs}


def _known(database: Database) -> list[tuple[set[str], Kernel]]:
    """What priors are fitted to, each with the models that it was measured for."""
    with database.reading() as connection:
        ((_, targets),) = memory.families(connection, ENGINE).items()
        found = list(memory.to_learn_from(connection, ENGINE, targets))
    return [
        ({one.job.model for one in each.found}, kernel)
        for each in found
        for kernel in learning.kernels([examples_of(each)])
    ]


def _pair(database: Database, name: str, known: Sequence[tuple[set[str], Kernel]]) -> Pair:
    source, _, task = name.partition(":")
    with database.reading() as connection:
        tried, wanted = _tried(connection, source), _tried(connection, task)
    models = {each.job.model for each in wanted.found}
    return Pair(
        name=name,
        source=examples_of(tried),
        workload=wanted.workload,
        target=wanted.target,
        prior=learning.fit([kernel for of, kernel in known if not of & models], Prior(prior.shipped())),
    )


def _tried(connection: Any, prefix: str) -> Similar:
    which = Filter(engine=ENGINE, task=prefix)
    keys = queries.tasks(connection, which)
    if len(keys) != 1:
        raise BadInput(f"{prefix} begins the keys of {len(keys)} tasks, not of one")
    found = memory.memory(connection, keys[0], "", which).elsewhere
    return max(found, key=lambda each: len(each.found))


def _runs(job: tuple[Pair, int, float]) -> list[Ran]:
    pair, seed, until = job
    if time.monotonic() > until:
        return []
    untuned = compilation.build_untuned(workloads.load(pair.workload), pair.target)
    found = {way: _search(pair, seed, way, untuned) for way in rotated(seed)}
    call = ConfirmCall(
        workload=pair.workload,
        target=pair.target,
        artifacts=[found[way].best for way in WAYS],
        untuned=untuned,
        device="cpu",
        settings=CONFIRMED,
    )
    again = [statistics.median(each.latencies) for each in TvmPlatform().confirm(call).outcomes]
    return [Ran(pair.name, seed, way, found[way].latencies, at) for way, at in zip(WAYS, again, strict=True)]


def rotated(seed: int) -> tuple[Way, ...]:
    """The ways in an order that no way is always the first or the last of."""
    first = seed % len(WAYS)
    return WAYS[first:] + WAYS[:first]


def _search(pair: Pair, seed: int, way: Way, untuned: bytes) -> Searched:
    engine = MetaScheduleEngine()
    search: bytes | None = None
    trials: list[Trial] = []
    latencies: list[float] = []
    kernel = untuned
    while len(latencies) < AT[-1]:
        call = UpdateCall(
            workload=pair.workload,
            target=pair.target,
            search=search,
            trials=trials,
            elsewhere=[pair.source] if way == "examples" and search is None else [],
            similar=[pair.source] if way == "schedules" and search is None else [],
            want=BATCH,
            seed=seed,
            prior=None if way == "shipped" else pair.prior,
        )
        proposal = engine.update(call)
        search = proposal.search
        trials = []
        for number, (name, schedule) in enumerate(proposal.schedules):
            best = min(latencies, default=math.inf)
            trial, built = _tried_now(pair, untuned, Candidate(number, name, schedule), best)
            kernel = built if trial.latency < best else kernel
            trials.append(trial)
            latencies.append(trial.latency)
        if len(trials) < BATCH:
            break
    return Searched(latencies, kernel)


def _tried_now(pair: Pair, untuned: bytes, candidate: Candidate, best: float) -> tuple[Trial, bytes]:
    built = MetaScheduleEngine().build(
        BuildCall(workload=pair.workload, target=pair.target, schedule=candidate.schedule)
    )
    if built.artifact is None:
        return Trial(candidate=candidate, outcome=built.outcome or "build-failed"), b""
    call = ProfileCall(
        workload=pair.workload,
        target=pair.target,
        artifact=built.artifact,
        untuned=untuned,
        device="cpu",
        settings=SETTINGS,
        best=best if math.isfinite(best) else None,
    )
    profiled = TvmPlatform().profile(call)
    trial = Trial(candidate=candidate, outcome=profiled.outcome, latencies=profiled.latencies)
    return trial, built.artifact


def _table(done: Sequence[Ran]) -> list[str]:
    """By pair, and over all: latency found after so many trials, and of the best when it was measured again,
    over that with the prior that comes with the engine; geometric means of the seeds."""
    by = {(each.pair, each.seed, each.way): each.latencies for each in done}
    again = {(each.pair, each.seed, each.way): each.again for each in done}
    rows = []
    pairs = list(dict.fromkeys(each.pair for each in done))
    for name in [*pairs, ""]:
        seeds = [(pair, seed) for pair, seed, way in by if way == WAYS[0] and pair == (name or pair)]
        cells = []
        for way in WAYS:
            for count in AT:
                ratios = [
                    min(by[pair, seed, way][:count]) / min(by[pair, seed, WAYS[0]][:count])
                    for pair, seed in seeds
                ]
                cells.append(f"{statistics.geometric_mean(ratios):.3f}")
            ratios = [again[pair, seed, way] / again[pair, seed, WAYS[0]] for pair, seed in seeds]
            cells.append(f"{statistics.geometric_mean(ratios):.3f}")
        best = min(again[pair, seed, way] for pair, seed in seeds for way in WAYS)
        rows.append([name or f"all {len(pairs)}", *cells, f"{best * 1e6:.3g}" if name else ""])
    headers = ["pair", *(f"{way} {count}" for way in WAYS for count in (*AT, "again")), "best (us)"]
    return table(headers, rows)


if __name__ == "__main__":
    main()
