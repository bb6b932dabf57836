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
from tunemesh.coordinator.events import Arrived, Garbled, Unreadable, WorkerSeen
from tunemesh.shared import codec
from tunemesh.shared.messages import (
    Cancel,
    Failure,
    ProfileDone,
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
            asks = random_values.struct(self.rng.choice([Query, SetStrategy, Cancel, Request]), self.rng)
            tenant = self.rng.choice(
                ["", "acme"] if isinstance(asks, Cancel | Request) else [None, "", "acme"]
            )
            number = next(self.ids) + 10**9
            self.give(Arrived(number, asks, "client.x", "c", "somebody", tenant))
            self.give(Garbled(number + 10**9, "garbage", tenant))


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


class Forgers(World):
    """A world in which a worker answers for steps that it was not given."""

    def forge(self) -> None:
        """For a step that some other worker has, or one that is due to come."""
        doing = [(w, w.doing[1]) for w in self.workers if w.doing is not None]
        waiting = [(w, step) for w in self.workers for _, step in self.stage[w.queue]]
        if not doing + waiting:
            return
        worker, step = self.rng.choice(doing + waiting)
        forged = self.result(worker, step)
        kind = self.rng.randrange(5)
        if isinstance(forged.result, ProfileDone) and kind == 4:
            quick = [msgspec.structs.replace(each, latencies=[1e-6]) for each in forged.result.profiled]
            forged = msgspec.structs.replace(
                forged, result=msgspec.structs.replace(forged.result, profiled=quick)
            )
        elif kind == 0:
            done = random_values.struct(self.rng.choice(RESULTS), self.rng)
            forged = msgspec.structs.replace(forged, result=done)
        elif kind == 1:
            forged = msgspec.structs.replace(forged, result=Failure(error="forged"))
        elif kind == 2:
            forged = random_values.mutated(forged, self.rng)
        # It knows the nonces of its own steps, and those of a job of its own.
        nonces = ["", "0" * 32, *(other.nonce for _, other in doing + waiting if other.id != step.id)]
        nonce = self.rng.choice(nonces)
        if nonce == step.nonce:
            return
        self.forged += 1
        if kind == 3:
            self.give(Unreadable(step.id, "forged", nonce))
            return
        self.publish(msgspec.structs.replace(forged, nonce=nonce))

    forged = 0


@pytest.mark.parametrize("case", range(2))
def test_nobody_answers_for_a_step_that_another_has(case: int) -> None:
    """Whatever is forged, the job ends as it would without, with each candidate measured once."""
    forged = 0
    for number in range(30):
        rng = random.Random(case * 1000 + number)
        world = Forgers(tasks=rng.randint(1, 3), strategy=rng.choice(["interleaved", "fair"]), rng=rng)
        budget = rng.randint(1, 24)
        world.publish(request("good", trials=budget, batch=8, chunk=4))
        world.publish(request("other", trials=8, batch=8, chunk=4))
        for _ in range(rng.randint(10, 150)):
            world.turn()
            world.forge()
            if rng.random() < KILLS / 2:
                world.strike(rng.randrange(len(world.workers) + 1))
        world.run("good", "other")
        for job, most in (("good", budget), ("other", 8)):
            ledger = world.ledger(job)
            assert ledger.phase == "done", f"{case * 1000 + number}: {ledger.error}"
            assert trials(ledger) == learned(ledger) == most
            assert all(outcome in ("measured",) for task in ledger.tasks for outcome in task.outcomes)
        # Nothing runs in less than a second here.
        assert all(task.best >= 1.0 for task in world.ledger("good").tasks if task.best is not None)
        forged += world.forged
    assert forged > 500


def test_a_nonce_holds_across_a_restart_and_says_nothing_of_others() -> None:
    world = World(tasks=1)
    world.publish(request(trials=8))
    while not world.stage["build-cpu"]:
        world.turn()
    _, step = world.stage["build-cpu"].pop()
    assert len(step.nonce) == 32
    done = world.result(world.workers[1], step)
    world.start_coordinator()  # another seed
    world.settle()
    world.pass_time(10.0)
    sent = [each for queue in world.stage.values() for _, each in queue if each.id == step.id]
    assert {each.nonce for each in sent} <= {step.nonce}
    world.publish(done)
    before = len(world.dead)
    while world.deliver():
        pass
    assert len(world.dead) == before
    again = World(tasks=1, seed="drawn again at ")
    again.publish(request(trials=8))
    while not again.stage["build-cpu"]:
        again.turn()
    assert again.stage["build-cpu"][0][1].nonce != step.nonce
