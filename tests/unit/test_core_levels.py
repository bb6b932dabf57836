"""Service levels: a job ends as soon as it has what it asks for, or when its time or a budget is spent; what
it was quoted and what is said of it at the end are true."""

from __future__ import annotations

import random
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.test_core import trials
from tests.unit.world import FakeWorker, World, request
from tunemesh.coordinator.events import Acknowledge, Arrived, Dispatch, Tell
from tunemesh.coordinator.jobs import levels, prices, progress, sharing
from tunemesh.coordinator.jobs.allocation import IN_TIME
from tunemesh.coordinator.jobs.job import Job
from tunemesh.coordinator.jobs.rest import DELAY, Mesh, Rest
from tunemesh.coordinator.journal.replay import replay
from tunemesh.coordinator.simulation import world as simulation
from tunemesh.coordinator.simulation.scenario import Scenario, load_scenario
from tunemesh.shared.messages import (
    BuildWork,
    Cancel,
    JobEvent,
    Level,
    Profiled,
    ProfileDone,
    ProfileWork,
    Standing,
    Step,
    StepResult,
    UpdateWork,
    Usage,
    ValidateDone,
    ValidateWork,
)

PRICES = {"profile": 36.0, "build-cpu": 3.6}


class Failing(World):
    """The first candidate of each task computes something else."""

    def result(self, worker: FakeWorker, step: Step) -> StepResult:
        found = super().result(worker, step)
        if isinstance(found.result, ProfileDone) and step.round == 0:
            wrong = [
                Profiled(index=each.index, seconds=0.1, outcome="wrong-result", error="it differs")
                for each in found.result.profiled
            ]
            found = msgspec.structs.replace(
                found, result=msgspec.structs.replace(found.result, profiled=wrong)
            )
        return found


def run(world: World, **level: object) -> Standing | None:
    world.publish(request(**{"trials": 400, "batch": 8, "chunk": 2, **level}))  # type: ignore[arg-type]
    world.run("job")
    assert world.ledger("job").phase == "done"
    assert list(replay(world.records)) == []
    return world.ledger("job").standing


def test_a_job_without_goals_is_not_judged() -> None:
    assert run(World(), trials=8) is None


def test_a_job_ends_when_its_tasks_are_fast_enough() -> None:
    world = World(tasks=2)
    # Tasks take 100 s untuned in this world, of candidates the best about 1; the model ends twice as fast.
    standing = run(world, speedup=1.9)
    assert standing == Standing(verdict="met", reason="2.00 of 1.9 times as fast")
    ledger = world.ledger("job")
    assert trials(ledger) < 100
    assert "times as fast, which is what was asked for" in ledger.enough
    assert {task.ended for task in ledger.tasks} == {ledger.enough}
    assert any(event.text.startswith("stopping early: its tasks are") for event in world.events)


@pytest.mark.parametrize("limit", [{"deadline": 1e6}, {"device_seconds": 1e6}, {}])
def test_where_time_may_end_a_job_every_task_has_something_before_any_has_much(
    limit: dict[str, float],
) -> None:
    """First batches of 16 for some tasks would take the time of all."""
    world = World(tasks=3)
    run(world, trials=96, batch=16, chunk=4, **limit)
    steps = [each.step for each in world.log if isinstance(each, Dispatch)]
    first = {each.work.want for each in steps if isinstance(each.work, UpdateWork) and each.round == 0}
    assert first == {IN_TIME if limit else 16}


@pytest.mark.parametrize(("effort", "each"), [("instant", 1), ("quick", 8)])
def test_with_less_effort_every_task_gets_the_same_few_candidates(effort: str, each: int) -> None:
    world = World(tasks=3)
    assert run(world, trials=0, effort=effort) is None
    ledger = world.ledger("job")
    assert [task.trials for task in ledger.tasks] == [each] * 3
    assert trials(ledger) == ledger.request.level.trials == 3 * each


