"""The real core in virtual time."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunemesh.coordinator.simulation import Scenario, load_scenario, load_trace, record, simulate
from tunemesh.coordinator.simulation.scenario import Away, Spread
from tunemesh.coordinator.simulation.world import World
from tunemesh.shared.errors import BadInput
from tunemesh.shared.messages import Timing

FIXED = {
    "import": Spread(2.0),
    "model-update": Spread(1.0),
    "build": Spread(0.2),
    "profile": Spread(0.1),
    "assemble": Spread(3.0),
    "validate": Spread(0.5),
}
SMALL = Scenario(jobs=3, tasks=2, rounds=2, batch=8, chunk=4, durations=FIXED, hop=0.001)
STRATEGIES = ["sequential", "uncontrolled", "interleaved", "fair", "predictive"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_job_ends_and_the_same_seed_gives_the_same_outcome(strategy: str) -> None:
    first, second = (simulate(SMALL, strategy=strategy, seed=3) for _ in range(2))
    assert len(first.completions) == 3
    assert first.timeline == second.timeline
    assert first.makespan == second.makespan


def test_a_lone_sequential_job_takes_as_long_as_its_steps() -> None:
    outcome = simulate(SMALL, strategy="sequential", jobs=1, tasks=1, lookahead=0, hop=0.0)
    worked = sum(slot.finished - slot.started for slot in outcome.timeline)
    assert worked == pytest.approx(2 + 3 * 1 + 16 * 0.2 + 16 * 0.1 + 3 + 0.5)
    # Some of the core's decisions wait for its next tick, at most a quarter of a second each.
    assert worked <= outcome.makespan <= worked + 1.0


def test_no_worker_does_two_things_at_once_and_no_queue_holds_a_backlog() -> None:
    outcome = simulate(SMALL, strategy="interleaved", builders=2)
    slots = defaultdict(list)
    for slot in outcome.timeline:
        slots[slot.worker].append((slot.started, slot.finished))
    assert len(slots) == 4
    for spans in slots.values():
        spans.sort()
        assert all(a[1] <= b[0] + 1e-9 for a, b in itertools.pairwise(spans))


@settings(max_examples=25, deadline=None)
@given(
    strategy=st.sampled_from(STRATEGIES),
    seed=st.integers(0, 1000),
    builders=st.integers(1, 3),
    devices=st.integers(1, 3),
    slowness=st.lists(st.sampled_from([0.5, 1.0, 3.0]), min_size=1, max_size=3),
    complexity=st.lists(st.sampled_from([1.0, 10.0]), min_size=1, max_size=2),
    lookahead=st.integers(0, 1),
    every=st.sampled_from([0.0, 5.0]),
)
def test_no_makespan_is_below_the_lower_bound(
    strategy: str,
    seed: int,
    builders: int,
    devices: int,
    slowness: list[float],
    complexity: list[float],
    lookahead: int,
    every: float,
) -> None:
    outcome = simulate(
        SMALL,
        strategy=strategy,
        seed=seed,
        builders=builders,
        devices=devices,
        slowness=slowness,
        complexity=complexity,
        lookahead=lookahead,
        every=every,
    )
    assert outcome.makespan >= outcome.lower_bound > 0
    assert all(0 < share <= 1 for share in outcome.utilisation.values())


GPU = load_scenario(Path(__file__).parents[2] / "benchmarks" / "scenarios" / "gpu.yaml")


@pytest.mark.parametrize(("strategy", "seed"), [("interleaved", 0), ("fair", 2), ("predictive", 1)])
def test_slow_builds_keep_all_builders_of_a_gpu_machine_busy(strategy: str, seed: int) -> None:
    """In chunks of eight a network took 334 to 341 s, and a kernel 142 to 157 s."""
    outcome = simulate(GPU, strategy=strategy, seed=seed)
    builds = [slot for slot in outcome.timeline if slot.stage == "build"]
    work = sum(slot.finished - slot.started for slot in builds)
    updates = [slot for slot in outcome.timeline if slot.stage == "model-update"]
    # From the first proposal to the last update: without import, confirmation and end.
    since, until = min(slot.finished for slot in updates), max(slot.started for slot in updates)
    assert work / GPU.builders > 0.95 * (until - since)
    assert outcome.makespan < 320
    assert simulate(GPU, strategy=strategy, seed=seed, tasks=1, trials=32).makespan < 120


def test_fast_builds_lose_nothing_where_many_builders_idle_now_and_then() -> None:
    fast = {"build": Spread(0.005, 0.3), "profile": Spread(0.01, 0.3), "model-update": Spread(0.03, 0.3)}
    outcome = simulate(
        SMALL, durations=FIXED | fast, jobs=4, tasks=4, rounds=8, batch=32, chunk=8, builders=8
    )
    chunks = [slot for slot in outcome.timeline if slot.stage == "build"]
    assert len(chunks) < 1.25 * 4 * 4 * 8 * 32 / 8


def test_strategies_have_the_same_work_to_do() -> None:
    """Durations belong to candidates and steps, not to the order in which they run."""
    busy = []
    for strategy in ("interleaved", "sequential"):
        outcome = simulate(SMALL, strategy=strategy, durations={}, lookahead=0, tasks=1)
        spent: Counter[str] = Counter()
        for slot in outcome.timeline:
            spent[slot.stage] += slot.finished - slot.started  # type: ignore[assignment]
        busy.append({stage: pytest.approx(seconds) for stage, seconds in spent.items()})
    assert busy[0] == busy[1]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_whatever_fails_every_job_ends_with_every_trial_learned_once(strategy: str) -> None:
    scenario = msgspec.structs.replace(
        SMALL,
        strategy=strategy,
        builders=2,
        devices=2,
        jobs=4,
        failures_every=30.0,
        repair=3.0,
        restarts=[6.0, 20.0],
        away=[Away(queue="profile-d1", since=5.0, until=25.0)],
    )
    world = World(scenario)
    world.run()
    assert world.lost > 0
    assert len(world.ends) == 4
    assert world.core is not None
    for job in world.core.jobs.values():
        learned = sum(blob.size for task in job.ledger.tasks for blob in task.history)
        assert learned == 2 * 2 * 8


def test_a_device_that_comes_back_works_again() -> None:
    away = simulate(SMALL, devices=1, away=[Away(queue="profile-d0", since=5.0, until=60.0)])
    assert away.makespan > 60.0
    assert len(away.completions) == 3


def test_tenants_get_device_time_by_weight_and_the_low_priority_job_still_ends() -> None:
    scarce_devices = {**FIXED, "model-update": Spread(0.3), "build": Spread(0.05), "profile": Spread(0.4)}
    outcome = simulate(
        SMALL,
        strategy="fair:gold=3,free=1",
        jobs=40,
        tasks=4,
        rounds=4,
        tenants=["gold", "free"],
        durations=scarce_devices,
    )
    ratio = outcome.device_seconds["gold"] / outcome.device_seconds["free"]
    assert ratio == pytest.approx(3.0, rel=0.05)
    low = simulate(SMALL, strategy="fair", jobs=10, every=4.0, priorities=[1] + [10] * 9)
    assert low.completions["job0000"] < low.makespan + 1e-9


def test_jobs_for_two_targets_run_on_their_own_devices() -> None:
    outcome = simulate(SMALL, devices=2, targets=["cpu", "gpu"], jobs=4)
    by_job = defaultdict(set)
    for slot in outcome.timeline:
        if slot.stage == "profile":
            by_job[slot.job].add(slot.resource)
    assert by_job == {
        "job0000": {"profile-d0"},
        "job0001": {"profile-d1"},
        "job0002": {"profile-d0"},
        "job0003": {"profile-d1"},
    }


# -- Scenarios and traces ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("jobs: 0", "Expected `int` >= 1 - at `$.jobs`"),
        ("jbos: 3", "unknown field `jbos`"),
        ("strategy: best", "unknown strategy 'best'; there are:"),
        ("jobs: [", "is not YAML"),
        ("durations: {buildd: {median: 1}}", "there is no stage 'buildd'; known: import,"),
        ("{devices: 1, targets: [cpu, gpu]}", "target 'gpu' is served by none of the 1 devices"),
        ("away: [{queue: profile-d7, since: 1, until: 2}]", "nobody can be away from queue 'profile-d7'"),
        ("away: [{queue: profile-d0, since: 3, until: 2}]", "which is not after its since"),
        ("trace: nowhere.json", "cannot read trace nowhere.json: No such file"),
    ],
)
def test_a_bad_scenario_is_one_clear_line(tmp_path: Path, text: str, cause: str) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_text(text)
    with pytest.raises(BadInput) as caught:
        simulate(load_scenario(path))
    assert cause in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "is no trace"),
        ('{"source": "x", "jobs": []}', "length >= 1 - at `$.jobs`"),
        (
            '{"source": "x", "jobs": [{"name": "a", "import": 1, "assemble": 1, "validate": 1}]}',
            "tasks",
        ),
        ('{"version": 9, "source": "x", "jobs": []}', "version"),
    ],
)
def test_an_empty_or_malformed_trace_is_one_clear_line(tmp_path: Path, text: str, cause: str) -> None:
    path = tmp_path / "trace.json"
    path.write_text(text)
    with pytest.raises(BadInput) as caught:
        load_trace(path)
    assert cause in str(caught.value)
    assert "\n" not in str(caught.value)


def report(folder: Path, rounds: int) -> Path:
    timeline = [timing("j/-/-/-/import", "import", 2.0), timing("j/-/-/-/assemble", "assemble", 4.0)]
    for number in range(rounds):
        timeline.append(timing(f"j/t00/{number}/-/model-update", "model-update", 1.0 + number))
        timeline.append(timing(f"j/t00/{number}/0/build", "build", 0.8, size=4))
        timeline.append(timing(f"j/t00/{number}/0/profile", "profile", 0.4, size=4))
    timeline.append(timing("j/t00/9/-/model-update", "model-update", 0.1))
    path = folder / "report.json"
    tasks = [{"id": "t00", "name": "conv", "weight": 2}, {"id": "t01", "name": "never tuned", "weight": 1}]
    path.write_bytes(msgspec.json.encode({"job": "j", "name": "m", "tasks": tasks, "timeline": timeline}))
    return path


def timing(step: str, stage: str, seconds: float, size: int = 1) -> Timing:
    started = 100.0 + int(step.split("/")[2].replace("-", "0"))
    return Timing(
        step=step,
        stage=stage,
        resource="build-cpu",
        worker="w",
        started=started,
        finished=started + seconds,
        size=size,
    )  # type: ignore[arg-type]


def test_a_trace_holds_the_durations_of_a_report(tmp_path: Path) -> None:
    (job,) = record([report(tmp_path, rounds=2)], "here").jobs
    assert (job.import_, job.assemble, job.validate) == (2.0, 4.0, 0.0)
    (task,) = job.tasks
    assert (task.name, task.weight, task.update) == ("conv", 2, [1.0, 2.0])
    assert task.closing == pytest.approx(0.1)
    assert task.build == pytest.approx([0.2, 0.2])
    assert task.profile == pytest.approx([0.1, 0.1])


def test_a_report_without_rounds_has_nothing_to_record(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="nothing to record"):
        record([report(tmp_path, rounds=0)], "here")


def test_the_shipped_trace_was_recorded_from_real_jobs() -> None:
    trace = load_trace("recorded")
    assert trace.source
    assert sum(len(job.tasks) for job in trace.jobs) >= 8
