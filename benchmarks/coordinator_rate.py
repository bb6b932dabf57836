"""How many step results per second one coordinator turns into dispatches.

A real broker, a real coordinator pinned to one core, and a peer on the other core that plays all workers and
answers every step at once with a result of the usual size.

    python -m benchmarks.coordinator_rate
"""

from __future__ import annotations

import os
import resource
import time

import msgspec

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
    Message,
    Request,
    Settings,
    Step,
    StepResult,
    UpdateDone,
    WorkerStatus,
)
from tunemesh.shared.transport.link import Delivery, Link, Outgoing, Subscription

JOBS = 4
TRIALS = 500
DEVICES = 4
LIMIT = 120.0
"""Seconds."""
SCHEDULE = os.urandom(800)
"""A compressed trace has about this size, a shared object that of :data:`OBJECT`."""
OBJECT = Blob("0" * 64, 25_000, os.urandom(25_000))


class Peer:
    """All workers in one process; instant results."""

    def __init__(self, url: str) -> None:
        self._world = World(tasks=8)
        queues = [topology.BUILD_CPU, topology.MODEL_UPDATE]
        devices = [topology.device_queue(f"cpu-{n}") for n in range(DEVICES)]
        self._workers = {queue: FakeWorker(queue, f"{queue}@bench") for queue in [*queues, *devices]}
        self._link = Link(url, "bench workers", subscriptions=[Subscription(q) for q in queues])
        self._link.start()
        for device in devices:
            self._await(device)
        self._devices = Link(url, "bench devices", subscriptions=[Subscription(q) for q in devices])
        self._devices.start()
        self.results = 0

    def _await(self, queue: str) -> None:
        """Announce the workers until the coordinator has made their queue."""
        deadline = time.monotonic() + 30.0
        while time.monotonic() < deadline:
            self._report()
            try:
                self._link.depth(queue).result(5.0)
                return
            except LookupError:
                time.sleep(0.2)
        raise SystemExit(f"the coordinator did not make {queue}")

    def _report(self) -> None:
        for worker in self._workers.values():
            self._send(worker.status(), topology.STATUS, "")

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
            if time.monotonic() - reported > 2.0:
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
    first, *rest = sorted(os.sched_getaffinity(0))
    others = frozenset(rest or [first])
    os.sched_setaffinity(0, others)
    with PrivateNode(cpus=others) as node:
        children = Children()
        environment = {"TUNEMESH_BROKER_URL": node.url("coordinator")}
        children.start(Child("coordinator", ["coordinator"], environment, frozenset({first})))
        peer = Peer(node.url("admin"))
        try:
            jobs = [f"job{number}" for number in range(JOBS)]
            with Client(node.url("client"), jobs) as client:
                for job in jobs:
                    settings = Settings(chunk=1)
                    client.submit(
                        Request(
                            job=job,
                            model=BLOB,
                            target="mock",
                            trials=TRIALS,
                            engines=["mock"],
                            settings=settings,
                        )
                    )
                before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
                ended: set[str] = set()
                while len(ended) < JOBS and time.monotonic() - started < LIMIT:
                    peer.serve(time.monotonic() + 0.2)
                    while isinstance(event := client.poll(), JobEvent):
                        if event.kind in FINAL_KINDS:
                            ended.add(event.job)
                seconds = time.monotonic() - started
        finally:
            children.stop()
            peer.close()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert len(ended) == JOBS, f"only {sorted(ended)} ended in {LIMIT:.0f} s"
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(
        f"coordinator: {peer.results} step results in {seconds:.1f} s,"
        f" {peer.results / seconds:.0f} per second"
        f" (broker and all workers on the other core; coordinator used {cpu:.1f} s of CPU with its start)"
    )


if __name__ == "__main__":
    main()
