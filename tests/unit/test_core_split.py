"""Tasks that are searched by several updates at once, each in a region of the space."""

from __future__ import annotations

import random
from collections import Counter

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.test_core import learned, trials
from tests.unit.test_core_sharing import ENDS, endings
from tests.unit.world import BLOB, World, request
from tunemesh.coordinator.events import Arrived, Dispatch, Log, Save, Tell
from tunemesh.coordinator.jobs import progress, searches, sharing
from tunemesh.coordinator.jobs.ledger import TaskLedger
from tunemesh.coordinator.journal.records import Entry
from tunemesh.coordinator.journal.replay import replay
from tunemesh.coordinator.simulation import Scenario, simulate
from tunemesh.coordinator.simulation.scenario import Spread
from tunemesh.report import make_report
from tunemesh.shared.messages import ImportDone, Level, Region, StepResult, TaskSpec, UpdateDone, UpdateWork
from tunemesh.stage_workers.graph.signatures import Signatures

DEVICES = tuple(f"profile-cpu-{number}" for number in range(4))
WIDE = ("model-update", "model-update", "build-cpu", "build-cpu", *DEVICES)


def proposals(world: World) -> dict[str, set[str]]:
    """Hashes of the candidates that updates have proposed, by step."""
    asked = {each.step.id: each.step.work for each in world.log if isinstance(each, Dispatch)}
    found: dict[str, set[str]] = {}
    for each in world.records:
        message = each.event.message if isinstance(each, Entry) and isinstance(each.event, Arrived) else None
        if isinstance(message, StepResult) and isinstance(message.result, UpdateDone):
            work = asked[message.timing.step]
            if isinstance(work, UpdateWork) and work.want:
                found[message.timing.step] = {one.hash for one in message.result.candidates}
    return found


def split_world(**changes: object) -> World:
    return World(queues=WIDE, **changes)  # type: ignore[arg-type]


def test_each_region_has_a_search_of_its_own_and_the_first_updates_go_out_together() -> None:
    world = split_world(tasks=1)
    world.publish(request("job", 128, split=4, batch=8))
    while not ("job" in world.core.jobs and world.ledger("job").phase == "tuning"):
        before = len(world.log)
        world.turn()
    ledger = world.ledger("job")
    assert [(task.spec.id, task.spec.region) for task in ledger.tasks] == [
        ("t00", Region(0, 4)),
        ("t00.1", Region(1, 4)),
        ("t00.2", Region(2, 4)),
        ("t00.3", Region(3, 4)),
    ]
    assert len({task.spec.key for task in ledger.tasks}) == 1
    acts = [each for each in world.log[before:] if not isinstance(each, Log | Tell)]
    quoted, granted = (each.ledger for each in acts if isinstance(each, Save))
    assert [task.round for task in quoted.tasks] == [-1] * 4
    assert acts == [Save(quoted), Save(granted)]
    assert [(task.round, task.want) for task in granted.tasks] == [(0, 8)] * 4
    before = len(world.log)
    while sum(isinstance(each, Dispatch) for each in world.log[before:]) < 2:
        world.turn()
    steps = [each.step for each in world.log[before:] if isinstance(each, Dispatch)]
    # The queue has two workers: the others follow when these are free.
    assert [step.work for step in steps] == [
        UpdateWork(task=task.spec, want=8, chunk_size=1) for task in ledger.tasks[:2]
    ]


def test_no_candidate_is_tried_twice_and_all_devices_have_work() -> None:
    world = split_world(tasks=1, rng=random.Random(5))
    world.publish(request("job", 128, split=4, batch=8))
    world.run("job")
    ledger = world.ledger("job")
    assert ledger.phase == "done"
    assert trials(ledger) == learned(ledger) == 128
    used = Counter(each.queue for each in world.log if isinstance(each, Dispatch))
    assert all(used[device] > 4 for device in DEVICES)


def test_a_region_holds_only_its_own_candidates() -> None:
    world = split_world(tasks=2, rng=random.Random(6))
    world.publish(request("job", 128, split=3, batch=8))
    world.run("job")
    for task in world.ledger("job").tasks:
        assert task.spec.region is not None
        names = [name for blob in task.history for name in (blob.data or b"").decode().split()]
        assert {int(name.rpartition("/")[2]) % 3 for name in names} == {task.spec.region.number}


