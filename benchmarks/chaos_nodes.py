"""Nodes of a cluster that are lost with their disks, one at a time, and replaced by empty ones."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter

from tunemesh.broker_config.cluster import PrivateCluster
from tunemesh.shared.errors import BrokerUnavailable

REST = (1.0, 4.0)
"""Seconds for which all nodes are there."""
GONE = (0.5, 3.0)
"""Seconds until somebody replaces a lost node."""
TRIES = 3
"""Attempts at replacing one: the others may be busy with what it has left."""


def lose_them(
    cluster: PrivateCluster,
    rng: random.Random,
    losses: int,
    lost: Counter[str],
    problems: dict[str, str],
    end: threading.Event,
) -> None:
    """Lose ``losses`` nodes, whichever chance picks. What goes wrong with the cluster is a problem of it."""
    for _ in range(losses):
        if end.wait(rng.uniform(*REST)):
            return
        number = rng.randrange(len(cluster.nodes))
        cluster.lose(number)
        lost[f"node {number}, with its disk"] += 1
        end.wait(rng.uniform(*GONE))
        if why := _replaced(cluster, number):
            problems["cluster"] = why
            return


def _replaced(cluster: PrivateCluster, number: int) -> str:
    """Put a new node in the place of a lost one. Returns why that cannot be done; nothing where it is."""
    for attempt in range(TRIES):
        try:
            cluster.replace(number)
            return ""
        except BrokerUnavailable as error:
            why = str(error)
            time.sleep(1.0 + attempt)
    return why
