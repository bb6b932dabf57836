"""Spoilt messages over a real broker: what a coordinator makes of them, and whether others notice.

    python -m benchmarks.fuzz_broker --messages 50000

A client of the tenant *evil* and a worker publish what :mod:`benchmarks.fuzz` makes, to a coordinator on a
private node that has a job of the tenant *good*, which waits for somebody who builds. Every message that
cannot be read has to be among the dead letters, with its reason; the coordinator has to live, to answer
soon, and to have the job as before.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pika

from benchmarks import markdown
from benchmarks.fuzz import AS_CLIENT, right, spoilt
from tests.unit.world import World, request
from tunemesh.broker_config import topology
from tunemesh.broker_config.node import PrivateNode
from tunemesh.broker_config.users import Management
from tunemesh.client import Client
from tunemesh.shared import codec
from tunemesh.shared.accounts import account_of
from tunemesh.shared.errors import BadMessage
from tunemesh.shared.messages import JobEvent, Message, StepResult

GOOD, EVIL = "client.good.ann", "client.evil.eve"
PASSWORD = "not-a-secret"
AT_ONCE = 500
"""Messages between two looks at the dead letters, of which the broker keeps 1,000."""
ANSWER = 10.0
"""Seconds in which the coordinator has to answer the other tenant, whatever else it is sent."""
START = 60.0
"""Seconds until the coordinator is there."""
QUIET = 60.0
"""Seconds in which it has to be through with what it was sent."""


@dataclass(slots=True)
class Letters:
    """What was found among the dead letters."""

    count: int = 0
    without_reason: int = 0
    bodies: Counter[bytes] = field(default_factory=Counter)

    def take(self, channel: Any) -> None:
        """All that are there."""
        while True:
            method, properties, body = channel.basic_get("dead-letter", auto_ack=True)
            if method is None:
                return
            self.count += 1
            self.bodies[body] += 1
            self.without_reason += not (properties.headers or {}).get("reason")


@contextlib.contextmanager
def channel(url: str) -> Iterator[Any]:
    """With confirms."""
    with pika.BlockingConnection(pika.URLParameters(url)) as link:
        opened = link.channel()
        opened.confirm_delivery()
        yield opened


def told(client: Client, limit: float = ANSWER) -> JobEvent:
    """The next event.

    Raises:
        TimeoutError: there is none in ``limit`` seconds.
    """
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        if (event := client.poll()) is not None:
            return event
        time.sleep(0.02)
    raise TimeoutError("the coordinator does not answer")


def fuzz(messages: int, seed: int) -> tuple[list[str], list[str]]:
    """A row of the table, and what is wrong."""
    faults: list[str] = []
    with PrivateNode() as node:
        users = Management(node.management_url, node.password("admin"), topology.VHOST)
        for name in (GOOD, EVIL):
            account = account_of(name)
            assert account is not None
            users.add(account, PASSWORD)
        host = node.url("client").partition("@")[2]
        address = {name: f"amqp://{name}:{PASSWORD}@{host}" for name in (GOOD, EVIL)}
        command = [sys.executable, "-m", "tunemesh", "coordinator", "--broker", node.url("coordinator")]
        # What a tenant may send in a second would be another benchmark.
        command += ["--limit", "evil:requests=100000", "--limit", "evil:queries=100000"]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as coordinator, _device(node):
            try:
                row = _fuzz(node, address, messages, random.Random(seed), faults)
                if coordinator.poll() is not None:
                    faults.append(f"the coordinator has ended with status {coordinator.returncode}")
            finally:
                coordinator.terminate()
        node.kill()
    return row, faults


@contextlib.contextmanager
def _device(node: PrivateNode) -> Iterator[None]:
    """One that serves the target of the other tenant's job, which then waits for somebody who builds for as
    long as it takes. Without a device it would fail after a minute."""
    core = min(os.sched_getaffinity(0))
    command = [sys.executable, "-m", "tunemesh", "worker", f"profile-cpu-{core}", "--engine", "mock"]
    command += ["--device", f"cpu:{core}", "--target", "mock"]
    with tempfile.TemporaryDirectory() as artifacts:
        environment = os.environ | {
            "TUNEMESH_BROKER_URL": node.url("worker"),
            "TUNEMESH_ARTIFACTS": artifacts,
            "TUNEMESH_RECORDS": "none",
        }
        with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as worker:
            try:
                yield
            finally:
                worker.terminate()


def _fuzz(
    node: PrivateNode, address: dict[str, str], messages: int, rng: random.Random, faults: list[str]
) -> list[str]:
    unreadable: Counter[bytes] = Counter()
    sent: Counter[str] = Counter()
    letters, longest, began = Letters(), 0.0, time.monotonic()
    # Steps of a job that this mesh does not have: what is right by form is of nobody.
    world = World(tasks=2, rng=rng)
    world.publish(request("bad", trials=8, batch=4, chunk=2))
    with (
        Client(address[GOOD], ["good"]) as good,
        channel(address[EVIL]) as client,
        channel(node.url("worker")) as worker,
        channel(node.url("admin")) as admin,
    ):
        good.submit(request("good", trials=8))
        assert told(good, START).kind == "accepted"
        for number in range(messages):
            as_client = rng.random() < 0.5
            kinds: tuple[type[Message], ...] = AS_CLIENT if as_client else (StepResult,)
            if number % 8 == 0:
                world.turn()
            message = right(world, rng, kinds)
            body = spoilt(codec.encode(message), rng)
            try:
                codec.decode(body, *kinds)
            except BadMessage:
                unreadable[body[: codec.MAX_MESSAGE]] += 1
            if as_client:
                _publish(client, topology.CLIENTS, topology.client_key("request", "evil"), body, EVIL)
            else:
                _publish(worker, topology.RESULTS, topology.result_key("build"), body, "worker")
            sent["client" if as_client else "worker"] += 1
            if number % AT_ONCE == AT_ONCE - 1:
                letters.take(admin)
                asked = time.monotonic()
                jobs = [each.job for each in good.snapshot("good").jobs]
                longest = max(longest, time.monotonic() - asked)
                if jobs != ["good"]:
                    faults.append(f"after {number} messages good has the jobs {jobs}")
        deadline = time.monotonic() + QUIET
        while unreadable - letters.bodies and time.monotonic() < deadline:
            letters.take(admin)
            time.sleep(0.1)
        lost = unreadable - letters.bodies
        if lost:
            faults.append(
                f"{lost.total()} bad messages are no dead letters, such as {next(iter(lost))[:100]!r}"
            )
        if letters.without_reason:
            faults.append(f"{letters.without_reason} dead letters have no reason")
        good.cancel("good")
        said: list[str] = []
        with contextlib.suppress(TimeoutError):
            while not said or said[-1] != "good cancelled":
                event = told(good)
                said.append(f"{event.job} {event.kind}")
        if said[-1:] != ["good cancelled"]:
            phases = [f"{each.job} {each.phase}" for each in good.snapshot("good").jobs]
            faults.append(f"its owner is not told that good is cancelled; told {said[-5:]}, it is {phases}")
    counts = (sent["client"], sent["worker"], unreadable.total(), letters.count)
    seconds = time.monotonic() - began
    return [*(f"{each:,}" for each in counts), f"{longest:.2f}", f"{seconds:.0f}", str(len(faults))]


def _publish(channel: Any, exchange: str, key: str, body: bytes, user: str) -> None:
    channel.basic_publish(exchange, key, body, pika.BasicProperties(user_id=user, delivery_mode=2))


def main() -> None:
    """Parse the command line, fuzz, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--messages", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    row, faults = fuzz(arguments.messages, arguments.seed)
    names = ["as client", "as worker", "unreadable", "dead letters", "slowest answer, s", "seconds", "faults"]
    print("\n".join(markdown.table(names, [row])))
    for fault in faults[:20]:
        print(f"fault: {fault}")


if __name__ == "__main__":
    main()
