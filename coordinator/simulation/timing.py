"""A strategy that measures what its decisions cost."""

from __future__ import annotations

from collections.abc import Collection
from time import perf_counter

from tunemesh.coordinator.scheduling import strategies
from tunemesh.coordinator.scheduling.needs import Need
from tunemesh.coordinator.scheduling.strategies import CLASSES, Load, Ready
from tunemesh.shared.messages import Class


class TimedStrategy:
    """Any strategy, with a stop watch around all that it is asked and told."""

    def __init__(self, name: str) -> None:
        self._inner = strategies.by_name(name)
        self.name = self._inner.name
        self.controlled = self._inner.controlled
        self.overlaps = self._inner.overlaps
        self.fits_chunks = self._inner.fits_chunks
        self.seconds = 0.0
        """Wall time."""
        self.taken = 0
        """Decisions: steps that were chosen."""

    def add(self, step: Ready) -> None:
        began = perf_counter()
        self._inner.add(step)
        self.seconds += perf_counter() - began

    def take(
        self, need: Need, load: Load, slowness: float, classes: Collection[Class] = CLASSES
    ) -> Ready | None:
        began = perf_counter()
        step = self._inner.take(need, load, slowness, classes)
        self.seconds += perf_counter() - began
        self.taken += step is not None
        return step

    def started(self, step: Ready) -> None:
        began = perf_counter()
        self._inner.started(step)
        self.seconds += perf_counter() - began

    def ended(self, step: Ready, seconds: float | None) -> None:
        began = perf_counter()
        self._inner.ended(step, seconds)
        self.seconds += perf_counter() - began

    def forget(self, job: str) -> None:
        began = perf_counter()
        self._inner.forget(job)
        self.seconds += perf_counter() - began
