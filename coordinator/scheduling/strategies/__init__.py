"""Who goes next. A strategy orders the ready steps; it knows nothing of what a step does.

The core asks a strategy only when a queue that serves ``need`` is idle, so the choice is made as late as
possible. Strategies are pure (no clock, no chance) and take O(log n) per decision. How each chooses, and
why, is told in ``docs/scheduling.md``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import msgspec
from msgspec import Struct

from tunemesh.coordinator.scheduling.needs import Need
from tunemesh.shared.errors import BadInput
from tunemesh.shared.messages import Class
from tunemesh.shared.text import nearest


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is predicted of a job. All in seconds."""

    work: Mapping[Need, float] = field(default_factory=dict)
    """By need: how long its remaining steps would keep one worker busy."""
    path: float = 0.0
    """How long it would still take with all resources to itself, and as many as it can use."""

    @property
    def total(self) -> float:
        """Remaining work on all resources."""
        return sum(self.work.values())


class Ready(Struct, frozen=True):
    """A step that could start now."""

    step: str
    """Its id."""
    job: str
    """Whose it is."""
    need: Need
    job_order: int
    """Jobs are numbered in the order in which they were accepted."""
    order: int = 0
    """Steps are numbered in the order in which they became ready, by the dispatcher."""
    tenant: str = ""
    priority: float = 10
    feeds: tuple[Need, ...] = ()
    """Those of the steps that its result will lead to, one after the other; none for the last step."""
    seconds: float = 0.0
    """Predicted duration."""
    forecast: Forecast = Forecast()
    """Of the job on whose account it runs, when the step became ready."""
    account: str = ""
    """The job on whose account it runs: its own, or one that waits for what comes of it. Strategies know
    steps by this one alone, and order, tenant, priority and forecast are those of this job."""

    class_: Class = "standard"
    """Of that job: what a reservation of devices goes by."""
    urgent: bool = False
    """Whether it goes before all others, whatever the strategy: see the dispatcher."""

    def __post_init__(self) -> None:
        if not self.account:
            msgspec.structs.force_setattr(self, "account", self.job)


CLASSES: frozenset[Class] = frozenset({"gold", "standard", "spare"})
"""All that there are."""


class Load(Protocol):
    """What a strategy may know of the resources, by need."""

    now: float
    """Seconds of a clock of which only differences count."""

    def slots(self, need: Need) -> int:
        """Steps that the live workers can do at once."""

    def supply(self, need: Need) -> float:
        """Predicted seconds until a worker runs out of work: of all steps ready or in flight that these
        workers could do, per slot."""

    def compete(self, one: Need, other: Need) -> bool:
        """Whether some worker serves both."""

    def share_cores(self, one: Need, other: Need) -> bool:
        """Whether work for the two runs on the same cores, so that each slows the other down."""


class Strategy(Protocol):
    """The order of the ready steps."""

    name: str
    """As given on the command line."""
    controlled: bool
    """Whether steps wait here until a queue is idle. If not, they are published at once."""
    overlaps: bool
    """Whether several steps may be in flight at all: what never overlaps gains nothing from lookahead."""
    fits_chunks: bool
    """Whether a batch is cut so that it is soonest through even where other work fills the gaps: see
    :mod:`coordinator.scheduling.chunks`."""

    def add(self, step: Ready) -> None:
        """``step`` became ready."""

    def take(
        self, need: Need, load: Load, slowness: float, classes: Collection[Class] = CLASSES
    ) -> Ready | None:
        """A queue for ``need`` is idle: the step to start there now, or ``None`` to leave it idle.

        Args:
            slowness: how many times as long as usual steps take on that queue.
            classes: those of the jobs that may have it.
        """

    def started(self, step: Ready) -> None:
        """A step is in flight: one that was taken, or one that was found running after a restart."""

    def ended(self, step: Ready, seconds: float | None) -> None:
        """A step that had started is back after ``seconds`` of work; ``None``: it was lost, and may be added
        again."""

    def forget(self, job: str) -> None:
        """``job`` has ended: drop what is ready on its account."""


def by_name(text: str) -> Strategy:
    """A fresh strategy.

    Args:
        text: its name; for ``fair`` also the shares of tenants, as in ``fair:gold=3,free=1``.

    Raises:
        BadInput: when there is none of this name, or it does not take what follows the colon.
    """
    from tunemesh.coordinator.scheduling.strategies.fair import Fair
    from tunemesh.coordinator.scheduling.strategies.interleaved import Interleaved
    from tunemesh.coordinator.scheduling.strategies.predictive import Predictive
    from tunemesh.coordinator.scheduling.strategies.sequential import Sequential
    from tunemesh.coordinator.scheduling.strategies.uncontrolled import Uncontrolled

    name, colon, rest = text.partition(":")
    if name == "fair":
        return Fair(_shares(rest) if colon else {})
    simple: dict[str, type[Interleaved] | type[Predictive] | type[Sequential] | type[Uncontrolled]] = {
        "interleaved": Interleaved,
        "predictive": Predictive,
        "sequential": Sequential,
        "uncontrolled": Uncontrolled,
    }
    if name not in simple:
        known = sorted([*simple, "fair"])
        near = nearest(name, known)
        raise BadInput(f"unknown strategy {text!r}; there are: {', '.join(known)}{near}")
    if colon:
        raise BadInput(f"strategy {name} takes nothing behind a colon; only fair does: fair:gold=3,free=1")
    return simple[name]()


def _shares(text: str) -> dict[str, float]:
    """``gold=3,free=1`` as a mapping.

    Raises:
        BadInput: it is malformed.
    """
    shares: dict[str, float] = {}
    for part in text.split(","):
        found = re.fullmatch(r"\s*([A-Za-z0-9][A-Za-z0-9_-]{0,63})\s*=\s*(\d{1,6}(?:\.\d{1,6})?)\s*", part)
        if found is None or float(found[2]) <= 0:
            raise BadInput(f"bad share {part!r}; expected TENANT=WEIGHT, as in fair:gold=3,free=1")
        shares[found[1]] = float(found[2])
    return shares
