"""What simulated workers make of a step: plausible results without any engine."""

from __future__ import annotations

import hashlib
import random

from tunemesh.coordinator.simulation.drawing import Durations
from tunemesh.coordinator.simulation.scenario import Scenario
from tunemesh.shared.messages import (
    AssembleDone,
    AssembleWork,
    Blob,
    BuildDone,
    BuildWork,
    Built,
    Candidate,
    ImportDone,
    ImportWork,
    LearnDone,
    LearnWork,
    Profiled,
    ProfileDone,
    ProfileWork,
    Result,
    Step,
    TaskSpec,
    TaskState,
    UpdateDone,
    UpdateWork,
    ValidateDone,
    ValidateWork,
)
from tunemesh.shared.messages.basics import MOST_REGIONS

NOTHING = Blob("0" * 64, 0, b"")

UNTUNED = 1e-2
"""Seconds that every untuned workload takes; candidates take a tenth of it and more."""


def result(step: Step, scenario: Scenario, durations: Durations) -> Result:
    """The result of ``step``; the same each time it is done."""
    match step.work:
        case ImportWork():
            return ImportDone(
                model=NOTHING, tasks=[_spec(step.job, n, durations) for n in range(scenario.tasks)]
            )
        case UpdateWork() as work:
            return _update(step, work, scenario.confirmed)
        case BuildWork():
            each = durations.candidates(step)
            return BuildDone(
                built=[Built(index=index, seconds=took, artifact=NOTHING) for index, took in each.items()]
            )
        case ProfileWork() as work:
            draw = random.Random(step.id)
            return ProfileDone(
                profiled=_profiled(work.artifacts, durations.candidates(step), draw),
                rivals={
                    rival: _profiled(built, durations.candidates(step, rival), draw)
                    for rival, built in work.rivals.items()
                },
                in_turns=work.confirm,
                untuned=UNTUNED if work.baseline else None,
            )
        case AssembleWork():
            return AssembleDone(tuned=NOTHING, untuned=NOTHING, signature=NOTHING, files={}, records=NOTHING)
        case LearnWork():
            return LearnDone()
        case ValidateWork():
            return ValidateDone(latency_before=1.0, latency_after=0.1, largest_difference=0.0, equal=True)


def _profiled(built: list[Built], seconds: dict[int, float], draw: random.Random) -> list[Profiled]:
    return [
        Profiled(
            index=each.index,
            seconds=seconds[each.index],
            outcome="measured",
            latencies=[UNTUNED / 10 * draw.lognormvariate(1.0, 0.7)],
        )
        for each in built
    ]


def _spec(job: str, number: int, durations: Durations) -> TaskSpec:
    name = f"t{number:02}"
    return TaskSpec(
        id=name,
        name=name,
        # Tasks of different jobs are different ones: they may differ in complexity.
        key=hashlib.sha256(f"{job}/{name}".encode()).hexdigest(),
        engine="mock",
        regions=MOST_REGIONS,
        weight=durations.weight(job, name),
        workload=NOTHING,
        untuned=NOTHING,
    )


def _update(step: Step, work: UpdateWork, confirmed: int) -> UpdateDone:
    """A batch of new candidates, or at the end some of those tried; the state counts trials in ``history``,
    one entry per update."""
    history = list(work.state.history) if work.state is not None else []
    if work.trials:
        history.append(Blob("0" * 64, len(work.trials)))
    count = work.want or min(confirmed, work.names, sum(blob.size for blob in history))
    return UpdateDone(
        state=TaskState(search=NOTHING, history=history),
        candidates=[Candidate(i, f"{step.round}/{i}", b"") for i in range(count)],
        learned=work.learns,
        chunk_size=work.chunk_size,
    )