def test_the_untuned_workload_is_measured_once() -> None:
    world = split_world(tasks=2)
    world.publish(request("job", 200, split=4, batch=8))
    world.run("job")
    steps = {each.step.id: each.step.work for each in world.log if isinstance(each, Dispatch)}
    baselines = [name for name, work in steps.items() if getattr(work, "baseline", False)]
    assert baselines == ["job/t00/0/0/profile", "job/t01/0/0/profile"]


def test_the_task_is_told_as_one_with_what_each_region_found() -> None:
    world = split_world(tasks=1)
    world.publish(request("job", 128, split=4, batch=8))
    world.run("job")
    ledger = world.ledger("job")
    (task,) = progress.progress(world.core.jobs["job"]).tasks
    assert (task.id, task.trials) == ("t00", 128)
    (search,) = task.searches
    assert (search.engine, search.regions, search.trials) == ("mock", 4, 128)
    confirmed = [each.best for each in ledger.tasks if each.confirmed and each.best is not None]
    assert task.best == search.best == min(confirmed)


@pytest.mark.parametrize(
    ("split", "trials_", "able", "found", "note"),
    [
        (4, 400, 16, 4, ""),
        (1, 400, 16, 1, ""),
        (
            4,
            100,
            16,
            3,
            "each space is searched in 3 parts instead of 4: 100 trials of 2 searches give no more",
        ),
        (4, 40, 16, 1, "each space is searched as a whole: 40 trials of 2 searches give no more"),
        (4, 400, 2, 2, ""),
        (4, 400, 1, 1, "2 of 2 spaces are searched as a whole: mock cannot split"),
    ],
)
def test_a_job_is_split_as_far_as_that_makes_sense_and_says_so(
    split: int, trials_: int, able: int, found: int, note: str
) -> None:
    world = split_world(tasks=2, regions=able)
    world.publish(request("job", trials_, split=split, batch=8))
    world.run("job")
    assert len(world.ledger("job").tasks) == 2 * found
    assert progress.progress(world.core.jobs["job"]).note == note
    quotes = [each.text for each in world.events if each.text.startswith("quote: 2 tasks")]
    assert quotes
    assert all(text.endswith(f"; {note}") for text in quotes) or not note


def test_the_report_says_once_what_was_not_split() -> None:
    world = split_world(tasks=2, regions=1)
    world.publish(request("job", 400, split=4, batch=8))
    world.run("job")
    job = world.core.jobs["job"]
    assert job.ledger.validated is not None
    assert job.ledger.assembled is not None
    made = msgspec.structs.replace(job.ledger.assembled, notes=["another"])
    report = make_report(progress.progress(job), job.ledger.validated, Signatures(variants=[]), [], made)
    assert report.notes == ["2 of 2 spaces are searched as a whole: mock cannot split", "another"]
    assert [each.regions for task in report.tasks for each in task.searches] == [1, 1]


def test_what_is_known_is_not_split() -> None:
    ledgers = [TaskLedger(spec=_spec("t00"), closed=True), TaskLedger(spec=_spec("t01"))]
    found = searches.divided(ledgers, 4, 100, 100)
    assert [task.spec.id for task in found.ledgers] == ["t00", "t01", "t01.1", "t01.2", "t01.3"]
    assert found.note == ""


def test_no_more_searches_than_a_ledger_can_hold() -> None:
    ledgers = [TaskLedger(spec=_spec(f"t{number:03}")) for number in range(200)]
    assert len(searches.divided(ledgers, 16, 1_000_000, 100).ledgers) == 400
    assert len(searches.divided(ledgers, 16, 1_000_000, 1).ledgers) == 200


