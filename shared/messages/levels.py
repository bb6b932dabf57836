"""What a client asks for beside the model: its service level."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from tunemesh.shared.messages.basics import MOST_REGIONS, Count, Seconds

Cost = Annotated[float, Meta(ge=0, le=1e18)]
"""In whatever currency the prices of the mesh are."""

MOST_TRIALS = 1_000_000
AUTO = 0
"""Instead of a number of trials: as many as pay."""

Class = Literal["gold", "standard", "spare"]

Effort = Literal["instant", "quick", "full"]

CANDIDATES: dict[Effort, int] = {"instant": 1, "quick": 8}
"""Candidates of each task that a job with less than full effort tries, all at once. Where several engines
take a task they share them out; one candidate is that of the first of them."""

CONFIRMED: dict[Effort, int] = {"instant": 0, "quick": 2, "full": 4}
"""Candidates of a search that are measured again at its end, at most."""

CLASS_WEIGHT: dict[Class, float] = {"gold": 4.0, "standard": 1.0, "spare": 0.25}
"""What the priority of a job is multiplied by under the strategy ``fair``."""


class Level(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a job has to reach, and what it may take. All of it is optional. The options of the command line
    are made from the fields: a ``description`` is the help text."""

    effort: Annotated[
        Effort,
        Meta(
            description="instant: one candidate per task, chosen by what is known of similar tasks,"
            " is run to check what it computes, and nothing is measured but the model at the end."
            " quick: eight candidates per task, measured. full: as many as --trials says."
        ),
    ] = "full"
    trials: Annotated[int, Meta(ge=0, le=MOST_TRIALS)] = AUTO
    """Budget of the whole job. 0: as many as the model needs, which is known once it is imported."""
    patience: Annotated[
        Annotated[float, Meta(ge=0, le=1)] | None,
        Meta(
            description="A task gets no more trials when one more is expected to take less than this share"
            " off the latency of the model; 0: never. By default 0.0005 where the number of trials is left to"
            " the model, else 0."
        ),
    ] = None
    latency_s: Annotated[
        Annotated[float, Meta(gt=0, le=1e9)] | None,
        Meta(description="Seconds that one run of the model may take: once that is reached, the job ends."),
    ] = None
    speedup: Annotated[
        Annotated[float, Meta(gt=0, le=1e6)] | None,
        Meta(description="Times as fast as untuned: once that is reached, the job ends."),
    ] = None
    deadline: Annotated[
        Annotated[float, Meta(gt=0, le=1e8)] | None,
        Meta(description="Seconds after which the job is to have ended, with the best found so far."),
    ] = None
    device_seconds: Annotated[
        Annotated[float, Meta(gt=0, le=1e9)] | None,
        Meta(description="Seconds of a device that the job may take, the final measurement included."),
    ] = None
    cost: Annotated[
        Annotated[float, Meta(gt=0, le=1e12)] | None,
        Meta(description="What the job may cost, by the prices of the mesh."),
    ] = None
    shared: Annotated[
        bool,
        Meta(
            description="Whether its tasks may be tuned together with those of other jobs that run at the"
            " same time; without it the job neither gives nor takes."
        ),
    ] = True
    class_: Annotated[
        Class,
        Meta(
            description="gold, standard or spare: under strategy fair a gold job gets 4 times what a standard"
            " one of its tenant gets, a spare one a quarter. Where the coordinator keeps devices for gold"
            " (--reserve), a spare job has one only while nobody else waits for it."
        ),
    ] = field(default="standard", name="class")

    split: Annotated[
        int,
        Meta(
            ge=1,
            le=MOST_REGIONS,
            description="Searches of each task that run side by side, each in a part of its space that the"
            " others leave out. With more than one, a job that has several devices to itself ends sooner, and"
            " finds a little less with as many trials.",
        ),
    ] = 1

    quote_only: bool = False
    """End after the quote: nothing is tried."""

    def problem(self) -> str:
        """Why it contradicts itself, in one line; nothing if it does not."""
        if self.effort != "full" and self.trials != AUTO:
            each = CANDIDATES[self.effort]
            return (
                f"--level {self.effort} tries {each} of each task: leave --trials out, or take --level full"
            )
        if self.effort != "full" and self.split > 1:
            return f"--level {self.effort} has nothing to split: leave --split out, or take --level full"
        return ""

    @property
    def has_goal(self) -> bool:
        """Whether there is something to be met, beside a number of trials."""
        return self.has_limit or self.latency_s is not None or self.speedup is not None

    @property
    def has_limit(self) -> bool:
        """Whether time, or what the job takes of the mesh, may end it, whatever it has found."""
        return any(limit is not None for limit in (self.deadline, self.device_seconds, self.cost))


class Quote(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a job is expected to take, said once its model is imported and before anything is tried."""

    tasks: Count
    known: Count = 0
    """Of these, that an earlier job has tuned."""
    shared: Count = 0
    """Of these, that another job tunes at this moment, or has just tuned."""
    trials: Count
    """That it may try."""
    seconds: Seconds
    """From now to its end, within its deadline."""
    device_seconds: Seconds
    """Of these, on devices, within its budget."""
    cost: Cost | None = None
    """By the prices of the mesh; ``None``: it has none."""
    chance: Annotated[float, Meta(ge=0, le=1)] | None = None
    """To meet the deadline; ``None`` where there is none."""


class Standing(Struct, frozen=True, kw_only=True):
    """Whether a job that has ended gave what its service level asks for."""

    verdict: Literal["met", "missed", "impossible"]
    reason: str
    """For people: each goal with what came of it."""
