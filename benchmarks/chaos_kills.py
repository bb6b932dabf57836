"""Processes that are killed, or stand still for a while as on a machine that has too much to do."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter

from benchmarks.chaos_mesh import Mesh

PAUSES = 0.2
"""Share of what is done to a process that is not its end."""
LENGTHS = (0.5, 3.0, 25.0)
"""Seconds that a pause lasts: less than a heartbeat, more than a look at a queue, and so long that the broker
gives the connection up, with all that it held, before the process goes on."""


def kill_them(
    mesh: Mesh, rng: random.Random, kills: int, away: float, killed: Counter[str], end: threading.Event
) -> None:
    """``kills`` times, or paused; half way the broker is away for ``away`` seconds."""
    for number in range(kills):
        if end.is_set():
            return
        time.sleep(rng.uniform(0.1, 0.8))
        if number == kills // 2 and away and mesh.node is not None:
            mesh.away_until = time.monotonic() + away
            mesh.node.kill()
            killed["broker, and away"] += 1
            # Others die meanwhile, too: a worker has to start without a broker.
            while time.monotonic() < mesh.away_until and not end.is_set():
                time.sleep(rng.uniform(2.0, 8.0))
                kill_one(mesh, rng, killed)
        kill_one(mesh, rng, killed)


def kill_one(mesh: Mesh, rng: random.Random, killed: Counter[str]) -> None:
    victims = mesh.victims()
    if not victims:
        return
    # The broker takes 5 s to come back: killed as often as the others it would never be there.
    weights = [0.2 if name == "broker" else 1.0 for name in victims]
    (name,) = rng.choices(list(victims), weights)
    pause = rng.random() < PAUSES
    try:
        if pause:
            os.kill(victims[name], signal.SIGSTOP)
            later = threading.Timer(rng.choice(LENGTHS), _go_on, (victims[name],))
            later.daemon = True
            later.start()
        else:
            os.kill(victims[name], signal.SIGKILL)
    except ProcessLookupError:
        return
    what = name.partition("/")[0] + ("'s child" if "/" in name else "")
    killed[what + (", paused" if pause else "")] += 1


def _go_on(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
