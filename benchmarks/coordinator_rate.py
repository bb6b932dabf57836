"""How many step results per second one coordinator turns into dispatches.

A real broker, a real coordinator pinned to one core, and peers that play all workers and answer every step at
once with a result of the usual size.

    python -m benchmarks.coordinator_rate
    python -m benchmarks.coordinator_rate --width 32 --jobs 16
    python -m benchmarks.coordinator_rate --width 32 --jobs 16 --peers 4
    python -m benchmarks.coordinator_rate --width 32 --jobs 16 --broker-apart

With many workers many results come at once, as on a mesh that needs many steps. Steps are counted for a
while, from when the jobs are under way. Printed is what a step takes of the CPU time of the coordinator, of
the broker, and of the peers, and how busy each of them was: the coordinator is one thread at a time, and so
is each peer; the broker has as many as cores. What is not busy waits for another one. One over the CPU time
that a step takes the coordinator is what it could do if nothing made it wait.

Each peer is a process with a core of its own where there are so many and some more; the broker then has those
that are left for itself. On few cores broker and peers share one, and the rate is as a rule theirs.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, MutableSequence, Sequence
from dataclasses import dataclass
from multiprocessing.context import SpawnProcess
from multiprocessing.sharedctypes import RawArray
from multiprocessing.synchronize import Event

import msgspec
import psutil

from tests.unit.world import BLOB, FakeWorker, World
from tunemesh.broker_config import topology
from tunemesh.broker_config.node import PrivateNode
from tunemesh.children import Child, Children
from tunemesh.client import Client
from tunemesh.shared import codec
from tunemesh.shared.errors import BadMessage
from tunemesh.shared.messages import (
    FINAL_KINDS,
    Blob,
    BuildDone,
    Candidate,
    JobEvent,
    Level,
    Message,
    Request,
    Settings,
    Step,
    StepResult,
    UpdateDone,
    WorkerStatus,
)
from tunemesh.shared.transport.link import Delivery, Link, Outgoing, Subscription, Up

FASTEST = 4_000
"""Steps a second, more than any coordinator makes: the jobs have work for so many until it is over."""
SHARED = (topology.BUILD_CPU, topology.MODEL_UPDATE)
"""Queues of several workers."""
AT_ONCE = 32
"""Steps that a peer answers before the results go out, at most."""
STARTING = 60.0
"""Seconds that broker, coordinator and peers may take until steps go to and fro."""
SCHEDULE = os.urandom(800)
"""A compressed trace has about this size, a shared object that of :data:`OBJECT`."""
OBJECT = Blob("0" * 64, 25_000, os.urandom(25_000))
Numbers = MutableSequence[float]
"""In memory that processes share; each writes one of them."""


class Peer:
    """All workers, or a part of each, in one process; instant results.

    Args:
        cell: to which they belong, where the mesh has several.
    """

    def __init__(self, url: str, width: int, reports: bool, cell: str = "") -> None:
        self._reports = reports
        self._width = width
        self._cell = cell
        self._world = World(tasks=8)
        names = [topology.device_queue(f"cpu-{n}") for n in range(width)]
        self._workers = {
            topology.in_cell(queue, cell): FakeWorker(queue, f"{queue}@bench") for queue in [*SHARED, *names]
        }
        queues = [topology.in_cell(queue, cell) for queue in SHARED]
        names = [topology.in_cell(name, cell) for name in names]
        self._link = Link(url, "bench workers", subscriptions=[Subscription(q) for q in queues])
        self._link.start()
        up = self._link.next(STARTING)
        if not isinstance(up, Up):
            raise SystemExit("a peer cannot reach the broker")
        for device in names:
            self._await(device)
            self._link.consume(up, Subscription(device))
        self.results = 0
        """Steps that were answered."""
        self.travelled = 0.0
        """Seconds from when the coordinator sent them until they were seen here, all together."""

    def _await(self, queue: str) -> None:
        """Announce the workers until the coordinator has made their queue."""
        deadline = time.monotonic() + STARTING / 2
        while time.monotonic() < deadline:
            if self._reports:
                self._report()
            try:
                self._link.depth(queue).result(5.0)
                return
            except LookupError:
                time.sleep(0.2)
        raise SystemExit(f"the coordinator did not make {queue}")

    def _report(self) -> None:
        for worker in self._workers.values():
            for number in range(self._width if worker.queue in SHARED else 1):
                status = msgspec.structs.replace(worker.status(), worker=f"{worker.name}-{number}")
                self._send(status, *topology.status_route(self._cell))

    def _send(self, message: Message, exchange: str, key: str) -> None:
        self._link.publish(
            Outgoing(
                exchange=exchange,
                key=key,
                body=codec.encode(message),
                message_id=message.message_id(),
                type=message.type_name,
                headers=message.headers(),
                mandatory=False,
                expires=10.0 if isinstance(message, WorkerStatus) else None,
            )
        )

    def serve(self, until: float) -> None:
        """Answer steps for a while."""
        reported = 0.0
        while time.monotonic() < until:
            if self._reports and time.monotonic() - reported > 2.0:
                reported = time.monotonic()
                self._report()
            event = self._link.next(0.1)
            with self._link.together():
                for number in range(AT_ONCE):
                    if isinstance(event, Delivery):
                        self._answer(event)
                    event = self._link.next(0.0) if number + 1 < AT_ONCE else None
                    if event is None:
                        break

    def _answer(self, delivery: Delivery) -> None:
        try:
            step = codec.decode(delivery.body, Step)
        except BadMessage as error:
            raise SystemExit(str(error)) from None
        result = self._world.result(self._workers[delivery.queue], step)
        self._send(_sized(result), topology.RESULTS, topology.result_key(result.timing.stage, self._cell))
        self._link.ack(delivery)
        self.results += 1
        self.travelled += max(time.time() - (delivery.sent_at or time.time()), 0.0)

    def close(self) -> None:
        """Leave."""
        self._link.close()


def _play(
    url: str, width: int, number: int, cores: Sequence[int], over: Event, counts: Numbers, travels: Numbers
) -> None:
    """Be a peer until it is over; the first one reports for the workers. It counts what it answers."""
    os.sched_setaffinity(0, cores)
    peer = Peer(url, width, number == 0)
    try:
        while not over.is_set():
            peer.serve(time.monotonic() + 0.1)
            counts[number], travels[number] = peer.results, peer.travelled
    finally:
        peer.close()


def _sized(result: StepResult) -> StepResult:
    """The same result with payloads of the usual size."""
    match result.result:
        case UpdateDone(candidates=candidates) as update:
            sized = [Candidate(c.index, c.hash, SCHEDULE) for c in candidates]
            return msgspec.structs.replace(result, result=msgspec.structs.replace(update, candidates=sized))
        case BuildDone(built=built):
            objects = [msgspec.structs.replace(b, artifact=OBJECT) for b in built]
            return msgspec.structs.replace(result, result=BuildDone(built=objects))
    return result


@dataclass(frozen=True)
class Seen:
    """What has been used, and done, until a moment. CPU time in seconds."""

    at: float
    coordinator: float
    broker: float
    peers: tuple[float, ...]
    steps: float
    travelled: float
    """Seconds that all steps took to their workers."""
    machine: float
    """CPU time of everything on the cores that are used."""


@dataclass(frozen=True)
class Rate:
    """What lies between two looks."""

    before: Seen
    after: Seen
    broker_cores: int
    cores: int

    @property
    def seconds(self) -> float:
        """Between the looks."""
        return self.after.at - self.before.at

    @property
    def steps(self) -> float:
        """That were answered."""
        return self.after.steps - self.before.steps

    def text(self) -> str:
        """For people."""
        before, after, steps, seconds = self.before, self.after, self.steps, self.seconds
        own = after.coordinator - before.coordinator
        broker = after.broker - before.broker
        each = [b - a for a, b in zip(before.peers, after.peers, strict=True)]
        travel = (after.travelled - before.travelled) / steps
        machine = after.machine - before.machine
        costs = [("coordinator", own), ("broker", broker), ("peers", sum(each))]
        busiest = max(
            (own / seconds, "the coordinator"),
            (broker / seconds / self.broker_cores, "the broker"),
            (max(each) / seconds, "a peer"),
        )
        return "\n".join(
            [
                f"coordinator: {steps:.0f} steps in {seconds:.1f} s, {steps / seconds:.0f} per second;"
                f" {steps / own:.0f} per second of its CPU time",
                f"  CPU of a step: {', '.join(f'{who} {cost / steps * 1e3:.2f} ms' for who, cost in costs)};"
                f" from the coordinator to a worker it takes {travel * 1e3:.1f} ms",
                f"  {self.cores} cores: idle {1 - machine / seconds / self.cores:.0%} of the time, busy with"
                f" something else {(machine - own - broker - sum(each)) / seconds / self.cores:.0%}",
                f"  busy: coordinator {own / seconds:.0%} of a core, broker {broker / seconds:.0%} of"
                f" {self.broker_cores}00 %, peers {statistics.mean(each) / seconds:.0%} of a core each;"
                f" busiest is {busiest[1]}",
            ]
        )


def measure(width: int, jobs: int, peers: int, seconds: float, broker_apart: bool) -> tuple[Rate, str]:
    """The rate, and who had which cores. Raises SystemExit where something does not come about."""
    first, *rest = sorted(os.sched_getaffinity(0))
    others = rest or [first]
    roomy = len(others) > peers + 1
    brokers = others[peers:] if roomy else others
    shared = [first] if broker_apart else others
    places = [[others[number]] for number in range(peers)] if roomy else [shared] * peers
    shared_with = "coordinator" if broker_apart else "broker"
    os.sched_setaffinity(0, others)
    fresh = multiprocessing.get_context("spawn")
    over, counts, travels = fresh.Event(), RawArray("d", peers), RawArray("d", peers)
    with PrivateNode(cpus=frozenset(brokers), schedulers=len(brokers)) as node:
        children = Children()
        environment = {"TUNEMESH_BROKER_URL": node.url("coordinator")}
        children.start(Child("coordinator", ["coordinator"], environment, frozenset({first})))
        players = [
            fresh.Process(target=_play, args=(node.url("admin"), width, number, cores, over, counts, travels))
            for number, cores in enumerate(places)
        ]
        try:
            for player in players:
                player.start()
            watched = [
                psutil.Process(each)
                for each in (children.pids["coordinator"], node.pid, *(player.pid for player in players))
            ]
            names = [f"job{number}" for number in range(jobs)]
            with Client(node.url("operator"), names) as client:
                for job in names:
                    client.submit(request_for(job, round(FASTEST * (seconds + STARTING)) // jobs))
                _wait(client, players, lambda: min(counts) > 0, STARTING, "a peer has got nothing to do")
                # Until all jobs are under way and their tasks have begun.
                enough = sum(counts) + 100 * peers
                _wait(client, players, lambda: sum(counts) > enough, STARTING, "no steps are made")
                before = _look(watched, counts, travels, [first, *others])
                until = before.at + seconds
                _wait(client, players, lambda: time.monotonic() >= until, 2 * seconds, "")
                after = _look(watched, counts, travels, [first, *others])
        finally:
            over.set()
            children.stop()
            for player in players:
                player.join(10.0)
                player.kill()
    where = f"{peers} peer(s) on {'a core each' if roomy else 'that of the ' + shared_with}"
    return Rate(before, after, len(brokers), len({first, *others})), where


def _look(
    watched: Sequence[psutil.Process],
    counts: Sequence[float],
    travels: Sequence[float],
    cores: Sequence[int],
) -> Seen:
    coordinator, broker, *peers = (sum(each.cpu_times()[:2]) for each in watched)
    times = psutil.cpu_times(percpu=True)
    machine = sum(sum(times[core]) - times[core].idle - times[core].iowait for core in set(cores))
    return Seen(
        at=time.monotonic(),
        coordinator=coordinator,
        broker=broker,
        peers=tuple(peers),
        steps=sum(counts),
        travelled=sum(travels),
        machine=machine,
    )


def _wait(
    client: Client, players: Sequence[SpawnProcess], enough: Callable[[], bool], limit: float, problem: str
) -> None:
    """Until it is enough; a peer or a job that ends before is an error."""
    deadline = time.monotonic() + limit
    while not enough():
        if time.monotonic() > deadline:
            raise SystemExit(f"after {limit:.0f} s: {problem}")
        for player in players:
            if player.exitcode is not None:
                raise SystemExit(f"a peer has ended with status {player.exitcode}")
        event = client.poll()
        if isinstance(event, JobEvent) and event.kind in FINAL_KINDS:
            raise SystemExit(f"{event.job} has ended: {event.text}")
        if event is None:
            time.sleep(0.005)


def main() -> None:
    """Run it and print three lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=4, help="devices, and workers of each other kind (4)")
    parser.add_argument("--jobs", type=int, default=4, help="jobs at the same time (4)")
    parser.add_argument("--peers", type=int, default=1, help="processes that answer steps (1)")
    parser.add_argument("--seconds", type=float, default=8.0, help="for which steps are counted (8)")
    parser.add_argument("--broker-apart", action="store_true", help="no peer on the broker's cores")
    given = parser.parse_args()
    rate, where = measure(given.width, given.jobs, given.peers, given.seconds, given.broker_apart)
    print(f"{rate.text()}; {where}")


def request_for(job: str, trials: int) -> Request:
    """A job of so many trials, one in each step."""
    return Request(
        job=job,
        model=BLOB,
        target="mock",
        level=Level(trials=trials, shared=False),
        engines=["mock"],
        settings=Settings(chunk=1),
    )


if __name__ == "__main__":
    main()
