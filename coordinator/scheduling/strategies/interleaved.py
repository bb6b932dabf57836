"""First come, first served among the steps whose queue is idle."""

from __future__ import annotations

import heapq
from collections.abc import Collection

from tunemesh.coordinator.scheduling.needs import Need
from tunemesh.coordinator.scheduling.strategies import CLASSES, Load, Ready
from tunemesh.shared.messages import Class


class Interleaved:
    """One heap of ready steps per need and class; O(log n) per decision."""

    name = "interleaved"
    controlled = True
    overlaps = True
    fits_chunks = False

    def __init__(self) -> None:
        self._heaps: dict[tuple[Need, Class], list[tuple[int, Ready]]] = {}

    def add(self, step: Ready) -> None:
        heapq.heappush(self._heaps.setdefault((step.need, step.class_), []), (step.order, step))

    def take(
        self, need: Need, load: Load, slowness: float, classes: Collection[Class] = CLASSES
    ) -> Ready | None:
        known = [(need, each) for each in classes if (need, each) in self._heaps]
        if not known:
            return None
        first = min(known, key=lambda each: self._heaps[each][0])
        _, step = heapq.heappop(self._heaps[first])
        if not self._heaps[first]:
            del self._heaps[first]
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
