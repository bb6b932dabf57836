"""What can be wrong around the processes of a mesh for a while: one thing after the other."""

from __future__ import annotations

import contextlib
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

from benchmarks.chaos_kills import Done
from benchmarks.chaos_mesh import Mesh
from tunemesh.broker_config.node import PrivateNode
from tunemesh.broker_config.tools import run_tool
from tunemesh.shared.errors import BrokerUnavailable

LONGEST = 8.0
"""Seconds that a trouble lasts: a step waits 2 s for the records, and a worker tries again after 10."""
CALM = (1.0, 6.0)
"""Seconds between two of them."""
ALARMS = {
    "out of memory": ("set_vm_memory_high_watermark", "0.00001", "0.4"),
    "out of disk": ("set_disk_free_limit", "1000TB", "256MB"),
}
"""By what a node says: what makes it say so, and what makes it stop. It takes no messages meanwhile."""

Trouble = Callable[[float], contextlib.AbstractContextManager[None]]
"""Wrong for so many seconds: from the beginning of the context to its end."""


def around(mesh: Mesh, rng: random.Random) -> dict[tuple[str, str], Trouble]:
    """All that can be wrong around a mesh."""
    found: dict[tuple[str, str], Trouble] = {
        ("broker", what): partial(_alarm, mesh, rng, what) for what in ALARMS
    }
    if mesh.machines is not None:
        found["artifact store", "full"] = mesh.machines.full
        found["clocks", "wrong"] = partial(mesh.machines.jumped, rng=rng)
    if mesh.database is not None:
        found |= {("database", what): begin for what, begin in mesh.database.troubles.items()}
    return found


def trouble(mesh: Mesh, rng: random.Random, done: Done, end: threading.Event) -> None:
    """One after the other, with calm in between."""
    possible = around(mesh, rng)
    while not end.wait(rng.uniform(*CALM)):
        name, begin = rng.choice(list(possible.items()))
        # A step holds on for a while to what it cannot write: some troubles are over by then.
        with (
            contextlib.suppress(sqlite3.OperationalError, BrokerUnavailable),
            begin(rng.uniform(0.2, LONGEST)),
        ):
            done[name] += 1


@contextlib.contextmanager
def _alarm(mesh: Mesh, rng: random.Random, what: str, seconds: float) -> Iterator[None]:
    """A node raises an alarm, so that no node of its cluster takes messages.

    Raises:
        BrokerUnavailable: it is away itself.
    """
    command, on, off = ALARMS[what]
    node: PrivateNode = rng.choice(mesh.nodes)
    if node.pid is None:
        raise BrokerUnavailable("the node is away")
    try:
        run_tool(node.environment(), "rabbitmqctl", command, on)
        yield
        time.sleep(seconds)
    finally:
        # A node that was started meanwhile has forgotten it.
        run_tool(node.environment(), "rabbitmqctl", command, off)