def test_a_task_whose_only_candidate_fails_gets_another() -> None:
    world = Failing(tasks=2)
    run(world, trials=0, effort="instant")
    tasks = world.ledger("job").tasks
    assert all(task.best is not None for task in tasks)
    assert [task.outcomes for task in tasks] == [{"wrong-result": 1, "measured": 1}] * 2


def test_instant_measures_nothing_but_the_model() -> None:
    world = World(tasks=1)
    run(world, trials=0, effort="instant")
    steps = [each.step for each in world.log if isinstance(each, Dispatch)]
    given = {type(step.work): step.settings for step in steps}
    assert (given[ProfileWork].repeats, given[ProfileWork].min_repeat_ms) == (1, 0)
    assert given[ValidateWork] == request(batch=8, chunk=2).settings
    # Nothing is measured again; so what is built goes into the model.
    assert [step.work.keep for step in steps if isinstance(step.work, BuildWork)] == [True]
    assert sum(isinstance(step.work, ProfileWork) for step in steps) == 1


@pytest.mark.parametrize(("effort", "names"), [("instant", 0), ("quick", 2), ("full", 4)])
def test_the_less_effort_the_fewer_candidates_are_confirmed(effort: str, names: int) -> None:
    world = World(tasks=2)
    run(world, trials=16 if effort == "full" else 0, effort=effort)
    steps = [each.step for each in world.log if isinstance(each, Dispatch)]
    closing = [step.work for step in steps if isinstance(step.work, UpdateWork) and not step.work.want]
    assert [work.names for work in closing] == [names] * 2


def test_jobs_of_different_effort_share_no_tasks() -> None:
    world = World(tasks=1)
    run(world, trials=8)
    spec = world.ledger("job").tasks[0].spec
    one, other = (request(shared=True, effort=effort) for effort in ("full", "instant"))
    assert sharing.same_of(one, spec) != sharing.same_of(other, spec)


def test_a_level_with_its_own_number_of_trials_takes_no_other() -> None:
    assert "leave --trials out" in request(effort="quick", trials=5).problem()
    assert request(effort="quick", trials=0).problem() == ""


def test_a_latency_is_met_or_missed_by_that_of_the_whole_model() -> None:
    assert run(World(tasks=1), latency_s=50.0) == Standing(verdict="met", reason="1000.000 ms of 50000 ms")
    world = World(tasks=1)
    assert run(world, trials=30, latency_s=0.5) == Standing(verdict="missed", reason="1000.000 ms of 500 ms")
    assert trials(world.ledger("job")) == 30


def test_what_no_candidate_can_reach_is_impossible() -> None:
    found = run(World(tasks=2, space=6), latency_s=0.5)
    text = "1000.000 ms of 500 ms: nothing new was left to try"
    assert found == Standing(verdict="impossible", reason=text)


def test_a_deadline_is_met_with_the_best_so_far() -> None:
    world = World(tasks=2)
    world.settle()
    standing = run(world, trials=20_000, deadline=30.0)
    assert standing is not None
    assert standing.verdict == "met"
    ledger = world.ledger("job")
    assert 0 < trials(ledger) < 20_000
    assert "s are left until its deadline" in ledger.enough
    assert ledger.finished is not None
    assert ledger.finished - ledger.accepted <= 30.0


def test_a_deadline_that_the_import_uses_up_is_impossible_and_nothing_is_tried() -> None:
    world = World(tasks=2)
    standing = run(world, deadline=0.001)
    assert standing is not None
    assert standing.verdict == "impossible"
    assert standing.reason.endswith("of 0.001 s: no trial was made, and it took that all the same")
    assert trials(world.ledger("job")) == 0


@pytest.mark.parametrize("goal", ["device_seconds", "cost"])
def test_a_budget_is_kept(goal: str) -> None:
    world = World(tasks=2, prices=PRICES)
    standing = run(world, **{goal: 6.0 if goal == "device_seconds" else 0.06})
    ledger = world.ledger("job")
    assert standing is not None
    assert standing.verdict == "met"
    assert 0 < trials(ledger) < 400
    assert prices.device_seconds(ledger.usage) <= 6.0


