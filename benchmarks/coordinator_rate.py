"""How many step results per second one coordinator turns into dispatches.

A real broker, a real coordinator pinned to one core, and peers that play all workers and answer every step at
once with a result of the usual size.

    python -m benchmarks.coordinator_rate
    python -m benchmarks.coordinator_rate --width 32 --jobs 16
    python -m benchmarks.coordinator_rate --width 32 --jobs 16 --peers 4

With many workers many results come at once, as on a mesh that needs many steps. On few cores broker
and peers share one, and the rate is as a rule theirs; what the coordinator could do is one over the CPU time
that a step takes it. Each peer is a process. With a core for each of them and some more, the broker has those
that are left for itself.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections.abc import Sequence
from multiprocessing.queues import SimpleQueue
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
from tunemesh.shared.transport.link import Delivery, Link, Outgoing, Subscription

RESULTS = 4_000
"""About so many steps, whatever the number of jobs."""
SHARED = (topology.BUILD_CPU, topology.MODEL_UPDATE)
"""Queues of several workers."""
LIMIT = 120.0
"""Seconds."""
SCHEDULE = os.urandom(800)
"""A compressed trace has about this size, a shared object that of :data:`OBJECT`."""
Counts = SimpleQueue[int]
"""Between processes."""
OBJECT = Blob("0" * 64, 25_000, os.urandom(25_000))


class Peer:
    """All workers, or a part of each, in one process; instant results."""

    def __init__(self, url: str, width: int, reports: bool) -> None:
        self._reports = reports
        self._width = width
        self._world = World(tasks=8)
        queues = list(SHARED)
        names = [topology.device_queue(f"cpu-{n}") for n in range(width)]
        self._workers = {queue: FakeWorker(queue, f"{queue}@bench") for queue in [*queues, *names]}
        self._link = Link(url, "bench workers", subscriptions=[Subscription(q) for q in queues])
        self._link.start()
        for device in names:
            self._await(device)
        self._devices = Link(url, "bench devices", subscriptions=[Subscription(q) for q in names])
        self._devices.start()
        self.results = 0

    def _await(self, queue: str) -> None:
        """Announce the workers until the coordinator has made their queue."""
        deadline = time.monotonic() + 30.0
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
        for queue, worker in self._workers.items():
            for number in range(self._width if queue in SHARED else 1):
                status = msgspec.structs.replace(worker.status(), worker=f"{worker.name}-{number}")
                self._send(status, topology.STATUS, "")

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
            for link in (self._link, self._devices):
                event = link.next(0.0005)
                if isinstance(event, Delivery):
                    self._answer(link, event)

    def _answer(self, link: Link, delivery: Delivery) -> None:
        try:
            step = codec.decode(delivery.body, Step)
        except BadMessage as error:
            raise SystemExit(str(error)) from None
        result = self._world.result(self._workers[delivery.queue], step)
        self._send(_sized(result), topology.RESULTS, topology.result_key(result.timing.stage))
        link.ack(delivery)
        self.results += 1

    def close(self) -> None:
        """Leave."""
        self._link.close()
        self._devices.close()


def _play(url: str, width: int, reports: bool, cores: Sequence[int], over: Event, counts: Counts) -> None:
    """A peer, until it is over; says that it is ready by a 0, and then how many steps it has answered."""
    os.sched_setaffinity(0, cores)
    peer = Peer(url, width, reports)
    counts.put(0)
    try:
        while not over.is_set():
            peer.serve(time.monotonic() + 0.2)
    finally:
        peer.close()
        counts.put(peer.results)


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


def main() -> None:
    """Run it and print one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=4, help="devices, and workers of each other kind (4)")
    parser.add_argument("--jobs", type=int, default=4, help="jobs at the same time (4)")
    parser.add_argument("--peers", type=int, default=1, help="processes that answer steps (1)")
    arguments = parser.parse_args()
    first, *rest = sorted(os.sched_getaffinity(0))
    others = rest or [first]
    roomy = len(others) > arguments.peers + 1
    brokers = others[arguments.peers :] if roomy else others
    peers = others[: arguments.peers] if roomy else others
    os.sched_setaffinity(0, peers)
    fresh = multiprocessing.get_context("spawn")
    over, counts = fresh.Event(), fresh.SimpleQueue()
    with PrivateNode(cpus=frozenset(brokers)) as node:
        children = Children()
        environment = {"TUNEMESH_BROKER_URL": node.url("coordinator")}
        children.start(Child("coordinator", ["coordinator"], environment, frozenset({first})))
        coordinator = psutil.Process(children.pids["coordinator"])
        players = [
            fresh.Process(
                target=_play, args=(node.url("admin"), arguments.width, not number, peers, over, counts)
            )
            for number in range(arguments.peers)
        ]
        try:
            for player in players:
                player.start()
            for _ in players:
                counts.get()
            jobs = [f"job{number}" for number in range(arguments.jobs)]
            with Client(node.url("client"), jobs) as client:
                before, started = coordinator.cpu_times(), time.monotonic()
                for job in jobs:
                    client.submit(_request(job, RESULTS * arguments.peers // 2 // arguments.jobs))
                ended: set[str] = set()
                while len(ended) < len(jobs) and time.monotonic() - started < LIMIT:
                    event = client.poll()
                    if isinstance(event, JobEvent) and event.kind in FINAL_KINDS:
                        ended.add(event.job)
                    elif event is None:
                        time.sleep(0.005)
                seconds, after = time.monotonic() - started, coordinator.cpu_times()
            over.set()
            count = sum(counts.get() for _ in players)
        finally:
            over.set()
            children.stop()
            for player in players:
                player.join(10.0)
                player.kill()
    assert len(ended) == len(jobs), f"only {sorted(ended)} ended in {LIMIT:.0f} s"
    cpu = after.user + after.system - before.user - before.system
    shared = f"broker on {len(brokers)} core(s), {len(players)} process(es) as workers on {len(peers)}"
    print(
        f"coordinator: {count} step results in {seconds:.1f} s, {count / seconds:.0f} per second;"
        f" {cpu / count * 1e3:.2f} ms of CPU each, which is {count / cpu:.0f} per second"
        f" ({shared}{'' if roomy else ', the same'})"
    )


def _request(job: str, trials: int) -> Request:
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
