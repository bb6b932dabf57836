"""Which cell gets a job, what becomes of the jobs of a dead one, and what a client hears of all of them.

Over 400 lines: all of them are about one desk.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from tests.unit.world import TARGET, World, request
from tunemesh.broker_config import topology
from tunemesh.coordinator.cells import desk as desk_module
from tunemesh.coordinator.cells import merging
from tunemesh.coordinator.cells.choice import SILENT, Cells
from tunemesh.coordinator.cells.desk import GIVE_UP_AFTER, SETTLE, Desk
from tunemesh.coordinator.cells.events import (
    AskCell,
    CellAnswered,
    CellSeen,
    DeskEvent,
    DeskInstruction,
    Found,
    Hand,
    Move,
    Moved,
    NotHanded,
    Place,
    PlaceSaved,
    Search,
    SearchEnded,
    TellForget,
)
from tunemesh.coordinator.cells.gathering import ANSWER_LIMIT
from tunemesh.coordinator.cells.load import loads
from tunemesh.coordinator.cells.messages import CellStatus, Handed, Placed, Served
from tunemesh.coordinator.events import (
    Acknowledge,
    Answer,
    Arrived,
    CaughtUp,
    Connected,
    Count,
    Log,
    Tell,
    Tick,
)
from tunemesh.coordinator.jobs.ledger import Ledger, Marker
from tunemesh.coordinator.service.adopted import Adopted
from tunemesh.coordinator.service.moving import Pile
from tunemesh.coordinator.simulation.many_cells import simulate_cells
from tunemesh.coordinator.simulation.scenario import STAGES, Scenario, Spread
from tunemesh.shared import codec
from tunemesh.shared.messages import (
    Cancel,
    Census,
    JobProgress,
    Message,
    Query,
    Request,
    SetStrategy,
    Snapshot,
    StepResult,
)
from tunemesh.shared.messages.progress import CellProgress
from tunemesh.shared.transport.link import Delivery, Outgoing
from tunemesh.status_tables import cells_table, waiting_for


def status(cell: str, seconds: float = 0.0, targets: Sequence[str] = (TARGET,), jobs: int = 0) -> CellStatus:
    served = [
        Served(targets=[target], engines=["mock", "toy"], devices=2, seconds=seconds, pace=0.5)
        for target in targets
    ]
    return CellStatus(cell=cell, jobs=jobs, served=served)


# -- The choice ----------------------------------------------------------------------------------------------


def cells_of(*statuses: CellStatus) -> Cells:
    cells = Cells()
    for each in statuses:
        cells.heard(each, 0.0)
    return cells


def test_a_job_goes_to_the_cell_with_the_least_work_that_serves_its_target() -> None:
    cells = cells_of(status("a", 50.0), status("b", 20.0), status("c", 1.0, ["gpu"]))
    assert cells.choose(request(), 1.0) == "b"
    assert cells.choose(msgspec.structs.replace(request(), target="gpu"), 1.0) == "c"


def test_a_target_is_served_under_each_of_its_names() -> None:
    served = Served(targets=["llvm -mcpu=x", "native"], engines=[], devices=1, seconds=0.0, pace=1.0)
    cells = cells_of(status("a"), CellStatus(cell="b", jobs=0, served=[served]))
    asked = msgspec.structs.replace(request(), target="native", engines=[])
    assert cells.choose(asked, 1.0) == "b"


def test_a_cell_that_serves_the_engines_too_goes_before_one_that_does_not() -> None:
    less = status("a")
    less = msgspec.structs.replace(less, served=[msgspec.structs.replace(less.served[0], engines=[])])
    assert cells_of(less, status("b", 900.0)).choose(request(), 1.0) == "b"
    assert cells_of(less).choose(request(), 1.0) == "a"


def test_jobs_that_come_at_once_are_dealt_out() -> None:
    """What a cell got it has not told of yet."""
    cells = cells_of(status("a", 3.0), status("b"), status("c", 1.0))
    chosen = []
    for number in range(9):
        asked = request(f"job{number}", trials=20)
        cell = cells.choose(asked, 1.0)
        assert cell is not None
        cells.give(cell, asked, 1.0)
        chosen.append(cell)
    assert sorted(chosen) == [*"aaabbbccc"]
    # Two statuses later it has.
    for now in (2.0, 4.0):
        cells.heard(status("b", 2.0), now)
    assert cells.choose(request("another"), 4.0) == "b"


def test_a_cell_that_says_nothing_gets_no_new_jobs() -> None:
    cells = cells_of(status("a"), status("b", 99.0))
    cells.heard(status("b", 99.0), SILENT)
    assert cells.choose(request(), SILENT + 1.0) == "b"
    assert cells.choose(request(), 3 * SILENT) is None


def test_what_nobody_serves_goes_to_whoever_has_fewest_jobs_and_is_not_moved() -> None:
    cells = cells_of(status("a", jobs=3), status("b", jobs=2))
    asked = msgspec.structs.replace(request(), target="tpu")
    assert cells.choose(asked, 1.0) == "b"
    assert cells.choose(asked, 1.0, only_served=True) is None


def test_a_job_that_takes_what_others_measured_goes_where_they_are() -> None:
    cells = cells_of(status("a"), status("b", 900.0))
    assert cells.choose(request(), 1.0, near={"b"}) == "b"
    # Where that cannot do it, elsewhere.
    cells = cells_of(status("a"), status("b", 0.0, ["gpu"]))
    assert cells.choose(request(), 1.0, near={"b"}) == "a"


def test_a_coordinator_says_how_long_it_has_work() -> None:
    world = World(tasks=3, queues=("model-update", "build-cpu", "profile-cpu-0", "profile-cpu-1"))
    world.settle()
    (idle,) = loads(world.core.state)
    assert (idle.targets, idle.devices, idle.engines, idle.seconds) == ([TARGET], 2, ["mock"], 0.0)
    world.publish(request("one", trials=40))
    for _ in range(100):
        world.turn()
    (busy,) = loads(world.core.state)
    assert busy.seconds > 0
    world.publish(request("two", trials=400))
    world.deliver()
    assert loads(world.core.state)[0].seconds > busy.seconds
    world.run("one", "two")
    assert loads(world.core.state)[0].seconds == 0


# -- The desk ------------------------------------------------------------------------------------------------


PROGRESS = JobProgress(
    job="job",
    name="",
    phase="tuning",
    target=TARGET,
    trials=0,
    budget=1,
    accepted=0.0,
    finished=None,
    tasks=[],
    usage={},
)


@dataclass
class Mesh:
    """A desk, cells that take what they are handed, and a broker between them, in a few lists."""

    names: Sequence[str] = ("a", "b")
    desk: Desk = field(default_factory=Desk)

    def __post_init__(self) -> None:
        self.now = 0.0
        self.ids = itertools.count(1)
        self.asked: dict[int, Arrived] = {}
        """What clients have asked and nobody has acknowledged."""
        self.saved: dict[int, Placed] = {}
        self.queues: dict[str, list[Handed]] = {name: [] for name in self.names}
        self.alive = set(self.names)
        self.dies_moving = False
        """Whether the desk dies before what it has moved is gone where it was."""
        self.reads: str | None = None
        """The dead cell whose queue the desk reads."""
        self.out: list[DeskInstruction] = []
        """What it is about to do."""
        self.answers: list[Answer] = []
        self.told: list[Tell] = []
        self.counts: list[Count] = []
        self.logged: list[Log] = []
        self.start()

    def start(self) -> None:
        """A fresh desk: it is given again whatever nobody has acknowledged."""
        self.out.clear()
        self.reads = None
        self.give(Connected(wall=1e6))
        for handle, placed in list(self.saved.items()):
            self.give(PlaceSaved(handle, placed))
        self.give(CaughtUp())
        for event in list(self.asked.values()):
            self.give(event)

    def give(self, event: DeskEvent) -> None:
        self.out += self.desk.handle(event, self.now)

    def ask(
        self, message: Request | Cancel | Query | SetStrategy, tenant: str | None = None, reply_to: str = "me"
    ) -> None:
        handle = next(self.ids)
        self.asked[handle] = Arrived(handle, message, reply_to, "asked", "client", tenant)
        self.give(self.asked[handle])

    def pass_time(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now += 0.5
            for name in sorted(self.alive):
                self.give(CellSeen(status(name, jobs=len(self.queues[name]))))
            self.give(Tick())
            self.do()
            if self.reads is not None:
                read, self.reads = self.reads, None
                self.give(SearchEnded(read, complete=True))
                self.do()

    def do(self, most: int = 10**6) -> None:
        """Do what the desk has said, or the first of it."""
        while self.out and most:
            most -= 1
            self.does(self.out.pop(0))

    def does(self, instruction: DeskInstruction) -> None:
        match instruction:
            case Place(placed):
                handle = next(self.ids)
                self.saved[handle] = placed
                self.give(PlaceSaved(handle, placed))
            case Hand(cell, handed, handle):
                self.queues[cell].append(handed)
                if handle is not None:
                    self.asked.pop(handle, None)
            case AskCell(cell, asked, correlation_id) if cell in self.alive:
                self.give(CellAnswered(correlation_id, self.answer(cell, asked)))
            case Search(cell):
                self.reads = cell
                jobs = dict.fromkeys(each.job for each in self.queues[cell])
                for job in jobs:
                    of_job = [each.message for each in self.queues[cell] if each.job == job]
                    asked = next((each for each in of_job if isinstance(each, Request)), None)
                    self.give(Found(cell, job, asked))
            case Move(job, source, cell) if source == self.reads:
                kept = [each for each in self.queues[source] if each.job == job]
                if cell is not None:
                    self.queues[cell] += kept
                if self.dies_moving:
                    self.dies_moving = False
                    self.start()
                    return
                self.queues[source] = [each for each in self.queues[source] if each.job != job]
                self.give(Moved(job))
            case Acknowledge(handle):
                self.asked.pop(handle, None)
                self.saved.pop(handle, None)
            case TellForget(cell, job):
                self.queues[cell] = [each for each in self.queues[cell] if each.job != job]
            case Answer():
                self.answers.append(instruction)
            case Tell():
                self.told.append(instruction)
            case Log():
                self.logged.append(instruction)
            case Count():
                self.counts.append(instruction)

    def answer(self, cell: str, asked: Handed) -> Snapshot:
        assert isinstance(asked.message, Query)
        if asked.message.job is not None:
            known = asked.message.job in self.jobs_of(cell)
            return Snapshot(strategy="s", jobs=[PROGRESS] if known else [], resources=[])
        if asked.message.census:
            return Snapshot(
                strategy="s",
                jobs=[],
                resources=[],
                census=Census(at=self.now, oldest=5.0, named=["0" * 63 + cell]),
            )
        return Snapshot(strategy="s", jobs=[], resources=[], left_out=len(self.jobs_of(cell)))

    def jobs_of(self, cell: str) -> set[str]:
        return {each.job for each in self.queues[cell] if isinstance(each.message, Request)}

    def cells_of(self, job: str) -> list[str]:
        return [name for name in self.names if job in self.jobs_of(name)]

    def kill(self, cell: str) -> None:
        self.alive.discard(cell)


def test_a_request_is_handed_on_once_it_is_saved_where_it_goes() -> None:
    mesh = Mesh()
    mesh.pass_time(SETTLE + 1)
    mesh.ask(request())
    # A desk that dies here has handed on nothing, and its successor gets the request again.
    assert [type(each) for each in mesh.out if not hasattr(each, "text")] == [Place]
    mesh.do()
    assert mesh.cells_of("job") == ["a"]
    assert not mesh.asked
    (handed,) = mesh.queues["a"]
    assert (handed.user, handed.reply_to, handed.correlation_id, handed.tenant) == (
        "client",
        "me",
        "asked",
        None,
    )


def test_what_comes_before_cells_are_known_waits_for_them() -> None:
    mesh = Mesh()
    mesh.alive.clear()
    mesh.ask(request())
    mesh.pass_time(30.0)
    assert mesh.asked
    assert [each for each in mesh.logged if "waits for a cell" in each.text] == mesh.logged
    assert len(mesh.logged) == 1
    # How things are is told all the same.
    mesh.ask(Query())
    mesh.pass_time(ANSWER_LIMIT + 1)
    assert mesh.answers[0].snapshot.jobs == []
    mesh.alive = {"b"}
    mesh.pass_time(1.0)
    assert mesh.cells_of("job") == ["b"]


def test_the_same_request_again_and_what_is_asked_about_a_job_go_where_it_is() -> None:
    mesh = Mesh()
    mesh.pass_time(SETTLE + 1)
    for job in ("one", "two"):
        mesh.ask(request(job))
    mesh.do()
    (home,) = mesh.cells_of("two")
    mesh.start()
    mesh.pass_time(SETTLE + 1)
    for message in (request("two"), Cancel(job="two"), Query(job="two")):
        mesh.ask(message)
    mesh.do()
    assert [each.message.type_name for each in mesh.queues[home] if each.job == "two"] == [
        "request",
        "request",
        "cancel",
        "query",
    ]


def test_nobody_knows_a_job_that_was_never_asked_for() -> None:
    mesh = Mesh()
    mesh.pass_time(SETTLE + 1)
    mesh.ask(Query(job="none"))
    mesh.ask(Cancel(job="none"))
    mesh.do()
    (answer,) = mesh.answers
    assert (answer.reply_to, answer.correlation_id, answer.snapshot.jobs) == ("me", "asked", [])
    assert not mesh.asked


def test_a_strategy_is_for_all_cells_and_answered_once() -> None:
    mesh = Mesh()
    mesh.pass_time(SETTLE + 1)
    mesh.ask(SetStrategy(strategy="sequential", at=1.0))
    mesh.do()
    assert sorted(queue[0].reply_to or "-" for queue in mesh.queues.values()) == ["-", "me"]


def test_a_tenant_that_asks_too_often_is_told_so_by_the_desk() -> None:
    mesh = Mesh()
    mesh.pass_time(SETTLE + 1)
    for _ in range(400):
        mesh.ask(Query(job="job"), tenant="acme")
    mesh.do()
    assert "try again in" in mesh.told[0].event.text
    assert len(mesh.answers) <= 200


@pytest.mark.parametrize("dead", ["a", "b"])
def test_the_jobs_of_a_cell_that_dies_go_to_the_other(dead: str) -> None:
    mesh = Mesh()
    mesh.pass_time(SETTLE + 1)
    for number in range(6):
        mesh.ask(request(f"job{number}"))
    mesh.do()
    before = {name: mesh.jobs_of(name) for name in mesh.names}
    assert all(before.values())
    mesh.kill(dead)
    mesh.pass_time(GIVE_UP_AFTER - 5)
    assert mesh.jobs_of(dead) == before[dead]
    mesh.pass_time(30)
    (other,) = set(mesh.names) - {dead}
    assert (mesh.jobs_of(dead), mesh.jobs_of(other)) == (set(), before["a"] | before["b"])
    mesh.ask(Cancel(job="job0"))
    mesh.do()
    assert mesh.queues[other][-1].message == Cancel(job="job0")


def test_what_a_coordinator_without_a_cell_has_left_goes_to_cells() -> None:
    desk = Desk()
    for event in (Connected(wall=1e6), CaughtUp(), Found("", "job", request()), CellSeen(status("a"))):
        desk.handle(event, 0.0)
    (placed,) = [each.placed for each in desk.handle(Tick(), SETTLE) if isinstance(each, Place)]
    assert (placed.cell, placed.source, placed.move) == ("a", "", 1)
    assert Move("job", "", "a") in desk.handle(PlaceSaved(1, placed), SETTLE)
    # A desk that dies here finds the job once more, or sees that nothing is left of it.
    for left in (True, False):
        desk.handle(Connected(wall=1e6), 10.0)
        for event in (PlaceSaved(1, placed), CaughtUp(), CellSeen(status("a"))):
            desk.handle(event, 10.0)
        if left:
            desk.handle(Found("", "job", request()), 10.0)
        ended = desk.handle(SearchEnded("", complete=True), 10.0)
        out = desk.handle(Tick(), 10.0 + SETTLE)
        certain = Place(Placed(job="job", cell="a", move=1))
        assert (certain in ended) is not left
        assert (Move("job", "", "a") in out) is left
    assert [each for each in out if isinstance(each, Search)] == []


def test_a_job_that_no_other_cell_serves_stays() -> None:
    mesh = Mesh()
    mesh.pass_time(SETTLE + 1)
    mesh.ask(msgspec.structs.replace(request(), target="tpu"))
    mesh.do()
    mesh.kill("a")
    mesh.pass_time(2 * GIVE_UP_AFTER)
    assert mesh.cells_of("job") == ["a"]
    mesh.ask(Query())
    mesh.pass_time(1.0)
    (gone,) = [each for each in mesh.answers[-1].snapshot.cells if each.silent is not None]
    assert gone.cell == "a"
    assert gone.silent is not None
    assert gone.silent > GIVE_UP_AFTER


def test_what_the_broker_does_not_take_is_handed_on_later() -> None:
    mesh = Mesh()
    mesh.pass_time(SETTLE + 1)
    mesh.ask(request())
    mesh.do(2)
    (hand,) = [each for each in mesh.out if isinstance(each, Hand)]
    mesh.out.clear()
    mesh.give(NotHanded(hand))
    mesh.pass_time(1.0)
    assert mesh.cells_of("job") == ["a"]


@given(st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_every_job_is_in_exactly_one_cell(seed: int) -> None:
    """Whatever dies, and whenever."""
    rng = random.Random(seed)
    mesh = Mesh(names=("a", "b", "c"))
    jobs = [f"job{number}" for number in range(rng.randint(1, 8))]
    left = list(jobs)
    while left or rng.random() < 0.9:
        match rng.randrange(6):
            case 0 if left:
                mesh.ask(request(left.pop()))
            case 1 | 2:
                mesh.do(rng.randint(0, 3))
                mesh.start()  # the desk dies, with what it was about to do
            case 3 if len(mesh.alive) > 1:
                mesh.kill(rng.choice(sorted(mesh.alive)))
            case 4:
                mesh.alive.add(rng.choice(mesh.names))
            case 5:
                mesh.pass_time(rng.choice([0.5, 5.0, 80.0]))
            case _:
                mesh.ask(request(rng.choice(jobs)) if not left else Query())
        mesh.dies_moving = rng.random() < 0.2
        if rng.random() < 0.7:
            mesh.do()
        else:
            mesh.do(rng.randint(0, 3))
            mesh.start()
    mesh.dies_moving = False
    mesh.pass_time(2 * GIVE_UP_AFTER + 20)
    for job in jobs:
        assert len(mesh.cells_of(job)) == 1, job
        assert mesh.cells_of(job)[0] in mesh.alive
        assert mesh.desk.placed[job] == mesh.cells_of(job)[0]


def test_where_jobs_are_is_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk_module, "MOST_PLACED", 100)
    mesh = Mesh()
    for number in range(105):
        mesh.give(PlaceSaved(number, Placed(job=f"job{number}", cell="a")))
    assert len(mesh.desk.placed) == 100
    assert "job0" not in mesh.desk.placed
    assert [each for each in mesh.out if isinstance(each, Acknowledge)] == [Acknowledge(n) for n in range(5)]
    # A tenant that asks for many drops none of others.
    for number in range(200, 250):
        mesh.give(PlaceSaved(number, Placed(job=f"job{number}", tenant="few", cell="a")))
    for number in range(300, 500):
        mesh.give(PlaceSaved(number, Placed(job=f"job{number}", tenant="acme", cell="a")))
    kept = [placed.tenant for placed, _ in mesh.desk._placed.values()]
    assert (kept.count("few"), kept.count("")) >= (33, 33)


# -- What a cell does with jobs of another one ---------------------------------------------------------------


@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_a_job_that_is_moved_ends_with_exactly_its_trials(seed: int) -> None:
    """The real core of one cell is lost, and that of the other starts afresh with what it held."""
    rng = random.Random(seed)
    lost, other = (World(tasks=2, rng=random.Random(rng.random())) for _ in range(2))
    lost.publish(request("moved", trials=30, batch=8, chunk=3))
    other.publish(request("own", trials=20, batch=8, chunk=3))
    for world in (lost, other):
        for _ in range(rng.randint(1, 400)):
            world.turn()
    pile = Pile("lost", lambda _: None)
    for number, message in enumerate(lost.coordinator.values()):
        if not isinstance(message, Marker):
            pile.add(a_delivery(number, message), message)
    outbox = FakeOutbox()
    pile.move("moved", "other", outbox, lambda action: action(), lambda: None)  # type: ignore[arg-type]
    assert all(each.key == "cell.other.ledger" for each in outbox.sent)
    # A desk that died has sent some of it before.
    for each in [*outbox.sent[: rng.randint(0, len(outbox.sent))], *outbox.sent]:
        other.publish(codec.decode(each.body, Ledger, StepResult, Request))
    other.start_coordinator()
    other.run("moved", "own")
    for job, trials in (("moved", 30), ("own", 20)):
        ledger = other.ledger(job)
        assert ledger.phase == "done"
        assert sum(task.trials for task in ledger.tasks) == trials
        learned = [h for t in ledger.tasks for blob in t.history for h in (blob.data or b"").decode().split()]
        assert len(learned) == len(set(learned)) == trials


class FakeOutbox:
    """Takes note, and has everything confirmed at once."""

    def __init__(self) -> None:
        self.sent: list[Outgoing] = []

    def publish(self, outgoing: Outgoing, done: Callable[[], object], _failed: Callable[[], object]) -> None:
        self.sent.append(outgoing)
        done()


def a_delivery(tag: int, message: Message) -> Delivery:
    return Delivery(
        epoch=1,
        tag=tag,
        queue="cell.lost.coordinator",
        exchange=topology.LEDGER,
        key="cell.lost.ledger",
        body=codec.encode(message),
        message_id=message.message_id(),
        reply_to=None,
        correlation_id=getattr(message, "job", None),
        sent_at=None,
    )


def a_ledger(job: str) -> Ledger:
    return Ledger(request=request(job), revision=3, phase="tuning", accepted=0.0)


def a_result(job: str) -> StepResult:
    world = World()
    world.publish(request(job))
    while True:
        world.turn()
        for message in world.coordinator.values():
            if isinstance(message, StepResult):
                return message


def test_what_is_moved_is_sent_in_the_order_in_which_it_can_be_taken() -> None:
    """Results before the ledger that makes a coordinator start with them, and then what was asked."""
    settled: list[Delivery] = []
    pile = Pile("lost", settled.append)
    cancel, ledger, result = Handed(message=Cancel(job="job")), a_ledger("job"), a_result("job")
    for tag, message in enumerate((cancel, ledger, result, Handed(message=Query(job="job")))):
        pile.add(a_delivery(tag, message), message)
    assert [each.tag for each in settled] == [3]  # nobody waits for an answer any more
    assert pile.found() == [Found("lost", "job", ledger.request)]
    outbox = FakeOutbox()
    pile.move("job", "other", outbox, lambda action: action(), lambda: None)  # type: ignore[arg-type]
    assert [each.type for each in outbox.sent] == ["step-result", "ledger", "handed"]
    assert [each.message_id.startswith("moved/") for each in outbox.sent] == [True, True, False]
    assert [each.tag for each in settled] == [3, 2, 1, 0]
    assert not len(pile)


def test_what_the_broker_refuses_is_not_moved() -> None:
    pile = Pile("lost", pytest.fail)
    pile.add(a_delivery(1, a_ledger("job")), a_ledger("job"))

    class Refusing(FakeOutbox):
        def publish(self, _outgoing: object, _done: object, failed: Callable[[], object]) -> None:
            failed()

    pile.move("job", "other", Refusing(), lambda action: action(), pytest.fail)  # type: ignore[arg-type]
    assert pile.found() == [Found("lost", "job", request("job"))]


def moved(message: Message) -> Delivery:
    return dataclasses.replace(a_delivery(1, message), message_id=f"moved/{message.message_id()}")


def test_results_of_another_cell_wait_for_their_ledger() -> None:
    adopted, result, ledger = Adopted(), a_result("job"), a_ledger("job")
    assert list(adopted.caught_up()) == []
    assert adopted.takes(moved(result), result, {})
    assert not adopted.takes(a_delivery(1, result), result, {})  # of a job of its own
    assert not adopted.takes(moved(ledger), ledger, {})
    assert adopted.completes(moved(ledger), ledger, {})
    # It starts afresh, and has both.
    adopted.connected()
    kept = moved(result)
    assert adopted.takes(kept, result, {})
    assert not adopted.takes(moved(ledger), ledger, {})
    assert not adopted.completes(moved(ledger), ledger, {})
    assert list(adopted.caught_up()) == [(kept, result)]
    # What comes again of a job that it has makes it start no more.
    assert not adopted.completes(moved(ledger), ledger, {"job": None})
    assert not adopted.takes(moved(result), result, {"job": None})


def test_a_coordinator_that_starts_before_all_of_a_job_is_there_leaves_it() -> None:
    adopted, result = Adopted(), a_result("job")
    assert adopted.takes(moved(result), result, {})
    assert list(adopted.caught_up()) == []
    assert [each.message_id for each in adopted.forget("job")] == [f"moved/{result.message_id()}"]
    assert adopted.forget("job") == []


# -- What is asked of all cells ------------------------------------------------------------------------------


def test_what_is_needed_is_what_all_cells_need() -> None:
    mesh = Mesh()
    mesh.pass_time(SETTLE + 1)
    mesh.ask(Query(census=True))
    mesh.do()
    census = mesh.answers[-1].snapshot.census
    assert census is not None
    assert (census.complete, [name[-1] for name in census.named]) == (True, ["a", "b"])
    # Nobody knows what a cell needs that does not answer: nothing may be removed then, and nobody is told to.
    mesh.kill("b")
    mesh.pass_time(SILENT + 1)
    mesh.ask(Query(census=True))
    mesh.pass_time(ANSWER_LIMIT + 1)
    census = mesh.answers[-1].snapshot.census
    assert census is not None
    assert not census.complete
    mesh.counts.clear()
    mesh.pass_time(700.0)
    assert not mesh.counts
    mesh.alive.add("b")
    mesh.pass_time(700.0)
    assert mesh.counts


@given(st.lists(st.integers(0, 7), min_size=1, max_size=4), st.integers(1, 4))
def test_a_list_of_all_jobs_has_each_of_them_once(sizes: list[int], page: int) -> None:
    """Whoever asks for the next ones, behind those that came."""
    jobs = {
        f"c{number}": [msgspec.structs.replace(PROGRESS, job=f"c{number}-{n}") for n in range(size)]
        for number, size in enumerate(sizes)
    }

    def answer(cell: str, skip: int) -> Snapshot:
        shown = jobs[cell][skip : skip + page]
        return Snapshot(strategy="s", jobs=shown, resources=[], left_out=len(jobs[cell]) - skip - len(shown))

    listed: list[str] = []
    for _ in range(40):
        totals = {cell: merging.total(answer(cell, 0), 0) for cell in jobs}
        skips = merging.skips(totals, len(listed))
        snapshot = merging.merged({cell: answer(cell, skips[cell]) for cell in jobs}, [])
        listed += [job.job for job in snapshot.jobs]
        if not snapshot.left_out:
            break
    assert listed == [job.job for each in jobs.values() for job in each]


def test_resources_have_the_name_of_their_cell_in_front() -> None:
    world = World()
    world.settle()
    world.report()
    resources = world.core.resources.progress(world.now)
    one = Snapshot(strategy="fair", jobs=[], resources=resources, waiting={"build-cpu": {"job": 2}})
    other = Snapshot(strategy="fair", jobs=[], resources=resources, waiting={"build-cpu": {"other": 5}})
    both = merging.merged({"a": one, "b": other}, [])
    assert {each.queue for each in both.resources} >= {"a/build-cpu", "b/build-cpu", "b/profile-cpu-0"}
    assert both.waiting == {"a/build-cpu": {"job": 2}, "b/build-cpu": {"other": 5}}
    waits = [waiting_for(each, both.waiting) for each in both.resources if each.queue == "b/build-cpu"]
    assert waits == [{"other": 5}]
    assert both.strategy == "fair"


def test_cells_are_shown_with_those_that_have_no_coordinator() -> None:
    cells = [CellProgress(cell="a", jobs=3), CellProgress(cell="b", jobs=1, silent=75.0)]
    console = Console(width=80, file=io.StringIO())
    console.print(cells_table(cells))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert re.search(r"a +3 +at work", shown)
    assert re.search(r"b +1 +none for 1 min 15 s", shown)


def test_cells_in_virtual_time_share_all_jobs() -> None:
    scenario = Scenario(
        devices=4,
        builders=6,
        updaters=4,
        jobs=6,
        tasks=2,
        rounds=4,
        durations={stage: Spread(median=1.0, sigma=0.2) for stage in STAGES},
    )
    outcome = simulate_cells(scenario, 3)
    assert sorted(outcome.jobs.values()) == [2, 2, 2]
    assert outcome.least > 0.7
    assert min(outcome.ends.values()) > 0.8
