"""One job at a time, one step at a time: how today's tuners run. The baseline for comparisons."""

from __future__ import annotations

import heapq
from collections.abc import Collection

from tunemesh.coordinator.scheduling.heap import ChangingHeap
from tunemesh.coordinator.scheduling.needs import Need
from tunemesh.coordinator.scheduling.strategies import CLASSES, Load, Ready
from tunemesh.shared.messages import Class


class Sequential:
    """The oldest job's steps in order, each only when the one before has ended."""

    name = "sequential"
    controlled = True
    overlaps = False
    fits_chunks = False

    def __init__(self) -> None:
        self._jobs: ChangingHeap[str] = ChangingHeap()
        self._steps: dict[str, dict[Need, list[tuple[int, Ready]]]] = {}
        self._running: set[str] = set()

    def add(self, step: Ready) -> None:
        self._jobs.put(step.account, step.job_order)
        heap = self._steps.setdefault(step.account, {}).setdefault(step.need, [])
        heapq.heappush(heap, (step.order, step))

    def take(
        self, need: Need, load: Load, slowness: float, classes: Collection[Class] = CLASSES
    ) -> Ready | None:
        # One step at a time leaves devices idle enough: nothing is kept for anybody.
        oldest = self._jobs.least()
        if self._running or oldest is None:
            return None
        heap = self._steps[oldest].get(need)
        return heapq.heappop(heap)[1] if heap else None

    def started(self, step: Ready) -> None:
        self._running.add(step.step)

    def ended(self, step: Ready, seconds: float | None) -> None:
        self._running.discard(step.step)

    def forget(self, job: str) -> None:
        self._jobs.remove(job)
        self._steps.pop(job, None)
