"""Nodes of a cluster that are lost with their disks, killed, stand still, or do not see each other: one
trouble at a time, and the next one when the cluster is whole again."""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading
import time
from collections.abc import Callable

from benchmarks.chaos_kills import Done
from tunemesh.broker_config.cluster import TICK, PrivateCluster
from tunemesh.broker_config.network import Network
from tunemesh.shared.errors import BrokerUnavailable

REST = (1.0, 4.0)
"""Seconds for which all nodes are there."""
GONE = (0.5, 3.0)
"""Seconds until somebody replaces a lost node, or starts a killed one."""
LENGTHS = (1.0, TICK / 2, 3.0 * TICK)
"""Seconds that nodes stand still or do not see each other; the last is noticed in any case."""
TRIES = 3
"""Attempts at replacing one: the others may be busy with what it has left."""
WHOLE = 240.0
"""Seconds within which a cluster is whole again."""
PATIENCE = 20.0
"""Seconds until it is looked for the reason why it is not."""


class Nodes:
    """What may happen to the nodes of a cluster.

    Args:
        cluster: one that can be cut.
    """

    def __init__(self, cluster: PrivateCluster, rng: random.Random, done: Done, end: threading.Event) -> None:
        self._cluster, self._rng, self._done, self._end = cluster, rng, done, end

    def trouble(self, losses: int, kills: int, cuts: int, problems: dict[str, str]) -> None:
        """All that is asked for, in an order that chance picks. What goes wrong with the cluster is a problem
        of it."""
        due: list[Callable[[], None]] = [
            *[self._lose] * losses,
            *[self._kill] * kills,
            *[self._stand_still] * (kills // 4),
            *[self._cut] * cuts,
        ]
        self._rng.shuffle(due)
        for each in due:
            if self._end.wait(self._rng.uniform(*REST)):
                return
            try:
                each()
                self._whole_again()
            except BrokerUnavailable as error:
                problems["cluster"] = str(error)
                return

    def _lose(self) -> None:
        number = self._picked("lost with its disk")
        self._cluster.lose(number)
        self._end.wait(self._rng.uniform(*GONE))
        for attempt in range(1, TRIES + 1):
            try:
                self._cluster.replace(number)
                break
            except BrokerUnavailable:
                if attempt == TRIES:
                    raise
                time.sleep(float(attempt))

    def _kill(self) -> None:
        number = self._picked("killed")
        self._cluster.nodes[number].kill()
        self._end.wait(self._rng.uniform(*GONE))
        self._cluster.nodes[number].start()

    def _stand_still(self) -> None:
        node = self._cluster.nodes[self._picked("stood still")]
        assert node.pid is not None
        os.kill(node.pid, signal.SIGSTOP)
        self._end.wait(self._rng.choice(LENGTHS))
        os.kill(node.pid, signal.SIGCONT)

    def _cut(self) -> None:
        network = self._network()
        pairs = list(itertools.combinations(range(len(self._cluster.nodes)), 2))
        alone = self._rng.randrange(len(self._cluster.nodes))
        what, cut = self._rng.choice(
            [
                ("one does not see the others", [pair for pair in pairs if alone in pair]),
                ("none sees another", pairs),
                ("two do not see each other", [self._rng.choice(pairs)]),
            ]
        )
        self._done["cluster", what] += 1
        network.cut(cut, silent=self._rng.random() < 0.5)
        self._end.wait(self._rng.choice(LENGTHS))
        network.heal()

    def _picked(self, what: str) -> int:
        number = self._rng.randrange(len(self._cluster.nodes))
        self._done[f"node {number}", what] += 1
        return number

    def _network(self) -> Network:
        assert self._cluster.network is not None
        return self._cluster.network

    def _whole_again(self) -> None:
        """Do what somebody has to do who runs a cluster (``docs/operations.md``), until it is whole.

        Raises:
            BrokerUnavailable: it is not, in time.
        """
        deadline = time.monotonic() + WHOLE
        while True:
            for node in self._cluster.nodes:
                node.start()  # one that has ended by itself; the machine's own supervisor would do that
            try:
                return self._cluster.wait_whole(PATIENCE)
            except BrokerUnavailable:
                if time.monotonic() > deadline:
                    raise
            for number, node in enumerate(self._cluster.nodes):
                if self._stays_apart(number):
                    self._done[f"node {number}", "started again, as it stayed apart"] += 1
                    node.kill()

    def _stays_apart(self, number: int) -> bool:
        try:
            return self._cluster.stays_apart(number)
        except BrokerUnavailable:  # it waits for the others
            return False
