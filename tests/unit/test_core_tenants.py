"""A job is the business of its tenant and of operators, and of nobody else."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from tests.unit.world import World, request
from tunemesh.coordinator.events import Acknowledge, Answer, Arrived, Instruction, Tell
from tunemesh.coordinator.journal.replay import replay
from tunemesh.shared.messages import Cancel, JobEvent, Learn, Message, Query, SetStrategy, Snapshot

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
