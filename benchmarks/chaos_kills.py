"""Processes that are killed, stand still for a while as on a machine that has too much to do, or are cut off
from the broker."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial

from benchmarks.chaos_mesh import Mesh

Done = Counter[tuple[str, str]]
"""How often what was done to whom."""

PAUSES, CUTS = 0.2, 0.15
"""Share of what is done to a process that is not its end."""
LENGTHS = (0.5, 3.0, 25.0)
"""Seconds that a pause or a cut lasts: less than a heartbeat, more than a look at a queue, and so long that
the broker gives the connection up, with all that it held, before the process goes on."""
AWAY = "killed, and away"
HOW = {"kill": "killed", "pause": "stood still", "cut": "cut off"}


def kill_them(
    mesh: Mesh,
    rng: random.Random,
    kills: int,
    away: float,
    pace: float,
    done: Done,
    end: threading.Event,
) -> None:
    """Kill ``kills`` times, with pauses and cuts in between; half way the broker is away.

    Args:
        away: seconds without a broker, if it is one node.
        pace: seconds between two of them.
    """
    killed, half = 0, away > 0.0 and mesh.node is not None
    while killed < kills:
        if end.wait(rng.uniform(0.2, 1.8) * pace):
            return
        if half and killed >= kills // 2 and mesh.node is not None:
            half = False
            mesh.away_until = time.monotonic() + away
            mesh.node.kill()
            killed += 1
            done["broker", AWAY] += 1
            # Others die meanwhile, too: a worker has to start without a broker.
            while time.monotonic() < mesh.away_until and not end.wait(rng.uniform(2.0, 8.0)):
                killed += _harm_one(mesh, rng, done)
        killed += _harm_one(mesh, rng, done)


def _harm_one(mesh: Mesh, rng: random.Random, done: Done) -> bool:
    """Whatever chance picks. Returns whether it was killed."""
    victims = mesh.victims()
    if not victims:
        return False
    # The broker takes 5 s to come back: killed as often as the others it would never be there.
    weights = [0.2 if name == "broker" else 1.0 for name in victims]
    (name,) = rng.choices(list(victims), weights)
    (how,) = rng.choices(list(HOW), [1 - PAUSES - CUTS, PAUSES, CUTS])
    length = rng.choice(LENGTHS)
    if how == "cut":
        name = rng.choice(list(mesh.connections))
        cut_off(mesh, name, length, silent=rng.random() < 0.5)
    else:
        try:
            os.kill(victims[name], signal.SIGKILL if how == "kill" else signal.SIGSTOP)
        except ProcessLookupError:
            return False
        if how == "pause":
            _later(length, partial(os.kill, victims[name], signal.SIGCONT))
    done[name.partition("/")[0] + ("'s child" if "/" in name else ""), HOW[how]] += 1
    return how == "kill"


def cut_off(mesh: Mesh, name: str, length: float, silent: bool) -> None:
    """A process does not reach the broker for a while."""
    for relay in mesh.connections[name]:
        relay.cut(silent)
        _later(length, relay.heal)


def _later(seconds: float, do: Callable[[], None]) -> None:
    def carefully() -> None:
        # The process, or the whole mesh, may be gone by then.
        with contextlib.suppress(ProcessLookupError, RuntimeError):
            do()

    timer = threading.Timer(seconds, carefully)
    timer.daemon = True
    timer.start()
