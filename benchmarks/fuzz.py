"""Spoilt messages against the codec and the core: what is said as a client and as a worker, by the million.

    python -m benchmarks.fuzz --messages 1000000

Messages that are right are spoilt in their bytes, or in any field: values that are too large, of another
type, of another job. What cannot be read must have a reason in one line, with which it goes to the dead
letters; what can be read goes to the core, in which a job of somebody else is under way. That job must end
with exactly its trials, nothing may be raised, and no message may take long.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import msgpack
import msgspec

from benchmarks import markdown
from tests.unit import random_values
from tests.unit.world import World, request
from tunemesh.coordinator.events import Arrived, Instruction, PutAside, WorkerSeen
from tunemesh.shared import codec
from tunemesh.shared.errors import BadMessage
from tunemesh.shared.messages import (
    Cancel,
    Learn,
    Message,
    Query,
    Request,
    SetStrategy,
    StepResult,
    WorkerStatus,
)

AS_CLIENT: tuple[type[Message], ...] = (Request, Cancel, Query, SetStrategy, Learn)
AS_WORKER: tuple[type[Message], ...] = (StepResult, WorkerStatus)
HANG = 2.0
"""Seconds that one message may take, on a busy machine too."""
OF_A_WORLD = 2_000
"""Messages for one world."""
GOOD = "good"
"""The job of somebody else."""
TRIALS = 8
NUMBERS = (0, -1, 1, 2**31, 2**53, 2**63 - 1, 2**64 - 1, -(2**63), 1e308, float("inf"), float("nan"), 0.1)
TEXTS = ("", GOOD, f"{GOOD}/t00/0/0/build", "../../etc/passwd", "\x1b[2J", "\n", "x" * 5_000, "\ud7ff", "-")


@dataclass(slots=True)
class Found:
    """What was seen."""

    sent: Counter[str] = field(default_factory=Counter)
    unreadable: int = 0
    """Messages that the codec has refused."""
    aside: int = 0
    """Those that the core has put aside."""
    taken: int = 0
    left_out: int = 0
    """Statuses of the workers that are there, which their own account may send."""
    faults: list[str] = field(default_factory=list)
    longest: float = 0.0


def spoilt(body: bytes, rng: random.Random) -> bytes:
    """A message with something wrong in it, as a rule."""
    if rng.random() < 0.4:
        return _bytes_spoilt(bytearray(body), rng)
    whole = msgpack.unpackb(body)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        _field_spoilt(whole, rng)
    try:
        return bytes(msgpack.packb(whole))
    except (OverflowError, ValueError, UnicodeEncodeError):  # no MessagePack can say that
        return _bytes_spoilt(bytearray(body), rng)


def _bytes_spoilt(body: bytearray, rng: random.Random) -> bytes:
    for _ in range(rng.choice([1, 1, 2, 8, 64])):
        if not body:
            break
        place = rng.randrange(len(body))
        match rng.randrange(5):
            case 0:
                body[place] = rng.randrange(256)
            case 1:
                del body[place]
            case 2:
                body.insert(place, rng.randrange(256))
            case 3:
                del body[place:]
            case _:
                body[place:place] = body[place : place + rng.randrange(64)]
    return bytes(body)


def _field_spoilt(whole: Any, rng: random.Random) -> None:
    """Change one place in maps and lists, at any depth."""
    while True:
        places = list(whole) if isinstance(whole, dict) else list(range(len(whole)))
        if not places:
            return
        place = rng.choice(places)
        inner = whole[place]
        if isinstance(inner, dict | list) and inner and rng.random() < 0.7:
            whole = inner
            continue
        match rng.randrange(6):
            case 0:
                del whole[place]
            case 1:
                whole[place] = rng.choice(NUMBERS)
            case 2:
                whole[place] = rng.choice(TEXTS)
            case 3:
                whole[place] = rng.choice([None, True, b"\x00" * 9, [], {}, [[[]]], {"type": "x"}])
            case 4 if isinstance(whole, dict):
                whole[rng.choice(TEXTS)] = inner
            case _ if isinstance(inner, list):
                whole[place] = inner * rng.choice([2, 100])
            case _:
                whole[place] = inner
        return


def right(world: World, rng: random.Random, kinds: tuple[type[Message], ...]) -> Message:
    """A message that is right by form: of the world, or by chance."""
    waiting = [step for queue in world.stage.values() for _, step in queue]
    if StepResult in kinds and waiting and rng.random() < 0.5:
        step = rng.choice(waiting)
        if step.job == GOOD:  # this worker does not have it, and knows the nonces of other steps at most
            others = [each.nonce for each in waiting if each.job != GOOD]
            step = msgspec.structs.replace(step, nonce=rng.choice(["", "0" * 32, *others]))
        return world.result(rng.choice(world.workers), step)
    kind = rng.choice(kinds)
    if kind is Request and rng.random() < 0.5:
        return request("bad", trials=rng.randrange(1, 40))
    made: Message = random_values.struct(kind, rng)
    return made


class Fuzz:
    """One run.

    Args:
        seed: the same messages for the same seed.
    """

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.found = Found()

    def world(self, messages: int) -> None:
        """Messages into one world, in which the job of somebody else is under way."""
        world = World(tasks=2, rng=self.rng)
        handle = next(world.ids)
        asked = request(GOOD, trials=TRIALS, batch=4, chunk=2)
        world.coordinator[handle] = asked
        world.delivered.add(handle)
        world.give(Arrived(handle, asked, "client.good.ann.x", "c", "client.good.ann", "good"))
        for number in range(messages):
            if number % 8 == 0:
                world.turn()
            self.one(world)
        try:
            world.run(GOOD)
        except Exception as error:
            self.found.faults.append(f"{GOOD} does not end: {type(error).__name__}: {error}")
            return
        ledger = world.ledger(GOOD)
        done = sum(task.trials for task in ledger.tasks) if ledger.phase == "done" else -1
        if done != TRIALS:
            self.found.faults.append(f"{GOOD} is {ledger.phase} with {done} trials: {ledger.error}")

    def one(self, world: World) -> None:
        """One message."""
        found = self.found
        kinds = self.rng.choice([AS_CLIENT, AS_WORKER])
        body = codec.encode(right(world, self.rng, kinds))
        if self.rng.random() < 0.95:
            body = spoilt(body, self.rng)
        found.sent["client" if kinds is AS_CLIENT else "worker"] += 1
        began = time.perf_counter()
        try:
            self._taken(world, body, kinds)
        except Exception as error:  # whatever it is: that is what is looked for
            found.faults.append(f"{type(error).__name__}: {error} from {body[:200]!r}")
        seconds = time.perf_counter() - began
        found.longest = max(found.longest, seconds)
        if seconds > HANG:
            found.faults.append(f"{seconds:.1f} s for {body[:200]!r}")

    def _taken(self, world: World, body: bytes, kinds: tuple[type[Message], ...]) -> None:
        found = self.found
        try:
            message = codec.decode(body, *kinds)
        except BadMessage as error:
            found.unreadable += 1
            if not str(error) or not str(error).isprintable() or len(str(error)) > 500:
                found.faults.append(f"no reason in one line: {error!r}")
            return
        if isinstance(message, WorkerStatus):
            if message.queue in world.queues:
                found.left_out += 1
                return
            followed: list[Instruction] = world.give(WorkerSeen(message))
        else:
            handle = next(world.ids) + 10**9
            user = "worker.evil" if isinstance(message, StepResult) else "client.evil.eve"
            followed = world.give(Arrived(handle, message, f"{user}.x", "c", user, "evil"))  # type: ignore[arg-type]
        if any(isinstance(each, PutAside) for each in followed):
            found.aside += 1
        else:
            found.taken += 1


def main() -> None:
    """Parse the command line, fuzz, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    fuzz, began = Fuzz(arguments.seed), time.perf_counter()
    left = arguments.messages
    while left > 0:
        fuzz.world(min(left, OF_A_WORLD))
        left -= OF_A_WORLD
    found = fuzz.found
    counts = [found.sent["client"], found.sent["worker"], found.unreadable, found.aside, found.taken]
    row = [
        *(f"{each:,}" for each in (*counts, found.left_out)),
        f"{found.longest:.3f}",
        str(len(found.faults)),
    ]
    names = ["as client", "as worker", "unreadable", "put aside", "taken", "left out", "longest, s", "faults"]
    print("\n".join(markdown.table(names, [row])))
    print(f"\nseed {arguments.seed}, {time.perf_counter() - began:.0f} s")
    for fault in found.faults[:20]:
        print(f"fault: {fault}")


if __name__ == "__main__":
    main()
