"""What is simulated: resources, jobs, durations, faults. Usually a YAML file; see ``docs/simulation.md``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from tunemesh.coordinator.scheduling import strategies
from tunemesh.coordinator.simulation.trace import SHIPPED
from tunemesh.shared import files
from tunemesh.shared.errors import BadInput
from tunemesh.shared.messages import Class
from tunemesh.shared.messages.basics import MOST_REGIONS

Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Seconds = Annotated[float, Meta(ge=0)]
Factor = Annotated[float, Meta(gt=0)]


class Spread(Struct, frozen=True, forbid_unknown_fields=True):
    """A log-normal distribution of seconds: per candidate for ``build`` and ``profile``, else per step."""

    median: Seconds
    sigma: Seconds = 0.0
    """Standard deviation of the logarithm: 0.25 is about 25 %."""


class Away(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All workers of a queue are away for a while: they leave and come back."""

    queue: str
    since: Seconds
    until: Seconds


class Scenario(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that a simulation depends on. Lists are dealt out in turn: the second job has the second
    tenant, the second device the second slowness, and so on, from the start again when a list ends."""

    strategy: str = "interleaved"
    seed: int = 0
    builders: Count = 1
    """Workers of the queue ``build-cpu``."""
    updaters: Count = 1
    """Workers of the queue ``model-update``."""
    devices: Count = 1
    slowness: Annotated[list[Factor], Meta(min_length=1)] = msgspec.field(default_factory=lambda: [1.0])
    """Of the devices: 2 takes twice as long."""
    targets: Annotated[list[str], Meta(min_length=1)] = msgspec.field(default_factory=lambda: ["cpu"])
    """Of the devices, and of the jobs."""
    jobs: Count = 20
    tasks: Count = 8
    """Per job."""
    rounds: Count = 4
    """Per task, on average: a job has ``tasks * rounds * batch`` trials."""
    trials: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    """Per job, where it is not that."""
    batch: Annotated[int, Meta(ge=1, le=512)] = 32
    chunk: Annotated[int, Meta(ge=1, le=8)] = 8
    confirmed: Annotated[int, Meta(ge=0, le=8)] = 0
    """Candidates of a task that are built and measured again at its end."""
    split: Annotated[int, Meta(ge=1, le=MOST_REGIONS)] = 1
    """Searches of each task, in different regions."""
    lookahead: Annotated[int, Meta(ge=0, le=1)] = 1
    complexity: Annotated[list[Factor], Meta(min_length=1)] = msgspec.field(default_factory=lambda: [1.0])
    """Of the jobs: factors for the durations of model updates, builds and profiles."""
    every: Seconds = 0.0
    """Seconds between the arrivals of two jobs."""
    tenants: Annotated[list[str], Meta(min_length=1)] = msgspec.field(default_factory=lambda: [""])
    priorities: Annotated[list[Annotated[int, Meta(ge=1, le=100)]], Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: [10]
    )
    classes: Annotated[list[Class], Meta(min_length=1)] = msgspec.field(default_factory=lambda: ["standard"])
    """Of the jobs."""
    reserved: Annotated[float, Meta(ge=0, le=1)] = 0.0
    """Share of the devices of each target that is kept for jobs of class gold."""
    trace: str = SHIPPED
    """Path of a trace, or ``recorded`` for the one that comes with Tunemesh."""
    durations: dict[str, Spread] = {}
    """Stages that are not drawn from the trace."""
    fixed: dict[str, Seconds] = {}
    """Seconds that a step of a stage takes beside its candidates."""
    closing: Annotated[float, Meta(ge=0, le=1)] = 1.0
    """What an update that closes a task takes of what is drawn for it."""
    hop: Seconds = 0.003
    """Seconds from the coordinator to a worker, and back."""
    failures_every: Seconds = 0.0
    """Mean seconds between two deaths of a worker (exponential); 0: they never die."""
    repair: Seconds = 5.0
    """Seconds until another worker takes the place of a dead one."""
    restarts: list[Seconds] = []
    """Moments at which the coordinator dies; its successor is there two seconds later."""
    away: list[Away] = []
    limit: Seconds = 1e7
    """Virtual seconds after which jobs that have not ended are an error."""


STAGES = ("import", "model-update", "build", "profile", "assemble", "validate")


def load_scenario(path: str | Path) -> Scenario:
    """The scenario in a YAML file.

    Raises:
        BadInput: it cannot be read, or something in it makes no sense; in one line.
    """
    try:
        scenario = msgspec.yaml.decode(files.read(Path(path), "scenario"), type=Scenario)
    except msgspec.ValidationError as error:
        raise BadInput(f"scenario {path}: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"scenario {path} is not YAML: {' '.join(str(error).split())[:200]}") from None
    return check(scenario, str(path))


def check(scenario: Scenario, name: str = "scenario") -> Scenario:
    """``scenario`` itself, when it makes sense.

    Raises:
        BadInput: it does not.
    """
    try:
        strategies.by_name(scenario.strategy)
    except BadInput as error:
        raise BadInput(f"{name}: {error}") from None
    if unknown := sorted({*scenario.durations, *scenario.fixed} - set(STAGES)):
        raise BadInput(f"{name}: there is no stage {unknown[0]!r}; known: {', '.join(STAGES)}")
    served = {scenario.targets[n % len(scenario.targets)] for n in range(scenario.devices)}
    asked = {scenario.targets[n % len(scenario.targets)] for n in range(scenario.jobs)}
    if missing := sorted(asked - served):
        raise BadInput(f"{name}: target {missing[0]!r} is served by none of the {scenario.devices} devices")
    queues = {"build-cpu", "model-update", *device_queues(scenario)}
    for away in scenario.away:
        if away.queue not in queues:
            raise BadInput(f"{name}: nobody can be away from queue {away.queue!r}; there is none")
        if away.until <= away.since:
            raise BadInput(
                f"{name}: away from {away.queue} until {away.until:g}, which is not after its since"
            )
    return scenario


def device_queues(scenario: Scenario) -> list[str]:
    """Names of the devices' queues."""
    return [f"profile-d{number}" for number in range(scenario.devices)]
