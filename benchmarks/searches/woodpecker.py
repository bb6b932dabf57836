"""Woodpecker-DL's figure for real: so many candidates of its convolution on one core, built, checked and
profiled; and the best kernel beside MetaSchedule's, ONNX Runtime's and OpenVINO's, in turns on the same core.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

import msgspec
from msgspec import Struct

from benchmarks.searches import operators
from benchmarks.searches.running import Bench, Tried
from tunemesh.comparing import comparison, limits, peers
from tunemesh.comparing.racing import race
from tunemesh.comparing.work import TUNED
from tunemesh.model_files import ModelFile
from tunemesh.shared.messages import Settings
from tunemesh.stage_workers import engines
from tunemesh.stage_workers.engines.protocol import PartCall
from tunemesh.stage_workers.platforms.protocol import AssembleCall, TunedTask

SEED = 0


class Found(Struct, frozen=True, kw_only=True):
    """What an engine has found.

    Attributes:
        engine: its name.
        trials: candidates that were built and profiled.
        wall: seconds for all of them, of the clock.
        core: and of the core.
        best: seconds of the best kernel, as it was profiled.
        build: seconds of the core for a candidate, at the median.
        profile: likewise.
        failed: candidates of which nothing was measured.
    """

    engine: str
    trials: int
    wall: float
    core: float
    best: float
    build: float
    profile: float
    failed: int


class Figure(Struct, frozen=True, kw_only=True):
    """All that was measured.

    Attributes:
        flops: of the core at most, per second.
        operations: of the convolution.
        found: by each engine.
        turns: median seconds of a run of the whole model, by who ran it.
        errors: of those that could not.
    """

    flops: float
    operations: float
    found: list[Found]
    turns: dict[str, float]
    errors: dict[str, str]


def run(trials: dict[str, int], turns: int) -> Figure:
    """Measure.

    Args:
        trials: for each engine.
        turns: of each contestant.
    """
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    bench = Bench.of_operator(operators.WOODPECKER)
    flops = limits.flops_of_core(core)
    found = []
    with tempfile.TemporaryDirectory(prefix="tunemesh-woodpecker-") as folder:
        contestants = {}
        for engine, count in trials.items():
            known, schedule = _searched(bench, engine, count)
            found.append(known)
            contestants[engine] = _assembled(bench, engine, schedule, known.best, Path(folder, engine))
        place = Path(folder)
        model = ModelFile(name="operator.onnx", data=operators.model(operators.WOODPECKER))
        path = comparison.lay_out(model, place)
        (signature,) = comparison.signatures_of(contestants[next(iter(trials))]).variants
        comparison.save_inputs(model, Settings(), signature, place / "inputs.npz")
        who = {name: (TUNED, path) for name, path in contestants.items()}
        who |= {peer.name: (peer.name, path) for peer in peers.PEERS if peer.installed and peer.precise}
        works = comparison.works(who, signature, place, threads=1)
        raced = race(works, {core}, lambda _: None, turns)
    medians = {name: statistics.median(turn[name] for turn in raced.turns) for name in raced.versions}
    operations = bench.operations
    return Figure(flops=flops, operations=operations, found=found, turns=medians, errors=raced.errors)


def _searched(bench: Bench, engine: str, trials: int) -> tuple[Found, bytes]:
    """What an engine finds in so many trials, and the schedule of the best."""
    began = time.monotonic()
    tried: list[Tried] = list(bench.run(engine, {}, SEED, trials, float("inf")))
    wall = time.monotonic() - began
    measured = [each for each in tried if each.latency is not None]
    best = min(measured, key=lambda each: each.latency or 0.0)
    assert best.latency is not None
    return Found(
        engine=engine,
        trials=len(tried),
        wall=wall,
        core=tried[-1].since,
        best=best.latency,
        build=statistics.median(each.build for each in tried),
        profile=statistics.median(each.profile for each in tried),
        failed=len(tried) - len(measured),
    ), bench.schedules[best.hash]


def _assembled(bench: Bench, engine: str, schedule: bytes, latency: float, folder: Path) -> Path:
    """The model with a kernel, as a person runs it."""
    symbol = f"tunemesh_{bench.task.key}"
    call = PartCall(workload=bench.task.workload, target=bench.target, schedule=schedule, symbol=symbol)
    part = engines.load(engine).part(call)
    task = TunedTask(workload=bench.task.workload, symbol=symbol, part=part, latency=latency)
    made = bench.platform.assemble(AssembleCall(model=bench.model, target=bench.target, tasks=[task]))
    folder.mkdir()
    (folder / "model.so").write_bytes(made.tuned)
    (folder / "signature.json").write_bytes(made.signature)
    return folder


def text(figure: Figure) -> list[str]:
    """The figure as lines for people."""
    lines = [
        f"the core does {figure.flops / 1e9:.0f} GFLOP/s at most",
        "",
        "| engine | trials | failed | wall, s | core, s | build, ms | profile, ms | best, us | of peak |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for each in figure.found:
        share = figure.operations / each.best / figure.flops
        lines.append(
            f"| {each.engine} | {each.trials} | {each.failed} | {each.wall:.0f} | {each.core:.0f} "
            f"| {each.build * 1e3:.0f} | {each.profile * 1e3:.0f} | {each.best * 1e6:.1f} | {share:.3f} |"
        )
    lines += ["", "| in turns, the whole model | us |", "| --- | ---: |"]
    ordered = sorted(figure.turns.items(), key=lambda each: each[1])
    lines += [f"| {name} | {seconds * 1e6:.1f} |" for name, seconds in ordered]
    lines += [f"{name} could not run: {error}" for name, error in figure.errors.items()]
    return lines


def save(figure: Figure, path: Path) -> None:
    """Keep it as JSON."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(figure), indent=2))