def test_a_cost_is_refused_where_there_are_no_prices() -> None:
    world = World()
    world.settle()
    asked = request(cost=1.0)
    acknowledged, told = world.does(Arrived(70_000, asked, "client.x", "c"))
    assert acknowledged == Acknowledge(70_000)
    assert isinstance(told, Tell)
    text = "it names a cost, and this mesh has no prices; its coordinator takes them: --price"
    assert (told.event.kind, told.event.text) == ("rejected", text)


def test_the_client_is_told_a_quote_before_any_trial() -> None:
    world = World(tasks=3, prices=PRICES)
    world.publish(request(trials=40, deadline=1000.0))
    while not ("job" in world.core.jobs and world.core.jobs["job"].ledger.quote):
        world.turn()
    (told,) = [event for event in world.events if event.text.startswith("quote: ")]
    assert told.progress is not None
    quote = told.progress.quote
    assert quote is not None
    assert (quote.tasks, quote.known, quote.shared, quote.trials) == (3, 0, 0, 40)
    assert quote.seconds > 0
    assert quote.device_seconds > 0
    assert quote.cost is not None
    assert quote.cost > 0
    assert quote.chance is not None
    assert quote.chance > 0.9
    assert not any(isinstance(each, Dispatch) and "/model-update" in each.step.id for each in world.log)
    world.run("job")
    assert world.ledger("job").quote == quote


def test_who_asks_for_a_quote_gets_nothing_else() -> None:
    world = World(tasks=3)
    world.publish(request(trials=40, quote_only=True))
    world.run("job")
    assert world.ledger("job").phase == "cancelled"
    stages = [each.step.id.rpartition("/")[2] for each in world.log if isinstance(each, Dispatch)]
    assert stages == ["import"]
    last = world.events[-1]
    assert last.kind == "cancelled"
    assert last.text.startswith("only a quote was asked for; quote: 3 tasks, up to 40 trials, about")


def test_a_quote_counts_what_other_jobs_tune() -> None:
    world = World(tasks_of={"a": [0, 1], "b": [1, 2]})
    world.publish(request("a", 400, shared=True, batch=8))
    while not ("a" in world.core.jobs and any(task.round >= 0 for task in world.ledger("a").tasks)):
        world.turn()
    world.publish(request("b", 40, shared=True, quote_only=True))
    world.run("b")
    quote = world.ledger("b").quote
    assert quote is not None
    assert (quote.tasks, quote.shared) == (2, 1)


def test_a_job_that_fails_has_missed_what_it_asked_for() -> None:
    wrong = ValidateDone(latency_before=1.0, latency_after=2.0, largest_difference=9.0, equal=False)
    world = World(validated=wrong)
    world.publish(request(trials=8, deadline=1e6, speedup=1.0))
    world.run("job")
    found = world.ledger("job").standing
    assert found is not None
    assert found.verdict == "missed"


def test_the_class_is_a_weight_under_fair() -> None:
    world = World(tasks=8, strategy="fair")
    jobs = {"gold": "gold", "spare": "spare"}
    for seed, (job, name) in enumerate(jobs.items()):
        asked = request(job, trials=4000, batch=8, chunk=1, **{"class": name})
        world.publish(msgspec.structs.replace(asked, seed=seed))
    for _ in range(3000):
        world.turn()
    done = {job: progress.progress(world.core.jobs[job]).trials for job in jobs}
    # The last stages of the pipeline are not always full.
    assert done["gold"] > 4 * done["spare"] > 0


