"""What is known of one network, as it is written to ``OUT/<network>.json``."""

from __future__ import annotations

from msgspec import Struct

from benchmarks.peers.shares import Share
from tunemesh.comparing.limits import Limits
from tunemesh.report import Compared


class Version(Struct, frozen=True, kw_only=True):
    """A result of ours.

    Attributes:
        name: ``tuned``, or that of a variant.
        options: those of ``tunemesh tune`` by which it differs.
        latency_s: the median over the turns.
        untuned_s: of the untuned model, from the report.
        ratio: its latency over that of ``tuned``: the median of the ratios within a turn.
        difference: the largest absolute one between its outputs and those of ``tuned``.
        trials: candidates that were tried.
        wall_s: from acceptance to the end of its job.
        rejected: whether the tuned model was slower than the untuned one, which is there instead.
    """

    name: str
    options: list[str]
    latency_s: float
    untuned_s: float
    ratio: float
    difference: float
    trials: int
    wall_s: float
    rejected: bool


class Result(Struct, frozen=True, kw_only=True):
    """A network: what was tuned, beside what, and how far each task is from the limits."""

    network: str
    machine: dict[str, str | int | float]
    limits: Limits
    tuned: Version
    variants: list[Version]
    compared: list[Compared]
    shares: list[Share]
    """Of the tasks of ``tuned``."""
