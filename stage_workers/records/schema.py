"""The tables as the newest version of the schema has them; :mod:`.migrations` makes them."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

METADATA = MetaData()

ABOUT = Table(
    "about",
    METADATA,
    Column("name", String, primary_key=True),
    Column("value", String, nullable=False),
)
"""The database itself: ``id``, and the ``version`` of its schema."""


def _id(name: str = "id") -> Column[str]:
    return Column(name, String, primary_key=True)


def _name(name: str) -> Column[str]:
    return Column(name, String, nullable=False)


def _number(name: str, nullable: bool = False) -> Column[float]:
    return Column(name, Double, nullable=nullable)


TASKS = Table("tasks", METADATA, _id("key"), _name("name"), _name("operator"), _name("target"))

WORKLOADS = Table(
    "workloads", METADATA, _id(), _name("task"), Column("data", LargeBinary, nullable=False),
    Index("workloads_by_task", "task"),
)  # fmt: skip

CONDITIONS = Table(
    "conditions",
    METADATA,
    _id(),
    _name("device"),
    _name("versions"),
    Column("cache_flush", Boolean, nullable=False),
    _number("reference"),
)

JOBS = Table(
    "jobs",
    METADATA,
    _id(),
    _name("job"),
    _number("accepted"),
    _name("tenant"),
    _name("model"),
    _name("source"),
    _name("visibility"),
)

TRIALS = Table(
    "trials",
    METADATA,
    _id(),
    _name("task"),
    _name("job"),
    _name("engine"),
    Column("format", Integer, nullable=False),
    _name("hash"),
    _name("workload"),
    Column("schedule", LargeBinary, nullable=False),
    _name("outcome"),
    _number("latency", nullable=True),
    Column("latencies", Text, nullable=False),
    _number("drift"),
    Column("attempts", Integer, nullable=False),
    Column("cut_short", Boolean, nullable=False),
    Column("error", Text, nullable=False),
    _name("conditions"),
    _number("at"),
    # Of a task the fastest, and of those the ones measured under the same conditions.
    Index("trials_by_speed", "task", "latency"),
    Index("trials_by_conditions", "task", "conditions", "latency"),
    Index("trials_by_job", "job"),
    Index("trials_by_time", "at"),
)

CONFIRMATIONS = Table(
    "confirmations",
    METADATA,
    _id(),
    _name("trial"),
    _name("task"),
    _number("latency"),
    Column("latencies", Text, nullable=False),
    _name("conditions"),
    _number("at"),
    Index("confirmations_by_speed", "task", "latency"),
    Index("confirmations_by_trial", "trial"),
)

BASELINES = Table(
    "baselines", METADATA, _id(), _name("task"), _name("job"), _number("latency"), _number("at"),
    Index("baselines_by_task", "task"),
)  # fmt: skip

RESULTS = Table(
    "results",
    METADATA,
    _id(),
    _name("job"),
    _name("target"),
    _number("latency_before"),
    _number("latency_after"),
    Column("equal", Boolean, nullable=False),
    Column("wrong", Text, nullable=False),
    _number("drift"),
    _name("conditions"),
    _number("at"),
    Index("results_by_job", "job"),
)

PRIORS = Table(
    "priors",
    METADATA,
    _id(),
    _name("family"),
    _name("engine"),
    Column("data", LargeBinary, nullable=False),
    Column("used", Boolean, nullable=False),
    Column("trials", Integer, nullable=False),
    Column("tasks", Integer, nullable=False),
    Column("held_out", Integer, nullable=False),
    _number("correlation"),
    _number("top1"),
    _number("top8"),
    _number("at"),
    Index("priors_by_family", "engine", "family", "at"),
)

# -- How jobs ended, which is no part of what is exchanged --------------------------------------------------

HISTORY = Table(
    "history",
    METADATA,
    _id(),
    _name("job"),
    _number("accepted"),
    _number("finished"),
    _name("phase"),
    _name("name"),
    _name("tenant"),
    _name("target"),
    Column("trials", BigInteger, nullable=False),
    _number("before", nullable=True),
    _number("after", nullable=True),
    Column("error", Text, nullable=False),
    _name("asked_by"),
    _name("cancelled_by"),
    _number("cancelled_at", nullable=True),
    Index("history_by_time", "finished"),
    Index("history_by_job", "job"),
)

ENDINGS = Table("endings", METADATA, _id(), Column("event", LargeBinary, nullable=False))
"""The last that was told of a job, as long as its results are kept."""
