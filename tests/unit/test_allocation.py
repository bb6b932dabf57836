"""Which task gets the next trials, and when more of them do not pay."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.world import World, request
from tunemesh.coordinator.jobs import allocation
from tunemesh.coordinator.jobs.allocation import Standing
from tunemesh.shared.messages import Request

BATCH = 16


def standing(
    name: str, weight: int = 1, best: float | None = 1.0, trials: int = 8, gain: float = 0.0
) -> Standing:
    return Standing(
        search=name,
        task=name,
        weight=weight,
        trials=trials,
        rounds=1,
        busy=False,
        best=best,
        lead=best,
        gain=gain,
        exhausted=False,
    )


@dataclass
class Tuning:
    """A job without a mesh: every round is back at once. The first one takes ``drop`` of a task's latency
    off, each further one half as much."""

    latencies: list[float]
    budget: int
    patience: float
    drop: float = 0.0
    trials: list[int] = field(default_factory=list)

    def run(self) -> list[int]:
        """Trials of each task until nothing more is granted."""
        tasks = [
            Standing(
                search=str(number),
                task=str(number),
                weight=1,
                trials=0,
                rounds=0,
                busy=False,
                best=None,
                lead=None,
                gain=0.0,
                exhausted=False,
            )
            for number in range(len(self.latencies))
        ]
        latencies = list(self.latencies)
        left = self.budget
        while given := allocation.grants(tasks, self.budget, left, BATCH, self.patience):
            for name, want in given:
                number = int(name)
                assert want > 0
                left -= want
                before = tasks[number]
                latencies[number] *= 1 - self.drop / 2**before.rounds
                saved = (before.best or latencies[number]) - latencies[number]
                tasks[number] = Standing(
                    search=name,
                    task=name,
                    weight=1,
                    trials=before.trials + want,
                    rounds=before.rounds + 1,
                    busy=False,
                    best=latencies[number],
                    lead=latencies[number],
                    gain=saved / want,
                    exhausted=False,
                )
        assert left >= 0
        self.standings = tasks
        return [task.trials for task in tasks]


LATENCIES = st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=40)


@given(LATENCIES, st.integers(1, 2000))
def test_without_patience_every_trial_of_the_budget_is_spent(latencies: list[float], budget: int) -> None:
    assert sum(Tuning(latencies, budget, 0.0).run()) == budget


@given(LATENCIES, st.floats(1e-3, 0.1), st.floats(0, 0.5))
def test_with_patience_a_task_ends_when_more_trials_do_not_pay(
    latencies: list[float], patience: float, drop: float
) -> None:
    tuning = Tuning(latencies, 10**6, patience, drop)
    trials = tuning.run()
    model = allocation.model_latency(tuning.standings)
    for each in tuning.standings:
        assert each.rounds >= 1
        assert each.weight * max(each.gain, 0.2 * (each.best or 0.0) / each.trials) < patience * model
        assert "of the model's latency" in allocation.reason(each, model, patience).replace(
            "off the", "of the"
        )
    assert sum(trials) < 10**6


@given(LATENCIES, st.floats(1e-3, 0.1), st.floats(1.1, 10))
def test_the_more_patience_is_asked_for_the_fewer_trials(
    latencies: list[float], patience: float, times: float
) -> None:
    patient, hasty = (Tuning(latencies, 10**6, each).run() for each in (patience, patience * times))
    assert all(few <= many for few, many in zip(hasty, patient, strict=True))


def test_trials_go_where_the_latency_is() -> None:
    # 90 % of the model in one task of ten: it gets what pays, the others a first batch.
    trials = Tuning([0.9] + [0.1 / 9] * 9, 10**6, allocation.PATIENCE).run()
    assert 0.2 * 0.9 / allocation.PATIENCE <= trials[0] <= 0.2 * 0.9 / allocation.PATIENCE + BATCH
    assert set(trials[1:]) == {BATCH}


def test_a_task_that_was_not_measured_yet_pays() -> None:
    assert allocation.pays(standing("a", best=None), model=10.0, patience=1.0)


@pytest.mark.parametrize(
    ("task", "patience", "why"),
    [
        (standing("a"), 0.0, "the trials are spent"),
        (standing("a"), 0.5, "one more trial is expected to take less than 50.000% off the model's latency"),
        (standing("a", best=None), 0.5, "the trials are spent"),
    ],
)
def test_why_a_task_gets_no_more_trials(task: Standing, patience: float, why: str) -> None:
    assert allocation.reason(task, 1.0, patience) == why


@given(st.integers(1, 1000), st.floats(1e-6, 1))
def test_the_automatic_budget_grows_with_the_tasks_and_with_patience(tasks: int, patience: float) -> None:
    budget = allocation.automatic(tasks, patience)
    assert budget > allocation.FIRST * tasks
    assert allocation.automatic(tasks + 1, patience) > budget
    assert allocation.automatic(tasks, patience * 2) <= budget
    assert math.isclose(budget, allocation.FIRST * tasks + 0.2 / patience, abs_tol=1)


def test_where_time_may_end_a_job_every_task_is_begun_before_any_has_two_searches() -> None:
    def granted(first: int | None, *done: str) -> set[str]:
        """Four tasks of two engines; the first search of each is under way, or done."""
        found = []
        for task in "abcd":
            one = replace(standing(task), search=f"{task}1", task=task, engine="one")
            begun = replace(one, busy=task not in done, best=None, lead=None)
            fresh = replace(begun, search=f"{task}2", engine="two", rounds=0, trials=0, busy=False)
            found += [begun, fresh]
        return {search for search, _ in allocation.grants(found, 400, 400, 16, first=first)}

    assert granted(None) == {"a2", "b2", "c2", "d2"}
    assert granted(4) == granted(4, "a") == set()
    assert {"a2", "b2", "c2", "d2"} <= granted(4, "a", "b")


def automatic(**settings: object) -> Request:
    return request(trials=0, **settings)


def test_a_job_without_a_number_of_trials_gets_one_from_its_model() -> None:
    world = World(tasks=3)
    asked = automatic(batch=8, chunk=4)
    world.publish(asked)
    world.run("job")
    ledger = world.ledger("job")
    assert ledger.phase == "done"
    assert ledger.request.level.trials == allocation.automatic(3, allocation.PATIENCE)
    assert ledger.request.level.patience == allocation.PATIENCE
    assert 0 < sum(task.trials for task in ledger.tasks) <= ledger.request.level.trials
    assert all(task.ended for task in ledger.tasks)
    # The same request once more is the same job.
    world.publish(asked)
    world.settle()
    assert [event.kind for event in world.events if event.kind == "rejected"] == []


def test_what_patience_saves_is_not_spent() -> None:
    world = World(tasks=2)
    world.publish(request(trials=2000, batch=8, chunk=8, patience=0.02))
    world.run("job")
    ledger = world.ledger("job")
    assert sum(task.trials for task in ledger.tasks) < 200
    assert {task.ended for task in ledger.tasks} == {
        "one more trial is expected to take less than 2.000% off the model's latency"
    }
    told = [event.progress for event in world.events if event.progress is not None][-1]
    assert [task.ended for task in told.tasks] == [task.ended for task in ledger.tasks]


def test_where_a_number_of_trials_was_asked_for_they_are_spent() -> None:
    world = World(tasks=2)
    world.publish(request(trials=100, batch=8))
    world.run("job")
    ledger = world.ledger("job")
    assert sum(task.trials for task in ledger.tasks) == 100
    assert {task.ended for task in ledger.tasks} == {"the trials are spent"}


def test_trials_left_to_the_model_need_patience() -> None:
    assert automatic(patience=0).problem() == "without patience there has to be a number of trials"
    assert automatic().problem() == ""


# -- Several searches of a task -----------------------------------------------------------------------------


def pair(
    name: str, task: str, best: float | None, lead: float | None, trials: int = 8, rounds: int = 1
) -> Standing:
    return Standing(
        search=name, task=task, weight=1, trials=trials, rounds=rounds, busy=False, best=best, lead=lead,
        gain=0.0, exhausted=False,
    )  # fmt: skip


@given(st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=4), st.integers(1, 500))
def test_of_a_task_the_search_that_is_ahead_is_expected_to_gain_most(bests: list[float], trials: int) -> None:
    found = [pair(str(n), "t", best, min(bests), trials) for n, best in enumerate(bests)]
    gains = [allocation.expected_gain(each) for each in found]
    assert max(gains) == gains[bests.index(min(bests))] > 0
    # What as many trials again would not bring to the best gets nothing.
    assert [gain > 0 for gain in gains] == [(1 - allocation.OPTIMISM) * best < min(bests) for best in bests]
    assert allocation.model_latency(found) == min(bests)


@given(
    st.lists(st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=3), min_size=1, max_size=12),
    st.integers(1, 2000),
)
def test_every_trial_of_the_budget_is_spent_by_searches_that_may_win(
    tasks: list[list[float]], budget: int
) -> None:
    """Every search finds its latency at once: those that are far behind get a first batch and no more."""
    names = [(f"{t}/{n}", t) for t, bests in enumerate(tasks) for n, _ in enumerate(bests)]
    latency = {f"{t}/{n}": best for t, bests in enumerate(tasks) for n, best in enumerate(bests)}
    trials, rounds = dict.fromkeys(latency, 0), dict.fromkeys(latency, 0)
    left = budget
    first: list[str] = []
    while True:
        found = []
        for name, t in names:
            begun = [latency[other] for other, its in names if its == t and rounds[other]]
            best = latency[name] if rounds[name] else None
            found.append(pair(name, str(t), best, min(begun, default=None), trials[name], rounds[name]))
        given_now = allocation.grants(found, budget, left, BATCH)
        if not given_now:
            break
        first = first or [name for name, _ in given_now]
        for name, want in given_now:
            left -= want
            trials[name] += want
            rounds[name] += 1
    assert left == 0
    # Every task has begun before any has a second search.
    assert len({name.partition("/")[0] for name in first[: len(tasks)]}) == min(len(tasks), len(first))
    whole = allocation.first_batch(budget, len(names), BATCH)
    for name, t in names:
        if (1 - allocation.OPTIMISM) * latency[name] >= min(tasks[t]):
            assert trials[name] <= whole


def test_a_search_that_has_found_nothing_is_given_up_after_some_attempts() -> None:
    ahead, failed = pair("a", "t", 1.0, 1.0), pair("b", "t", None, 1.0, trials=8)
    assert allocation.may_go_on(failed)
    assert allocation.expected_gain(failed) == pytest.approx(allocation.expected_gain(ahead))
    again = pair("b", "t", None, 1.0, trials=24, rounds=3)
    assert not allocation.may_go_on(again)
    assert allocation.reason(again, 1.0, 0.0) == "nothing could be measured in 3 rounds"
    behind = pair("b", "t", 2.0, 1.0)
    assert allocation.reason(behind, 1.0, 0.0) == "another engine is too far ahead"


def test_with_less_effort_a_task_gets_its_few_trials_however_many_engines_take_it() -> None:
    alone = pair("a", "t", None, None, trials=0, rounds=0)
    one, two = (pair(name, "u", None, None, trials=0, rounds=0) for name in "bc")
    assert allocation.grants([alone, one, two], 24, 24, BATCH, only=8) == [("a", 8), ("b", 4), ("c", 4)]
    assert [allocation.few(8, 3, place) for place in range(3)] == [3, 3, 2]
    # One candidate of a task is that of the first engine that takes it.
    assert allocation.grants([alone, one, two], 3, 3, BATCH, only=1) == [("a", 1), ("b", 1)]
    # Another attempt is for tasks of which nothing is known at all, and all engines get it.
    failed, good = pair("b", "u", None, 1.0), pair("c", "u", 1.0, 1.0)
    assert allocation.grants([failed, good], 24, 16, BATCH, only=8) == []
    lost = [pair("b", "u", None, None), pair("c", "u", None, None)]
    assert allocation.grants(lost, 24, 16, BATCH, only=8) == [("b", 4), ("c", 4)]
    lost[1] = pair("c", "u", None, None, trials=0, rounds=0)
    assert allocation.grants(lost, 3, 2, BATCH, only=1) == [("b", 1), ("c", 1)]
    lost[0] = replace(lost[0], busy=True)
    assert allocation.grants(lost, 3, 2, BATCH, only=1) == []