@pytest.mark.parametrize("strategy", ["interleaved", "fair", "predictive"])
def test_a_gold_job_has_its_devices_whatever_others_ask_for_and_whatever_is_killed(strategy: str) -> None:
    devices = [f"profile-cpu-{number}" for number in range(4)]
    queues = ("model-update", "build-cpu", "build-cpu", *devices)
    world = World(tasks=6, strategy=strategy, queues=queues, reserved=0.5)
    world.publish(request("standard", trials=120, batch=8, chunk=1))
    most: Counter[str] = Counter()
    for turn in range(6000):
        if turn == 1500:
            gold = request("gold", trials=60, batch=8, chunk=1, **{"class": "gold"})
            world.publish(msgspec.structs.replace(gold, seed=1))
        if turn in (700, 2500):
            world.start_coordinator()
        known = world.core.jobs
        if turn > 2500 and len(known) == 2 and all(job.ended for job in known.values()):
            break
        world.turn()
        flights = [each.ready for each in world.core.resources.flights() if each.queue in devices]
        for job, count in Counter(ready.job for ready in flights).items():
            most[job] = max(most[job], count)
    assert world.ledger("gold").phase == world.ledger("standard").phase == "done"
    assert most["standard"] == 2
    assert most["gold"] >= 2
    assert list(replay(world.records)) == []


def test_a_price_is_that_of_the_queue_or_of_its_kind() -> None:
    known = {"profile": 3600.0, "profile-gpu-0": 7200.0, "build-cpu": 36.0}
    usage = {
        name: Usage(steps=1, busy=10.0)
        for name in ("profile-cpu-0", "profile-gpu-0", "build-cpu.toy", "model-update")
    }
    assert prices.of_usage(usage, known) == pytest.approx(10 + 20 + 0.1)
    assert prices.of_usage(usage, {}) is None
    assert prices.device_seconds(usage) == 20.0


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    strategy=st.sampled_from(["interleaved", "fair", "predictive"]),
    kills=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 3)), max_size=5),
    goals=st.fixed_dictionaries(
        {},
        optional={
            "deadline": st.sampled_from([0.01, 3.0, 10.0, 100.0]),
            "device_seconds": st.sampled_from([0.05, 1.0, 10.0, 100.0]),
            "cost": st.sampled_from([1e-6, 0.01, 0.1, 1.0]),
            "speedup": st.sampled_from([1.5, 2.0, 9.0]),
        },
    ),
)
def test_whatever_is_killed_the_verdict_is_true(
    seed: int, strategy: str, kills: list[tuple[int, int]], goals: dict[str, float]
) -> None:
    world = World(tasks=2, strategy=strategy, rng=random.Random(seed), prices=PRICES)
    for job in ("a", "b"):
        world.publish(request(job, 60, shared=True, batch=8, chunk=2, **goals))
    for turn in range(max([moment for moment, _ in kills], default=0) + 1):
        world.turn()
        for moment, victim in kills:
            if moment == turn:
                world.strike(victim)
    world.run("a", "b")
    for job in ("a", "b"):
        ledger = world.ledger(job)
        assert ledger.phase == "done"
        if not goals:
            assert ledger.standing is None
            continue
        assert ledger.standing is not None
        assert (ledger.standing.verdict == "met") == kept(ledger.request.level, ledger.finished, ledger)
    assert list(replay(world.records)) == []


def kept(level: Level, finished: float | None, ledger: object) -> bool:
    """Whether all goals are met, told by the facts."""
    usage, accepted = ledger.usage, ledger.accepted  # type: ignore[attr-defined]
    assert finished is not None
    cost = prices.of_usage(usage, PRICES)
    assert cost is not None
    return (
        (level.deadline is None or finished - accepted <= level.deadline)
        and (level.device_seconds is None or prices.device_seconds(usage) <= level.device_seconds)
        and (level.cost is None or cost <= level.cost)
        and (level.speedup is None or level.speedup <= 2.0)  # every model ends twice as fast in this world
    )


Estimate = Callable[[Job, Mesh], Rest]


