"""The core among liars: workers and clients whose messages are right by form, and mean nothing.

2,000 random worlds, 250 in each of eight cases. In each the results of one job, ``bad``, are spoilt in any
field or replaced altogether, and statuses and requests come from strangers. No exception leaves the core,
none is contained in it either, no job hangs, and the other job, ``good``, ends with exactly its trials.
"""

from __future__ import annotations

import random
from typing import get_args

import msgspec
import pytest

from tests.unit import random_values
from tests.unit.test_core import learned, trials
from tests.unit.world import World, request
from tunemesh.coordinator.events import Arrived, WorkerSeen
from tunemesh.shared import codec
from tunemesh.shared.messages import (
    Cancel,
    Query,
    Request,
    Result,
    SetStrategy,
    Step,
    StepResult,
    WorkerStatus,
)

RESULTS = get_args(Result)
WORLDS = 250
KILLS = 0.02


class Liars(World):
    """A world in which some results of the job ``bad`` are spoilt."""

    rate = 0.1

    def result(self, worker: object, step: Step) -> StepResult:
        right = super().result(worker, step)  # type: ignore[arg-type]
        if step.job != "bad" or self.rng.random() > self.rate:
            return right
        if self.rng.random() < 0.2:
            fields = {"result": random_values.struct(self.rng.choice(RESULTS), self.rng)}
            wrong = msgspec.structs.replace(right, **fields)
        else:
            wrong = random_values.mutated(right, self.rng)
        return codec.decode(codec.encode(wrong), StepResult)

    def stranger(self) -> None:
        """Somebody else says something."""
        kind = self.rng.randrange(4)
        if kind == 0:
            status = random_values.struct(WorkerStatus, self.rng)
            targets = [f"not {each}" for each in status.serves.targets]
            serves = msgspec.structs.replace(status.serves, targets=targets)
            self.give(WorkerSeen(msgspec.structs.replace(status, serves=serves)))
        elif kind == 1:
            asked = random_values.struct(Request, self.rng)
            self.publish(msgspec.structs.replace(asked, job="other", target="no such device"))
        elif kind == 2:
            self.publish(Cancel(job=self.rng.choice(["other", "nobody"]), keep=self.rng.random() < 0.5))
        else:
            asks = random_values.struct(self.rng.choice([Query, SetStrategy]), self.rng)
            self.give(Arrived(next(self.ids) + 10**9, asks, "client.x", "c"))


@pytest.mark.parametrize("case", range(8))
def test_whatever_is_sent_the_core_goes_on_and_the_other_jobs_are_right(case: int) -> None:
    ends: dict[str, int] = {}
    for number in range(WORLDS):
        seed = case * WORLDS + number
        rng = random.Random(seed)
        strategy = rng.choice(["interleaved", "predictive", "fair", "sequential"])
        world = Liars(tasks=rng.randint(1, 3), strategy=strategy, rng=rng)
        world.rate = rng.choice([0.02, 0.1, 0.5, 1.0])
        good, bad = rng.randint(1, 24), rng.randint(1, 24)
        world.publish(request("good", trials=good, batch=8, chunk=4))
        world.publish(request("bad", trials=bad, batch=8, chunk=4))
        for _ in range(rng.randint(0, 6)):
            for _ in range(rng.randint(0, 60)):
                world.turn()
            world.stranger()
            if rng.random() < KILLS:
                world.start_coordinator()
        world.run("good", "bad")
        assert world.ledger("good").phase == "done", f"seed {seed}: {world.ledger('good').error}"
        assert trials(world.ledger("good")) == learned(world.ledger("good")) == good, f"seed {seed}"
        ends[world.ledger("bad").phase] = ends.get(world.ledger("bad").phase, 0) + 1
    # Some lies go unnoticed, some fail the job: both must have been tried.
    assert ends.get("failed", 0) > WORLDS / 10, ends
    assert ends.get("done", 0) > WORLDS / 10, ends
