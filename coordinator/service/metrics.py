"""What the coordinator tells Prometheus. Jobs and tenants are no labels: there is no end of them.

Counters are raised by the loop where a thing happens. What is a state (jobs, queues) is read by it every
few seconds, since only its own thread may look at the core; a scrape gets what was read last.
"""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Iterable, Iterator
from typing import get_args

import prometheus_client as prometheus
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from tunemesh.coordinator.events import Instruction
from tunemesh.coordinator.jobs.job import Job
from tunemesh.shared.messages import Phase, ResourceProgress, StepResult
from tunemesh.shared.metrics import StepMetrics


class Metrics(Collector):
    """All figures of one coordinator, in ``registry``."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self._of_steps = StepMetrics(registry)
        self._decisions = prometheus.Counter(
            "tunemesh_decisions", "Instructions of the core, by kind.", ["kind"], registry=registry
        )
        self._redelivered = prometheus.Counter(
            "tunemesh_redeliveries", "Messages that the broker has delivered again.", registry=registry
        )
        self._defects = prometheus.Counter(
            "tunemesh_dead_letters", "Messages put aside because they make no sense.", registry=registry
        )
        self._held = prometheus.Gauge(
            "tunemesh_held_deliveries", "Deliveries that carry the state of jobs.", registry=registry
        )
        self._active = prometheus.Gauge(
            "tunemesh_coordinator_active", "1 where it coordinates, 0 where it stands by.", registry=registry
        )
        self._phases: Counts[str] = Counts()
        self._resources: tuple[ResourceProgress, ...] = ()
        registry.register(self)

    # -- What happens ---------------------------------------------------------------------------------------

    def delivered(self, again: bool) -> None:
        """A message came."""
        if again:
            self._redelivered.inc()

    def answered(self, result: StepResult) -> None:
        """A worker has answered a step."""
        self._of_steps.answered(result)

    def decided(self, instructions: Iterable[Instruction]) -> None:
        """The core has decided."""
        for each in instructions:
            self._decisions.labels(type(each).__name__.lower()).inc()

    def put_aside(self) -> None:
        """A message went to the dead letters."""
        self._defects.inc()

    # -- What is --------------------------------------------------------------------------------------------

    def look(
        self, jobs: Iterable[Job], resources: Iterable[ResourceProgress], held: int, active: bool
    ) -> None:
        """Note the state, for the scrapes until the next look."""
        self._phases = Counts(job.ledger.phase for job in jobs)
        self._resources = tuple(resources)
        self._held.set(held)
        self._active.set(active)

    def collect(self) -> Iterator[Metric]:
        """What was noted last."""
        yield _gauge("tunemesh_jobs", "Jobs that are known, by phase.", "phase", self._of_phases())
        resources = self._resources
        for name, text, value in (
            ("tunemesh_queue_slots", "Steps that the workers of a queue do at once.", "slots"),
            ("tunemesh_queue_drift", "How much slower than usual its reference kernel ran last.", "drift"),
        ):
            found = {each.queue: float(getattr(each, value)) for each in resources}
            yield _gauge(name, text, "queue", found)
        running = {each.queue: float(len(each.running)) for each in resources}
        yield _gauge("tunemesh_queue_running", "Steps in flight.", "queue", running)
        text = "Work that was reported; its rate over the slots is the busy share."
        busy = CounterMetricFamily("tunemesh_queue_busy_seconds", text, labels=["queue"])
        for each in resources:
            busy.add_metric([each.queue], each.busy)
        yield busy

    def _of_phases(self) -> dict[str, float]:
        return {phase: float(self._phases[phase]) for phase in get_args(Phase)}


def _gauge(name: str, text: str, label: str, values: dict[str, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family