def test_a_job_that_stopped_too_early_goes_on_whatever_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ending is thought to take a thousand seconds, until the first job has stopped for it."""
    for kills in range(6):
        world = World(tasks=2, rng=random.Random(kills))
        world.settle()
        estimate, told = levels.rest, world.events

        def wrong(job: Job, mesh: Mesh, told: list[JobEvent] = told, estimate: Estimate = estimate) -> Rest:
            stopped = any(event.text.startswith("stopping early") for event in told)
            found = estimate(job, mesh)
            begun = sum(len(task.rounds) for task in map(job.task, ("t00", "t01")))
            return found if stopped or not begun else replace(found, careful=1000.0)

        monkeypatch.setattr(levels, "rest", wrong)
        world.publish(request(trials=60, batch=8, chunk=2, deadline=990.0))
        for turn in range(20_000):
            if "job" in world.core.jobs and world.core.jobs["job"].ended:
                break
            if turn and turn % 150 == 0 and kills:
                world.start_coordinator()
            world.turn()
        monkeypatch.undo()
        texts = [event.text for event in world.events]
        assert any(text.startswith("stopping early: 9") for text in texts)
        assert "going on: ending takes less than was thought" in texts
        goes_on = next(
            number
            for number, each in enumerate(world.log)
            if isinstance(each, Tell) and each.event.text.startswith("going on")
        )
        after = [each.step.work for each in world.log[goes_on:] if isinstance(each, Dispatch)]
        # There is little time: what an update proposes should not have to be left out again.
        assert 0 < next(work.want for work in after if isinstance(work, UpdateWork)) <= IN_TIME
        ledger = world.ledger("job")
        assert ledger.phase == "done"
        assert (ledger.stopped, ledger.enough) == (False, "")
        assert trials(ledger) == 60
        assert {task.ended for task in ledger.tasks} == {"the trials are spent"}


def test_a_job_that_was_stopped_by_its_client_does_not_go_on() -> None:
    world = World(tasks=2)
    world.publish(request(trials=4000, batch=8, deadline=1e6))
    while not ("job" in world.core.jobs and progress.progress(world.core.jobs["job"]).trials):
        world.turn()
    world.give(Arrived(90_000, Cancel(job="job", keep=True), "client.x", "c"))
    world.run("job")
    assert world.ledger("job").stopped
    assert not any("going on" in event.text for event in world.events)


def ended(world: World, jobs: int) -> None:
    for number in range(jobs):
        world.publish(request(f"past{number}", 8, batch=8))
        world.run(f"past{number}")


def test_how_well_ends_are_foreseen_is_known_from_the_jobs_that_ended_whoever_coordinates() -> None:
    world = World(tasks=1)
    ended(world, 3)
    endings = list(world.core.state.endings)
    assert len(endings) == 3
    for number in range(3):
        ledger = world.ledger(f"past{number}")
        assert ledger.foreseen is not None
        assert ledger.finished is not None
        took = ledger.finished - ledger.foreseen.at
        assert endings[number] == pytest.approx(max(took / (ledger.foreseen.seconds + DELAY), 0.05))
    world.start_coordinator()
    world.settle()
    assert sorted(world.core.state.endings) == pytest.approx(sorted(endings), abs=0.01)


@pytest.mark.parametrize(("past", "sure"), [([0.5, 0.6] * 5, True), ([9.0, 11.0] * 5, False), ([9.0], True)])
def test_what_ends_took_before_decides_what_is_promised(past: list[float], sure: bool) -> None:
    world = World(tasks=2)
    world.settle()
    world.core.state.endings.extend(past)
    world.publish(request(trials=40, deadline=25.0, quote_only=True))
    world.run("job")
    quote = world.ledger("job").quote
    assert quote is not None
    assert quote.chance is not None
    assert (quote.chance > 0.9) == sure


def test_where_ends_took_longer_than_thought_jobs_stop_sooner() -> None:
    counts = []
    for past in ([], [6.0] * 8):
        world = World(tasks=2)
        world.settle()
        world.core.state.endings.extend(past)
        world.publish(request(trials=400, batch=8, chunk=2, deadline=1000.0))
        world.run("job")
        standing = world.ledger("job").standing
        assert standing is not None
        assert standing.verdict == "met"
        counts.append(trials(world.ledger("job")))
    assert 0 < counts[1] < counts[0]


class SlowToConfirm(World):
    """A candidate that is confirmed is built for many times as long as another one."""

    def result(self, worker: FakeWorker, step: Step) -> StepResult:
        found = super().result(worker, step)
        if isinstance(step.work, BuildWork) and step.work.keep:
            timing = found.timing
            found = msgspec.structs.replace(
                found, timing=msgspec.structs.replace(timing, finished=timing.started + 0.5)
            )
            self.pass_time(0.5)
        return found


def test_what_confirming_takes_is_learned_and_what_is_tried_is_not_mixed_with_it() -> None:
    world = SlowToConfirm(tasks=1)
    ended(world, 1)
    durations = world.core.state.durations
    again = durations.again("build")
    assert again is not None
    assert again > 2
    assert durations.usual("build") < 1
    assert durations.confirmed is not None
    assert 1 <= durations.confirmed <= 4


@pytest.mark.parametrize(("engines", "tasks"), [(["mock"], 24), (["mock", "toy"], 12)])
def test_a_job_that_has_no_time_left_to_confirm_is_not_late(engines: list[str], tasks: int) -> None:
    """Nobody knows that the mesh takes so long for it until it does."""
    world = SlowToConfirm(
        tasks=tasks, queues=("model-update.toy", "build-cpu.toy", "profile-cpu-0"), rng=random.Random(1)
    )
    world.settle()
    # In this world models are run in no time.
    world.core.state.durations.learn_again("validate", 0.0, 1e6)
    asked = request(trials=96, batch=4, chunk=2, deadline=15.0)
    world.publish(msgspec.structs.replace(asked, engines=engines))
    world.run("job")
    ledger = world.ledger("job")
    assert ledger.standing is not None
    assert ledger.standing.verdict == "met"
    assert all(task.history for task in ledger.tasks if task.trials)
    assert any(not task.confirmed and task.best is not None for task in ledger.tasks)


KINDS = ("deadline", "tight", "impossible", "device", "cost", "speedup", "far", "both")


@dataclass
class Asking(simulation.World):
    """Forty jobs in virtual time, with goals of eight kinds."""

    def level(self, number: int) -> Level:
        draw = random.Random(f"{self.scenario.seed}/level/{number}")
        goals: dict[str, float] = {}
        match KINDS[number % len(KINDS)]:
            case "deadline":
                goals["deadline"] = draw.uniform(200, 2000)
            case "tight":
                goals["deadline"] = draw.uniform(20, 120)
            case "impossible":
                goals["deadline"] = draw.uniform(0.1, 1.0)
            case "device":
                goals["device_seconds"] = draw.uniform(5, 100)
            case "cost":
                goals["cost"] = draw.uniform(0.02, 1)
            case "speedup":
                goals["speedup"] = draw.uniform(1.5, 5)
            case "far":
                goals["speedup"] = draw.uniform(12, 20)
            case "both":
                goals |= {"deadline": draw.uniform(100, 1000), "device_seconds": draw.uniform(10, 100)}
        return Level(trials=draw.choice([64, 128, 256]), **goals)  # type: ignore[arg-type]


@pytest.mark.parametrize(("strategy", "seed"), [("interleaved", 0), ("predictive", 1), ("fair", 2)])
@pytest.mark.parametrize("kills", [False, True])
def test_of_forty_jobs_every_verdict_is_true_and_what_was_promised_is_kept(
    strategy: str, seed: int, kills: bool
) -> None:
    faults = {"failures_every": 300.0, "restarts": [60.0, 200.0, 350.0]} if kills else {}
    scenario = Scenario(
        strategy=strategy, seed=seed, jobs=40, tasks=4, batch=16, chunk=4, builders=4, updaters=2, devices=2,
        every=10.0, **faults,  # type: ignore[arg-type]
    )  # fmt: skip
    world = Asking(scenario, prices=PRICES)
    world.run()
    assert world.core is not None
    on_devices: dict[str, float] = defaultdict(float)
    for each in world.executed:
        if each.completed and each.resource.startswith("profile-"):
            on_devices[each.step.job] += each.finished - each.started
    promised, broken, verdicts = 0, 0, defaultdict(list)
    for number in range(40):
        job = f"job{number:04}"
        ledger = world.core.jobs[job].ledger
        level, standing, quote = ledger.request.level, ledger.standing, ledger.quote
        assert standing is not None
        assert quote is not None
        took = world.ends[job] - world.arrivals[job] - 2 * scenario.hop
        used = on_devices[job]
        in_time = level.deadline is None or took <= level.deadline
        within = level.device_seconds is None or used <= level.device_seconds * 1.001
        paid = (prices.of_usage(ledger.usage, PRICES) or 0.0) <= (level.cost or 1e9)
        fast = level.speedup is None or level.speedup <= 10  # every model ends ten times as fast
        assert (standing.verdict == "met") == (in_time and within and paid and fast), (job, standing)
        if standing.verdict == "impossible":
            assert trials(ledger) == 0
        verdicts[KINDS[number % len(KINDS)]].append(standing.verdict)
        if quote.chance is not None and quote.chance >= 0.9:
            promised += 1
            broken += not in_time
    assert promised >= 8
    assert broken <= 0.1 * promised
    assert set(verdicts["impossible"]) == {"impossible"}
    assert set(verdicts["far"]) == {"missed"}
    assert set(verdicts["deadline"] + verdicts["both"] + verdicts["device"]) == {"met"}


@dataclass
class InTime(simulation.World):
    """Jobs with a deadline, and more trials than they can make until then."""

    deadlines: tuple[float, ...] = ()

    def level(self, number: int) -> Level:
        draw = random.Random(f"{self.scenario.seed}/level/{number}")
        return Level(trials=5000, deadline=draw.choice(self.deadlines))


FAST = {
    "import": 0.05,
    "model-update": 0.03,
    "build": 0.005,
    "profile": 0.01,
    "assemble": 0.01,
    "validate": 0.02,
}
MOCK = msgspec.convert(
    {
        "jobs": 3,
        "every": 18.0,
        "tasks": 3,
        "builders": 2,
        "confirmed": 4,
        "durations": {stage: {"median": seconds, "sigma": 0.3} for stage, seconds in FAST.items()},
    },
    Scenario,
)
GPU = load_scenario(Path(__file__).parents[2] / "benchmarks" / "scenarios" / "gpu.yaml")
ONE_BY_ONE = msgspec.structs.replace(GPU, jobs=3, every=350.0)
AT_ONCE = msgspec.structs.replace(GPU, jobs=5, every=100.0)


@pytest.mark.parametrize(
    ("scenario", "seeds", "deadlines", "least"),
    [
        (MOCK, 2, (8.0, 12.0, 15.0), 0.9),
        (ONE_BY_ONE, 2, (150.0, 200.0, 300.0), 0.9),
        (AT_ONCE, 1, (150.0, 200.0, 300.0), 0.75),
        (
            msgspec.structs.replace(ONE_BY_ONE, jobs=2, failures_every=900.0, restarts=[90.0, 450.0]),
            2,
            (200.0, 300.0),
            0.85,
        ),
    ],
    ids=["mock", "slow builds", "jobs at once", "kills"],
)
def test_a_deadline_is_used_and_kept(
    scenario: Scenario, seeds: int, deadlines: tuple[float, ...], least: float
) -> None:
    shares: list[float] = []
    promised = broken = 0
    for seed in range(seeds):
        world = InTime(msgspec.structs.replace(scenario, seed=seed), deadlines=deadlines)
        world.run()
        assert world.core is not None
        for job, end in world.ends.items():
            ledger = world.core.jobs[job].ledger
            level, standing, quote = ledger.request.level, ledger.standing, ledger.quote
            assert level.deadline is not None
            assert standing is not None
            assert quote is not None
            assert quote.chance is not None
            took = end - world.arrivals[job] - 2 * scenario.hop
            assert (standing.verdict == "met") == (took <= level.deadline)
            shares.append(took / level.deadline)
            if quote.chance >= 0.9:
                promised += 1
                broken += took > level.deadline
    assert promised >= 0.7 * len(shares)
    assert broken <= 0.1 * promised
    assert statistics.median(shares) >= least
    assert min(shares) >= 0.45
    assert max(shares) <= 1.15
