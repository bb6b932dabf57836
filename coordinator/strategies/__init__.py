"""Who goes next. A strategy orders the ready steps; it knows nothing of what a step does.

The core asks a strategy only when a queue that serves ``need`` is idle, so the choice is made as late as
possible. Strategies are pure: no clock, no chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from shared.errors import BadInput


@dataclass(frozen=True, slots=True)
class Ready:
    """A step that could start now."""

    step: str
    """Its id."""
    job: str
    need: str
    """The kind of resource: ``model-update``, ``build-cpu`` or ``profile:<target>``."""
    job_order: int
    """Jobs are numbered in the order in which they were accepted."""
    order: int
    """Steps are numbered in the order in which they became ready."""


class Strategy(Protocol):
    """The order of the ready steps."""

    @property
    def name(self) -> str:
        """As given on the command line."""

    def add(self, step: Ready) -> None:
        """``step`` became ready."""

    def take(self, need: str) -> Ready | None:
        """A queue for ``need`` is idle: the step to start there now, or ``None`` to leave it idle."""

    def done(self, step: Ready) -> None:
        """A step that was taken has ended (or was lost and will be added again)."""

    def forget(self, job: str) -> None:
        """``job`` has ended: drop its steps."""


def by_name(name: str) -> Strategy:
    """A fresh strategy.

    Raises:
        BadInput: when there is none of this name.
    """
    from coordinator.strategies.interleaved import Interleaved
    from coordinator.strategies.sequential import Sequential

    known: dict[str, type[Interleaved] | type[Sequential]] = {
        "interleaved": Interleaved,
        "sequential": Sequential,
    }
    if name not in known:
        raise BadInput(f"unknown strategy {name!r}; there are: {', '.join(sorted(known))}")
    return known[name]()
