"""Two cells on a real broker: each job is in one of them, and goes to the other when its coordinator is
gone."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pika
import pytest

from benchmarks.coordinator_rate import Peer
from tests.unit.world import request
from tunemesh.broker_config import topology
from tunemesh.client import Client
from tunemesh.coordinator import core
from tunemesh.coordinator.cells import choice, desk
from tunemesh.coordinator.service import service as service_module
from tunemesh.coordinator.service.desk_service import DeskService
from tunemesh.coordinator.service.service import Service
from tunemesh.shared.messages import JobEvent, JobProgress

if TYPE_CHECKING:
    from tests.conftest import Broker

CELLS = ("a", "b")
DEVICES = 2


class Running:
    """Something at work in a thread, until its connection ends."""

    def __init__(self, turn: Callable[[], object], leave: Callable[[], None]) -> None:
        self._turn, self._leave = turn, leave
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.is_set():
            self._turn()

    def kill(self) -> None:
        """All that it holds goes back at once."""
        if not self._ended.is_set():
            self._ended.set()
            self._thread.join(20.0)
            self._leave()


def a_coordinator(node: Broker, cell: str) -> Running:
    made = Service(node.url("coordinator"), cell=cell)
    made.connect()

    def turn() -> None:
        made.take_those_there()
        made.look_around()

    return Running(turn, made.leave)


def a_desk(node: Broker) -> Running:
    made = DeskService(node.url("coordinator"), give_up_after=2.0)
    made.connect()
    return Running(made.turn, made.leave)


@pytest.fixture
def cells(node: Broker, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Running]]:
    """Coordinators with workers that answer at once, and a desk."""
    for module, name, seconds in (
        (core, "SETTLE", 1.0),
        (desk, "SETTLE", 1.0),
        (desk, "LOOK_AGAIN", 0.5),
        (choice, "SILENT", 1.5),
        (service_module, "LOOK", 0.3),
    ):
        monkeypatch.setattr(module, name, seconds)
    running = {cell: a_coordinator(node, cell) for cell in CELLS}
    peers = [Peer(node.url("worker"), DEVICES, reports=True, cell=cell) for cell in CELLS]
    workers = [Running(lambda peer=peer: peer.serve(time.monotonic() + 0.2), peer.close) for peer in peers]
    running["desk"] = a_desk(node)
    yield running
    for each in (*running.values(), *workers):
        each.kill()
    with pika.BlockingConnection(pika.URLParameters(node.url("admin"))) as admin:
        channel = admin.channel()
        channel.queue_purge(topology.COORDINATOR)
        for cell in CELLS:
            names = ["model-update", "build-cpu", *(f"profile-cpu-{number}" for number in range(DEVICES))]
            for name in (topology.COORDINATOR, *names):
                channel.queue_delete(topology.in_cell(name, cell))


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, condition
        time.sleep(0.1)


def listed(client: Client) -> dict[str, JobProgress]:
    return {job.job: job for job in client.snapshot().jobs}


def ends_of(client: Client, jobs: list[str]) -> dict[str, JobEvent]:
    ends = {}
    with contextlib.closing(client.follow(jobs)) as events:
        for event in events:
            if event is not None and event.kind in topology.ENDS:
                ends[event.job] = event
    return ends


def test_two_cells(node: Broker, cells: dict[str, Running]) -> None:
    """One test, since all of it needs cells that are at work."""
    jobs = ["one", "two", "three", "four"]
    with Client(node.url("operator"), jobs) as client:
        for job in jobs[:2]:
            client.submit(request(job, trials=40, batch=8))
        # They are dealt out, and whoever asks for all hears of both.
        until(lambda: set(listed(client)) == {"one", "two"})
        snapshot = client.snapshot()
        queues = {each.queue for each in snapshot.resources}
        assert queues == {f"{cell}/{name}" for cell in CELLS for name in ("build-cpu", "model-update")} | {
            f"{cell}/profile-cpu-{number}" for cell in CELLS for number in range(DEVICES)
        }
        assert [(each.cell, each.silent) for each in snapshot.cells] == [("a", None), ("b", None)]
        assert {event.kind for event in ends_of(client, jobs[:2]).values()} == {"done"}
        assert client.snapshot("one").jobs[0].trials == 40
        assert client.set_strategy("sequential").strategy == "sequential"
        assert client.snapshot().strategy == "sequential"

        # Longer ones, until each cell has one. The coordinator of one of them is gone for good.
        for job in jobs[2:]:
            client.submit(request(job, trials=4_000, batch=8))
        until(lambda: all(job in listed(client) and listed(client)[job].trials for job in jobs[2:]))
        until(lambda: [each.jobs for each in client.snapshot().cells] == [1, 1])
        cells["a"].kill()
        # So is the desk, about when it moves the job.
        time.sleep(3.0)
        cells["desk"].kill()
        cells["desk"] = a_desk(node)
        until(lambda: [each.jobs for each in client.snapshot().cells if each.silent is None] == [2], 30.0)
        before = listed(client)
        until(lambda: all(listed(client)[job].trials > before[job].trials + 20 for job in jobs[2:]))
        client.cancel("three", keep=True)
        client.cancel("four", keep=True)
        for event in ends_of(client, jobs[2:]).values():
            assert event.kind == "done"
            assert event.progress is not None
            outcomes = sum(sum(task.outcomes.values()) for task in event.progress.tasks)
            assert outcomes == event.progress.trials

        # A cell that comes back has none of them, and takes new ones.
        cells["a"] = a_coordinator(node, "a")
        until(lambda: all(each.silent is None for each in client.snapshot().cells))
        assert set(listed(client)) == set(jobs)
