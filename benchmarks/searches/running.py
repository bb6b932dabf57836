"""Run a search on real kernels, in this process and on this core."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Iterator

from msgspec import Struct

from benchmarks.searches import operators
from tunemesh.shared.messages import Candidate, Options, Settings, Trial
from tunemesh.stage_workers import engines, platforms
from tunemesh.stage_workers.engines.protocol import BuildCall, Engine, TaskRef, UpdateCall
from tunemesh.stage_workers.engines.template import compiling
from tunemesh.stage_workers.graph import workloads
from tunemesh.stage_workers.platforms.protocol import (
    ExtractedTask,
    ImportCall,
    Platform,
    ProfileCall,
    TargetCall,
)

SETTINGS = Settings(repeats=3, min_repeat_ms=3)
BATCH = 16
AS_GIVEN: Options = {"layout": "given", "convolutions": "direct"}


class Tried(Struct, frozen=True, kw_only=True):
    """One trial.

    Attributes:
        number: from 0.
        hash: of the candidate.
        latency: in seconds; ``None`` where there is none.
        outcome: what became of it.
        build: seconds.
        profile: seconds.
        since: seconds since the search began.

    Seconds are those of a core, of this process and its compilers, so that what else runs does not count.
    """

    number: int
    hash: str
    latency: float | None
    outcome: str
    build: float
    profile: float
    since: float


class Bench:
    """A task on this machine.

    Attributes:
        platform: that has imported and measures it.
        target: canonical.
        model: that it is of, as the platform has imported it.
        task: what is tuned.
        schedules: that were tried, by their hashes.
    """

    def __init__(self, platform: Platform, target: str, model: bytes, task: ExtractedTask) -> None:
        self.platform, self.target, self.model, self.task = platform, target, model, task
        self.schedules: dict[str, bytes] = {}

    @classmethod
    def of_operator(cls, name: str) -> Bench:
        """The one task of an operator of :mod:`.operators`."""
        platform = platforms.load(platforms.TVM)
        platform.preload()
        target = platform.resolve_target(TargetCall(target="native")).canonical
        options = {} if name in operators.CHANNELS_LAST else AS_GIVEN
        imported = platform.import_model(
            ImportCall(model=operators.model(name), target=target, options=options)
        )
        task = max(imported.tasks, key=lambda task: len(task.workload))
        return cls(platform, target, imported.model, task)

    @property
    def operations(self) -> float:
        """Of floats, in one run of the task."""
        return workloads.operations(workloads.load(self.task.workload))

    def run(
        self, engine_name: str, options: Options, seed: int, trials: int, seconds: float
    ) -> Iterator[Tried]:
        """Trials of a search, until there are so many or the time is over.

        Raises:
            ValueError: the engine does not take the operator.
        """
        engine: Engine = engines.load(engine_name)
        compiling.forget()
        ref = TaskRef(workload=self.task.workload, target=self.target, name="", key=self.task.key)
        if why := engine.objection(ref):
            raise ValueError(why)
        began, state, new, number, best = _clock(), None, list[Trial](), 0, math.inf
        while number < trials and _clock() - began < seconds:
            proposal = engine.update(
                UpdateCall(
                    workload=self.task.workload,
                    target=self.target,
                    search=state,
                    trials=new,
                    want=min(BATCH, trials - number),
                    seed=seed,
                    options=options,
                )
            )
            state, new = proposal.search, []
            if not proposal.schedules:
                return
            for name, schedule in proposal.schedules:
                trial, row = self._tried(engine, Candidate(number, name, schedule), best, began)
                best = min(best, trial.latency)
                new.append(trial)
                yield row
                number += 1

    def _tried(self, engine: Engine, candidate: Candidate, best: float, began: float) -> tuple[Trial, Tried]:
        self.schedules[candidate.hash] = candidate.schedule
        started = _clock()
        built = engine.build(
            BuildCall(workload=self.task.workload, target=self.target, schedule=candidate.schedule)
        )
        middle = _clock()
        if built.artifact is None:
            trial = Trial(candidate=candidate, outcome="build-failed", error=built.error)
        else:
            done = self.platform.profile(
                ProfileCall(
                    workload=self.task.workload,
                    target=self.target,
                    artifact=built.artifact,
                    untuned=self.task.untuned,
                    device="cpu",
                    settings=SETTINGS,
                    best=best if best < math.inf else None,
                )
            )
            trial = Trial(
                candidate=candidate,
                outcome=done.outcome or "run-failed",
                latencies=done.latencies,
                error=done.error,
            )
        ended = _clock()
        return trial, Tried(
            number=candidate.index,
            hash=candidate.hash,
            latency=trial.latency if math.isfinite(trial.latency) else None,
            outcome=trial.outcome,
            build=middle - started,
            profile=ended - middle,
            since=ended - began,
        )


def _clock() -> float:
    """Seconds of a core, in this process and those of its children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime
