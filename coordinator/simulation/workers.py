"""Simulated workers, and what they have done."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tunemesh.coordinator.simulation.scenario import Scenario, device_queues
from tunemesh.shared.messages import Serves, Step, WorkerStatus


@dataclass(slots=True)
class Executed:
    """One step that ran, in seconds since the start of the simulation."""

    step: Step
    resource: str
    worker: str
    started: float
    finished: float
    seconds: float
    """What it takes on a worker of usual speed."""
    completed: bool = True
    """Whether its worker lived to see the end of it."""


@dataclass(slots=True, eq=False)
class Worker:
    """One step at a time. ``life`` changes when it dies, so that nothing of an earlier life comes through."""

    queue: str
    number: int
    slowness: float = 1.0
    target: str | None = None
    life: int = 0
    alive: bool = True
    away: bool = False
    """Its machine was taken away for a while: it does not come back before that is over."""
    running: Executed | None = None

    @property
    def name(self) -> str:
        return f"{self.queue}@sim:{self.number}.{self.life}"

    def status(self, leaving: bool = False) -> WorkerStatus:
        return WorkerStatus(
            worker=self.name,
            queue=self.queue,
            host=f"{self.queue}-{self.number}",
            slots=0 if leaving else 1,
            serves=Serves(engines=["mock"]) if self.target is None else Serves(targets=[self.target]),
            step=self.running.step.id if self.running is not None else None,
            leaving=leaving,
        )


def workers_of(scenario: Scenario) -> Iterator[Worker]:
    """All workers of a scenario."""
    for number in range(scenario.builders):
        yield Worker("build-cpu", number)
    for number in range(scenario.updaters):
        yield Worker("model-update", number)
    for number, queue in enumerate(device_queues(scenario)):
        slowness = scenario.slowness[number % len(scenario.slowness)]
        yield Worker(queue, 0, slowness, scenario.targets[number % len(scenario.targets)])
