"""First come, first served among the steps whose queue is idle."""

from __future__ import annotations

import heapq

from tunemesh.coordinator.scheduling.needs import Need
from tunemesh.coordinator.scheduling.strategies import Load, Ready


class Interleaved:
    """One heap of ready steps per need; O(log n) per decision."""

    name = "interleaved"
    controlled = True
    overlaps = True
    fits_chunks = False

    def __init__(self) -> None:
        self._heaps: dict[Need, list[tuple[int, Ready]]] = {}

    def add(self, step: Ready) -> None:
        heapq.heappush(self._heaps.setdefault(step.need, []), (step.order, step))

    def take(self, need: Need, load: Load, slowness: float) -> Ready | None:
        heap = self._heaps.get(need)
        if heap is None:
            return None
        _, step = heapq.heappop(heap)
        if not heap:
            del self._heaps[need]
        return step

    def started(self, step: Ready) -> None:
        """Nothing to note: queues are independent of each other."""

    def ended(self, step: Ready, seconds: float | None) -> None:
        """As above."""

    def forget(self, job: str) -> None:
        for need, heap in list(self._heaps.items()):
            # Cut down, a heap may be out of order. Jobs end too seldom for the time to matter.
            left = [entry for entry in heap if entry[1].account != job]
            heapq.heapify(left)
            self._heaps[need] = left
            if not left:
                del self._heaps[need]
