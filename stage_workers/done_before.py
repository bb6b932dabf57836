"""What a worker answers to a step that it has done already: one comes again after a lost connection."""

from __future__ import annotations

from cachetools import LRUCache

from tunemesh.shared.messages import Failure, Step, StepResult

REMEMBERED = 8
"""Results kept."""


class Memory:
    """The last results by step. A failure is not kept: when its step comes again, it may have passed."""

    def __init__(self) -> None:
        self._done: LRUCache[str, tuple[Step, StepResult]] = LRUCache(REMEMBERED)

    def keep(self, step: Step, done: StepResult) -> None:
        if not isinstance(done.result, Failure):
            self._done[step.id] = step, done

    def recall(self, step: Step) -> StepResult | None:
        """The result of ``step``; not that of another one with its id, as an earlier job may have left, and
        not that of an earlier attempt, which may have been what was wrong."""
        known, done = self._done.get(step.id, (None, None))
        return done if known == step else None