def test_names_that_others_have_are_given_to_nobody_else() -> None:
    ledgers = [
        TaskLedger(spec=_spec("t00")),
        TaskLedger(spec=msgspec.structs.replace(_spec("t01"), id="t00.1")),
    ]
    found = searches.divided(ledgers, 2, 100, 100)
    assert (found.ledgers, found.note[:17]) == (ledgers, "no space is split")
    long = TaskLedger(spec=msgspec.structs.replace(_spec("t00"), id="t" * 60))
    assert searches.divided([long], 2, 100, 100).ledgers == [long]


def test_a_worker_does_not_say_where_is_searched() -> None:
    spec = msgspec.structs.replace(_spec("t00"), region=Region(0, 2))
    done = ImportDone(model=BLOB, tasks=[spec])
    assert done.problem(["mock"]) == (
        "it says in which region t00 is to be searched, which is for the coordinator to say"
    )


def test_jobs_that_are_split_alike_share_their_regions() -> None:
    world = split_world(tasks=2, rng=random.Random(1))
    for name in "ab":
        world.publish(request(name, 128, shared=True, split=4, batch=8))
    world.run("a", "b")
    first, second = world.ledger("a"), world.ledger("b")
    assert [first.phase, second.phase] == ["done", "done"]
    assert trials(first) + trials(second) == 128
    other = msgspec.structs.replace(_spec("t00"), region=Region(0, 4))
    assert sharing.same_of(request(shared=True), _spec("t00")) != sharing.same_of(request(shared=True), other)


def test_few_candidates_of_each_task_are_nothing_to_split() -> None:
    assert Level(effort="quick", split=2).problem() == (
        "--level quick has nothing to split: leave --split out, or take --level full"
    )


def test_a_region_that_is_behind_leaves_the_trials_to_the_others() -> None:
    world = split_world(tasks=1, space=40)
    world.publish(request("job", 128, split=4, batch=8))
    world.run("job")
    ledger = world.ledger("job")
    assert ledger.phase == "done"
    assert trials(ledger) == learned(ledger) == 40
    assert all(task.exhausted for task in ledger.tasks)


@pytest.mark.parametrize("strategy", ["interleaved", "fair:a=3", "predictive", "sequential"])
@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    split=st.integers(2, 5),
    tasks=st.integers(1, 3),
    count=st.integers(32, 200),
    moment=st.integers(0, 400),
    how=st.sampled_from(ENDS),
    kills=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 8)), max_size=6),
    space=st.sampled_from([30, 10_000]),
)
def test_whatever_is_killed_no_trial_is_lost_or_made_twice(
    strategy: str,
    seed: int,
    split: int,
    tasks: int,
    count: int,
    moment: int,
    how: str,
    kills: list[tuple[int, int]],
    space: int,
) -> None:
    world = split_world(tasks=tasks, strategy=strategy, rng=random.Random(seed), space=space)
    world.publish(request("a", count, split=split, batch=8, chunk=2))
    endings(world, [(moment, "a", how)], kills)
    world.run("a")
    ledger = world.ledger("a")
    proposed = proposals(world)
    assert sum(map(len, proposed.values())) == len(set().union(*proposed.values()))
    assert trials(ledger) <= count
    if ledger.phase == "done":
        assert trials(ledger) == learned(ledger)
    if how == "nothing":
        assert ledger.phase == "done"
        assert trials(ledger) == min(count, space * tasks)
    assert list(replay(world.records)) == []


def test_four_devices_end_sooner_with_four_searches() -> None:
    """One task, whose updates take as long as its batch: with one search the devices wait for it."""
    scenario = Scenario(
        jobs=1,
        tasks=1,
        devices=4,
        builders=4,
        updaters=4,
        trials=256,
        batch=32,
        durations={
            "import": Spread(median=1.0),
            "model-update": Spread(median=2.0),
            "build": Spread(median=0.2, sigma=0.3),
            "profile": Spread(median=0.25, sigma=0.3),
        },
    )
    whole, parts = simulate(scenario), simulate(scenario, split=4)
    assert parts.makespan < 0.7 * whole.makespan


def _spec(name: str) -> TaskSpec:
    key = f"{int(name[1:]):064x}"
    return TaskSpec(
        id=name, name="t", key=key, weight=1, engine="mock", workload=BLOB, untuned=BLOB, regions=16
    )
