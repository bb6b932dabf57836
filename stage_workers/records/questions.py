"""What can be asked of the records, and what is answered. Nothing here needs a database."""

from __future__ import annotations

import json
from typing import Any

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
    without_model: str = ""
    """A model whose jobs are left out: its name."""
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
        return self.confirmed.latency if self.confirmed is not None else self.trial.latency


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


class Similar(Struct, frozen=True, kw_only=True):
    """Trials of a task that is like another one, or the same."""

    task: str
    """Its key."""
    workload: bytes
    """That their schedules are made for."""
    target: str
    found: list[Found]
    """Of one format, and where several conditions are told apart of the same ones."""


class Best(Struct, frozen=True, kw_only=True):
    """The fastest schedule of a task that a job found which was done, and how well the task was searched."""

    found: Found
    searched: float
    """Trials of the task by a job that was done, by that engine, under the same conditions, or of a task of
    that job on average, if that is more; of several such jobs by the one that searched most."""
    untuned: float
    """Latency without tuning, in seconds, as that job measured it."""


class Memory(Struct, frozen=True, kw_only=True):
    """What a search of a task can begin with."""

    seen: list[str] = []
    """Hashes of all schedules that were tried under the conditions that were asked for, by this database's
    own mesh; whatever came of them."""
    here: list[Similar] = []
    """Of those that were measured."""
    elsewhere: list[Similar] = []
    """By the conditions that they were measured under."""

    @property
    def tried(self) -> bool:
        """Whether anything was measured of the task."""
        return bool(self.here or self.elsewhere)


class Prior(Struct, frozen=True, kw_only=True):
    """A cost model that was fitted to records, and how well it ranks the schedules of tasks that it was not
    fitted to: :class:`~stage_workers.engines.protocol.Quality`."""

    id: str
    family: str
    engine: str
    data: bytes
    used: bool
    """Not where it ranked worse than the one before."""
    trials: int
    """That it was fitted to."""
    tasks: int
    held_out: int
    """Tasks that it was tried on."""
    correlation: float
    top1: float
    top8: float
    at: float


def family_of(target: str) -> str:
    """Of the devices that a canonical target is for: what is fast on one of them is fast on the others."""
    described = _described(target)
    if described is None:
        return target
    names = (described.get(each) for each in ("kind", "mtriple", "mcpu", "arch"))
    return " ".join(name for name in names if isinstance(name, str))


def main_of(operator: str) -> str:
    """What an operator does beside what is fused behind it: ``conv2d`` of ``fused_conv2d_add_relu``."""
    return operator.removeprefix("fused_").partition("_")[0]


def kind_of(target: str) -> str:
    """Of a canonical target: ``llvm``. A schedule for one CPU can be made to fit another."""
    described = _described(target)
    return target if described is None else str(described.get("kind", target))


def _described(target: str) -> dict[str, Any] | None:
    """A canonical target as TVM describes it; ``None`` for those that are a name, as the mock engine's."""
    try:
        described = json.loads(target)
    except ValueError:
        return None
    return described if isinstance(described, dict) else None
