"""A job is the business of its tenant and of operators, and of nobody else."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest

from tests.unit.world import World, request
from tunemesh.coordinator.events import Acknowledge, Answer, Arrived, Garbled, Instruction, Save, Tell, Tick
from tunemesh.coordinator.jobs.limits import Limits
from tunemesh.coordinator.journal.replay import replay
from tunemesh.shared.messages import (
    Blob,
    Cancel,
    JobEvent,
    Learn,
    Level,
    Message,
    Query,
    SetStrategy,
    Settings,
    Snapshot,
)

HANDLES = itertools.count(10**6)
OPERATOR = None


def asks(world: World, message: Message, tenant: str | None, user: str = "ann") -> list[Instruction]:
    """What follows from a message of a user of a tenant, but for what is only logged."""
    handle = next(HANDLES)
    world.coordinator[handle] = message
    world.delivered.add(handle)
    return world.does(Arrived(handle, message, f"{user}.001", "c", user, tenant))  # type: ignore[arg-type]


def refused(out: list[Instruction]) -> JobEvent:
    """The only answer: a refusal, to the one who has asked."""
    acknowledged, told = out
    assert isinstance(acknowledged, Acknowledge)
    assert isinstance(told, Tell)
    assert told.reply_to is not None
    assert told.event.kind == "rejected"
    return told.event


def answer(world: World, tenant: str | None, job: str | None = None) -> Snapshot:
    (found,) = [each for each in asks(world, Query(job=job), tenant) if isinstance(each, Answer)]
    return found.snapshot


@pytest.fixture
def world() -> World:
    """With a job of tenant acme, one of another tenant, and one of none."""
    world = World(tasks=1, strategy="fair:acme=3,zeta=1")
    world.settle()
    for tenant, job in (("acme", "hers"), ("zeta", "theirs"), ("", "nobodys")):
        asks(world, request(job, trials=400), tenant)
        world.deliver()
    assert [job.ledger.request.tenant for job in world.core.jobs.values()] == ["acme", "zeta", ""]
    for _ in range(60):
        world.turn()
    return world


def test_a_job_belongs_to_the_tenant_of_whoever_asked_for_it(world: World) -> None:
    assert {event.progress.tenant for event in world.events if event.job == "hers" and event.progress} == {
        "acme"
    }
    assert list(replay(world.records)) == []
    world.start_coordinator()
    world.settle()
    assert world.core.jobs["hers"].ledger.request.tenant == "acme"


@pytest.mark.parametrize("named", ["zeta", "acme2", "Acme"])
def test_a_request_that_names_another_tenant_is_refused(world: World, named: str) -> None:
    wanted = msgspec.structs.replace(request("new"), tenant=named)
    text = f"it names tenant {named}, and user ann belongs to tenant acme"
    assert refused(asks(world, wanted, "acme")).text == text
    assert "new" not in world.core.jobs
    # Who missed that can ask; whose tenant it names knows nothing of it.
    assert answer(world, "acme", "new").rejected == text
    assert answer(world, named, "new").rejected == ""
    assert answer(world, OPERATOR, "new").rejected == text


def test_a_user_of_no_tenant_may_name_none(world: World) -> None:
    wanted = msgspec.structs.replace(request("new"), tenant="acme")
    assert refused(asks(world, wanted, "")).text == "it names tenant acme, and user ann belongs to no tenant"


def test_an_operator_may_ask_for_any_tenant(world: World) -> None:
    asks(world, msgspec.structs.replace(request("new"), tenant="acme"), OPERATOR)
    world.deliver()
    assert world.core.jobs["new"].ledger.request.tenant == "acme"
    assert [each.job for each in answer(world, "acme").jobs] == ["hers", "new"]


def test_the_same_request_of_another_tenant_is_another_job(world: World) -> None:
    event = refused(asks(world, request("hers", trials=400), "zeta"))
    assert event.text == "job id 'hers' is taken; choose a new one"
    (_, told) = asks(world, request("hers", trials=400), "acme")
    assert isinstance(told, Tell)
    assert told.event.kind == "accepted"


@pytest.mark.parametrize("keep", [False, True])
def test_nobody_else_can_cancel_a_job(world: World, keep: bool) -> None:
    for tenant in ("zeta", "", "acm"):
        event = refused(asks(world, Cancel(job="hers", keep=keep), tenant))
        assert (event.job, event.text) == ("hers", "job hers belongs to another tenant")
    job = world.core.jobs["hers"]
    assert (job.ledger.phase, job.ledger.stopped, job.ledger.cancelled) == ("tuning", False, None)


@pytest.mark.parametrize("tenant", ["acme", OPERATOR])
def test_its_tenant_and_operators_can(world: World, tenant: str | None) -> None:
    asks(world, Cancel(job="hers"), tenant, "bob")
    ledger = world.core.jobs["hers"].ledger
    assert ledger.phase == "cancelled"
    assert ledger.cancelled is not None
    assert ledger.cancelled.by == "bob"


def test_nobody_else_can_ask_about_a_job(world: World) -> None:
    for tenant in ("zeta", ""):
        found = answer(world, tenant, "hers")
        assert (found.jobs, found.measured, found.assembled) == ([], [], None)
        assert found.rejected == "job hers belongs to another tenant"
    assert [each.job for each in answer(world, "acme", "hers").jobs] == ["hers"]
    assert [each.job for each in answer(world, OPERATOR, "hers").jobs] == ["hers"]


def test_the_list_of_jobs_has_those_of_the_tenant(world: World) -> None:
    for tenant, jobs in (("acme", ["hers"]), ("zeta", ["theirs"]), ("", ["nobodys"]), ("new", [])):
        found = answer(world, tenant)
        assert ([each.job for each in found.jobs], found.left_out) == (jobs, 0)
    assert len(answer(world, OPERATOR).jobs) == 3


def test_nothing_that_a_tenant_is_told_names_the_job_or_the_tenant_of_another(world: World) -> None:
    told = [event for event in world.events if event.progress and event.progress.tenant == "acme"]
    answers = [answer(world, "acme", job) for job in (None, "hers")]
    busy = {step for each in answers for resource in each.resources for step in resource.running}
    assert "-" in busy  # others are at work, and that is all
    for message in (*told, *answers):
        text = msgspec.json.encode(message).decode()
        assert not [name for name in ("theirs", "nobodys", "zeta") if name in text]
    # Operators see all of it.
    text = msgspec.json.encode(answer(world, OPERATOR)).decode()
    assert all(name in text for name in ("theirs", "nobodys", "zeta"))


@pytest.mark.parametrize("tenant", ["acme", ""])
def test_the_strategy_is_for_operators_to_say(world: World, tenant: str) -> None:
    event = refused(asks(world, SetStrategy(strategy="sequential", at=1.0), tenant))
    assert event.text == "the strategy is for operators to say, and ann is none"
    assert world.core.strategy == "fair:acme=3,zeta=1"
    event = refused(asks(world, Learn(engine="metaschedule"), tenant))
    assert event.text == "when to learn is for operators to say, and ann is none"
    assert refused(asks(world, Query(census=True), tenant)).text.startswith("what all jobs need is for")
    asks(world, SetStrategy(strategy="sequential", at=1.0), OPERATOR)
    assert world.core.strategy == "sequential"


# -- Limits -------------------------------------------------------------------------------------------------


def settled(limits: dict[str, Limits], tasks: int = 1) -> World:
    world = World(tasks=tasks, limits=limits)
    world.settle()
    return world


def handles(out: list[Instruction]) -> list[int]:
    return [each.handle for each in out if isinstance(each, Acknowledge)]


def test_who_asks_too_often_is_told_when_to_ask_again_and_takes_up_its_place_until_then() -> None:
    world = settled({"*": Limits(queries=2.0)})
    many = [asks(world, Query(), "acme") for _ in range(30)]
    answered = [out for out in many if isinstance(out[-1], Answer)]
    assert len(answered) == 20  # what comes at once, after a rest
    late = many[20:]
    texts = [out[0].event.text for out in late if isinstance(out[0], Tell)]
    assert texts[0] == "try again in 1 s: tenant acme may send 2 queries a second"
    assert texts[-1] == "try again in 5 s: tenant acme may send 2 queries a second"
    assert all(handles(out) == [] for out in late)
    # Others are answered meanwhile, and operators always.
    assert isinstance(asks(world, Query(), "zeta")[-1], Answer)
    assert all(isinstance(asks(world, Query(), OPERATOR)[-1], Answer) for _ in range(100))
    # Two a second are settled, and then it may ask again.
    settled_at: list[int] = []
    for _ in range(6):
        world.now += 1.0
        settled_at.append(len(handles(world.give(Tick()))))
    assert settled_at == [2, 2, 2, 2, 2, 0]
    assert isinstance(asks(world, Query(), "acme")[-1], Answer)
    assert list(replay(world.records)) == []


def test_requests_and_cancels_are_counted_together_and_apart_from_queries() -> None:
    world = settled({"acme": Limits(requests=0.5, queries=None)})
    for number in range(5):
        assert not isinstance(asks(world, request(f"job{number}"), "acme")[0], Tell)
    (told,) = asks(world, Cancel(job="job0"), "acme")
    assert isinstance(told, Tell)
    assert told.event.text == "try again in 2 s: tenant acme may send 0.5 requests a second"
    (told,) = asks(world, request("late"), "acme")
    assert isinstance(told, Tell)
    assert (told.event.job, told.event.text.split(":")[0]) == ("late", "try again in 4 s")
    assert "late" not in world.core.jobs
    assert world.core.jobs["job0"].ledger.phase == "importing"
    assert isinstance(asks(world, Query(), "acme")[-1], Answer)


def test_what_cannot_be_read_is_put_aside_no_faster_than_what_can() -> None:
    world = settled({"*": Limits(requests=1.0)})
    for number in range(13):
        world.give(Garbled(number, f"garbage {number}", "acme"))
    assert len(world.dead) == 10
    world.give(Garbled(100, "garbage of an operator"))
    assert world.dead[100] == "garbage of an operator"
    for number in range(10, 13):
        world.now += 1.0
        world.give(Tick())
        assert world.dead[number] == f"garbage {number}"
    assert len(world.dead) == 14


@pytest.mark.parametrize("restart", [False, True])
def test_so_many_jobs_of_a_tenant_are_worked_on_at_a_time(restart: bool) -> None:
    world = settled({"*": Limits(jobs=2)})
    for number in range(5):
        asks(world, request(f"a{number}", trials=16), "acme")
    asks(world, request("z", trials=16), "zeta")
    most, order = 0, []
    for turn in range(4000):
        world.turn()
        if turn % 20 == 0:
            world.pass_time(1.0)
        if restart and turn == 40:
            world.start_coordinator()
        begun = [job.id for job in world.core.jobs.values() if job.ledger.revision and not job.ended]
        most = max(most, sum(job.startswith("a") for job in begun))
        order += [job for job in begun if job not in order]
        if len(world.core.jobs) == 6 and all(job.ended for job in world.core.jobs.values()):
            break
    assert {job.ledger.phase for job in world.core.jobs.values()} == {"done"}
    assert most == 2
    assert [job for job in order if job != "z"] == [f"a{number}" for number in range(5)]
    told = [event.job for event in world.events if event.text.startswith("waiting for another job of")]
    assert set(told) == {"a2", "a3", "a4"}
    assert list(replay(world.records)) == []


def test_a_job_that_waits_for_its_turn_says_so_and_can_be_cancelled() -> None:
    world = settled({"acme": Limits(jobs=1)})
    for job in ("first", "second", "third"):
        asks(world, request(job, trials=4000), "acme")
    for _ in range(30):
        world.turn()
    world.pass_time(2.0)
    second = answer(world, "acme", "second").jobs[0]
    assert (second.phase, second.waiting) == (
        "importing",
        "waiting for another job of tenant acme to end: 1 are worked on at once",
    )
    asks(world, Cancel(job="second"), "acme")
    asks(world, Cancel(job="first"), "acme")
    for _ in range(30):
        world.turn()
    assert world.core.jobs["third"].ledger.revision > 0


def test_so_many_jobs_of_a_tenant_wait() -> None:
    world = settled({"*": Limits(jobs=1, waiting=2, requests=None)})
    for number in range(3):
        asks(world, request(f"a{number}", trials=4000), "acme")
        for _ in range(5):
            world.turn()
    event = refused(asks(world, request("a3"), "acme"))
    assert event.text == "2 jobs of tenant acme wait already: try again when some have begun"
    asks(world, request("z"), "zeta")
    assert "z" in world.core.jobs


def test_a_job_has_so_many_trials_and_a_model_such_a_size() -> None:
    world = settled({"*": Limits(trials=100, model_mb=2.0)})
    event = refused(asks(world, request("a", trials=101), "acme"))
    assert event.text == "it asks for 101 trials, and tenant acme may have 100 of a job"
    large = msgspec.structs.replace(request("b"), model=Blob("0" * 64, 1_500_000))
    asks(world, large, "acme")
    assert "b" in world.core.jobs
    larger = msgspec.structs.replace(large, job="c", files={"weights": Blob("1" * 64, 600_000)})
    text = "its model has 2.1 MB, and users of no tenant may have 2 MB"
    assert refused(asks(world, larger, "")).text == text
    asks(world, msgspec.structs.replace(larger, level=Level(trials=500)), OPERATOR)
    assert "c" in world.core.jobs


def test_a_job_whose_trials_are_left_to_the_model_gets_no_more_than_its_tenant_may() -> None:
    world = settled({"acme": Limits(trials=7)})
    asks(world, request("a", trials=0), "acme")
    asks(world, request("z", trials=0), "zeta")
    world.run("a")
    world.run("z")
    assert (world.ledger("a").request.level.trials, world.ledger("z").request.level.trials > 7) == (7, True)


@pytest.mark.parametrize(
    ("settings", "seconds"),
    [
        ({"build_timeout": 300.0}, "2,400"),
        ({"profile_timeout": 300.0, "chunk": 7}, "2,100"),
        ({"import_timeout": 3600.0}, "3,600"),
        ({"build_timeout": 300.0, "chunk": 6}, ""),
        ({}, ""),
    ],
)
def test_no_step_of_a_tenant_holds_a_worker_for_longer_than_it_may(
    settings: dict[str, Any], seconds: str
) -> None:
    world = settled({})
    wanted = msgspec.structs.replace(request("job"), settings=Settings(**settings))
    told = asks(world, wanted, "acme")
    texts = [each.event.text for each in told if isinstance(each, Tell) and each.event.kind == "rejected"]
    most = "and tenant acme may have 1,800 s: give a smaller --chunk"
    assert [text.partition(", or shorter")[0] for text in texts] == (
        [f"one of its steps may take {seconds} s, {most}"] if seconds else []
    )
    assert isinstance(asks(world, msgspec.structs.replace(wanted, job="own"), OPERATOR)[0], Save)


def test_a_request_that_came_too_early_has_its_place_whoever_else_comes() -> None:
    world = settled({"acme": Limits(requests=1.0)})
    early: dict[str, float] = {}
    for number in range(16):
        for out in asks(world, request(f"job{number}"), "acme"):
            if isinstance(out, Tell) and out.event.again_in:
                early[out.event.job] = world.now + out.event.again_in
    assert len(early) == 6
    first = min(early, key=lambda job: early[job])
    (told,) = asks(world, request(first), "acme")  # too early once more
    assert isinstance(told, Tell)
    assert told.event.again_in > 0
    for job, due in early.items():
        world.now = due
        # Somebody of the same tenant uses up whatever there is.
        for number in range(3):
            asks(world, request(f"{job}-{number}"), "acme")
        asks(world, request(job), "acme")
        assert job in world.core.jobs
    assert len(world.core.jobs) <= 10 + len(early) + 6
