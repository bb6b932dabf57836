"""First come, first served among the steps whose queue is idle."""

from __future__ import annotations

import heapq

from coordinator.strategies import Load, Ready


class Interleaved:
    """One heap of ready steps per need; O(log n) per decision."""

    name = "interleaved"
    controlled = True
    overlaps = True
    fits_chunks = False

    def __init__(self) -> None:
        self._heaps: dict[str, list[tuple[int, Ready]]] = {}
        self._ended: set[str] = set()

    def add(self, step: Ready) -> None:
        heapq.heappush(self._heaps.setdefault(step.need, []), (step.order, step))

    def take(self, need: str, load: Load, slowness: float) -> Ready | None:
        heap = self._heaps.get(need, [])
        while heap:
            _, step = heapq.heappop(heap)
            if step.job not in self._ended:
                return step
        if not any(self._heaps.values()):
            self._ended.clear()
        return None

    def started(self, step: Ready) -> None:
        """Nothing to note: queues are independent of each other."""

    def ended(self, step: Ready, seconds: float | None) -> None:
        """As above."""

    def forget(self, job: str) -> None:
        # Its steps are skipped when their turn comes, which is cheaper than searching all heaps now.
        self._ended.add(job)
