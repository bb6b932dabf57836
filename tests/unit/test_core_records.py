"""Jobs that share tasks and write down what they measure, while anything is killed and the database is away,
locked or full: nothing is lost, nothing is there twice, and what was written stays as it is.

``TUNEMESH_CHAOS_WORLDS=100`` tries a hundred worlds, with a thousand kills and more, of which
``-o log_cli=true --log-cli-level=INFO`` tells."""

from __future__ import annotations

import logging
import os
import random
from pathlib import Path
from typing import cast

import msgspec
import pytest

from tests.unit.recorded_world import RecordedWorld, Trials
from tests.unit.world import request
from tunemesh import record_exchange
from tunemesh.client import Client
from tunemesh.coordinator.jobs import sharing
from tunemesh.coordinator.jobs.ledger import Ledger
from tunemesh.results import histories
from tunemesh.shared.messages import Cancel, Request
from tunemesh.stage_workers.records.database import Database

log = logging.getLogger(__name__)

WORLDS = range(int(os.environ.get("TUNEMESH_CHAOS_WORLDS", "0"))) or [0, 16, 49]
"""Two of them have found something."""
TURNS = 400
"""In which things are killed; jobs take some more."""
KILLED, TROUBLED, CANCELLED, LATER = 0.03, 0.02, 0.1, 0.5
"""How often, per turn; and shares of the jobs."""
STRATEGIES = ["interleaved", "fair:a=3", "predictive"]


def asked(world: RecordedWorld, job: str, rng: random.Random) -> Request:
    """Of two or three tasks of four, so that any two jobs have some in common."""
    tasks = rng.sample("abcd", rng.randint(2, 3))
    lines = "".join(f"  - {{name: {task}, space: 300}}\n" for task in sorted(tasks))
    model = f"tasks:\n{lines}failures: {{build-error: {{indices: [3, 11]}}}}\n"
    known = rng.choice(["first", "first", "never"])
    made = request(
        job, rng.randint(8, 40), shared=True, batch=8, chunk=4, repeats=1, known=known, max_age=36_500
    )
    return msgspec.structs.replace(made, model=world.store.put(model.encode()))


@pytest.mark.parametrize("seed", WORLDS)
def test_whatever_is_killed_every_trial_is_recorded_once(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    world = RecordedWorld(tmp_path, rng.choice(STRATEGIES), rng)
    jobs = {name: asked(world, name, rng) for name in "abcde"[: rng.randint(2, 5)]}
    starts = {name: rng.randrange(1, TURNS) if rng.random() < LATER else 0 for name in jobs}
    stops = {name: rng.randrange(1, TURNS) for name in jobs if rng.random() < CANCELLED}
    seen: dict[str, Trials] = {}
    for turn in range(TURNS):
        for name in jobs:
            if turn == starts[name]:
                world.publish(jobs[name])
            if turn == stops.get(name):
                world.publish(Cancel(job=name, keep=rng.random() < 0.5))
        if rng.random() < KILLED:
            world.strike(rng.randrange(len(world.workers) + 1))
        if rng.random() < TROUBLED:
            world.trouble(rng.choice(["", "away", "locked", "full"]))
        if turn == TURNS // 2:
            world.trouble("")
            seen = world.recorded()
        world.turn()
    world.trouble("")
    world.run(*jobs)
    assert world.kills > TURNS * KILLED / 3
    log.info("%d kills", world.kills)

    # Whatever could not be written is written later, from the histories.
    with Database(world.address) as database:
        synced = list(record_exchange.sync(cast(Client, world), world.store, database))
        assert [each.error for each in synced] == [""] * len(jobs)
        again = record_exchange.sync(cast(Client, world), world.store, database)
        assert {each.new for each in again} == {0}
    recorded = world.recorded()
    for name, ledger in ((name, world.ledger(name)) for name in jobs):
        assert len(recorded.get(name, {})) == sum(task.trials for task in ledger.tasks)
        if name not in stops:
            assert ledger.phase == "done", ledger.error
        if ledger.phase == "done":
            check(world, ledger, recorded)
    for name, trials in seen.items():
        assert trials.items() <= recorded[name].items()


def check(world: RecordedWorld, ledger: Ledger, recorded: dict[str, Trials]) -> None:
    """All tasks of a job have ended, and its trials are counted once, and recorded for whoever made them."""
    assert all(task.closed for task in ledger.tasks)
    assert ledger.assembled is not None
    tried = []
    for history in histories(world.store, ledger.assembled):
        assert history.origin is not None
        # A round that was cut before it began has a history, too, without trials.
        rows = recorded.get(history.origin.job, {})
        of_job = {name: latencies for (_, name), latencies in rows.items()}
        for trial in history.trials:
            assert of_job[trial.candidate.hash] == trial.latencies
            tried.append(trial.candidate.hash)
    assert len(tried) == len(set(tried))
    own = sum(task.trials for task in ledger.tasks)
    known = [task for task in ledger.tasks if task.round < 0 and task.taken is None]
    counted = sum(sharing.total(task) for task in ledger.tasks)
    assert len(tried) == counted + len(known)
    assert own <= ledger.request.level.trials
    if not ledger.stopped and len(known) < len(ledger.tasks):
        assert counted >= ledger.request.level.trials
