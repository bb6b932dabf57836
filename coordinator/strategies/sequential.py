"""One job at a time, one step at a time: how today's tuners run. The baseline for comparisons."""

from __future__ import annotations

import heapq

from coordinator.strategies import Ready


class Sequential:
    """The oldest job's steps in order, each only when the one before has ended."""

    name = "sequential"

    def __init__(self) -> None:
        self._jobs: dict[str, tuple[int, dict[str, list[tuple[int, Ready]]]]] = {}
        self._running: set[str] = set()

    def add(self, step: Ready) -> None:
        _, heaps = self._jobs.setdefault(step.job, (step.job_order, {}))
        heapq.heappush(heaps.setdefault(step.need, []), (step.order, step))

    def take(self, need: str) -> Ready | None:
        if self._running or not self._jobs:
            return None
        _, heaps = min(self._jobs.values(), key=lambda entry: entry[0])
        heap = heaps.get(need)
        if not heap:
            return None
        _, step = heapq.heappop(heap)
        self._running.add(step.step)
        return step

    def done(self, step: Ready) -> None:
        self._running.discard(step.step)

    def forget(self, job: str) -> None:
        self._jobs.pop(job, None)
