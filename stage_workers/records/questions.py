"""What can be asked of the records, and what is answered. Nothing here needs a database."""

from __future__ import annotations

from msgspec import Struct

from tunemesh.stage_workers.records import rows


class Filter(Struct, frozen=True, kw_only=True):
    """Which records are meant: those to which all of it applies. What is empty applies to all."""

    task: str = ""
    """The beginning of a key."""
    operator: str = ""
    """A part of an operator's name."""
    model: str = ""
    """A part of a model's name."""
    target: str = ""
    """A part of a canonical target."""
    device: str = ""
    """A part of a device's description."""
    engine: str = ""
    tenant: str = ""
    since: float | None = None
    """Unix time; what was recorded from then on."""
    conditions: str = ""
    """The id of conditions."""
    source: str = ""
    """Id of the database that it comes from."""
    visible_to: str | None = None
    """A tenant who may use it: what is its own, nobody's, or was measured for all. Empty: what everybody may
    use."""


ALL = Filter()


class Found(Struct, frozen=True, kw_only=True):
    """A trial, and what it names."""

    trial: rows.Trial
    task: rows.Task
    job: rows.Job
    conditions: rows.Conditions | None
    confirmed: rows.Confirmation | None = None

    @property
    def latency(self) -> float | None:
        """In seconds; the confirmed one where there is one."""
        return self.confirmed.latency if self.confirmed is not None else self.trial.estimate


class Counts(Struct, frozen=True, kw_only=True):
    """What a database holds."""

    rows: dict[str, int]
    """By table."""
    outcomes: dict[str, int]
    engines: dict[str, int]
    devices: dict[str, int]
    """Trials by the device that measured them."""
    targets: dict[str, int]
    """Tasks by target."""
    sources: dict[str, int]
    """Jobs by the database that they come from."""
    first: float | None
    last: float | None
    """When trials were recorded."""


class Best(Struct, frozen=True, kw_only=True):
    """The fastest schedule of a task, and how much was tried to find it."""

    found: Found
    trials: int
    """Of the task in that job, by that engine, under the same conditions."""
    untuned: float
    """Latency without tuning, in seconds, as that job measured it."""
