"""What a worker says of itself, every few seconds."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Collection
from concurrent.futures import Future

from tunemesh.broker_config import topology
from tunemesh.shared import codec
from tunemesh.shared.alive import Alive
from tunemesh.shared.errors import TunemeshError
from tunemesh.shared.messages import Serves, WorkerStatus
from tunemesh.shared.transport.link import Link, Outgoing
from tunemesh.stage_workers.devices.drift import Drift

EXPIRES = 10.0
"""Seconds after which nobody needs a status any more."""
LAST_WORD = 2.0
"""Seconds that the last status may take to be confirmed."""


class StatusSender:
    """A thread that publishes the status of ``worker`` every ``interval`` seconds while the link is up and
    steps are taken, or the device does not work."""

    def __init__(
        self,
        link: Link,
        worker: str,
        queue: str,
        serves: Serves,
        interval: float,
        cpus: Collection[int] = (),
        drift: Drift | None = None,
        cage: str = "",
        cell: str = "",
    ) -> None:
        self.worker = worker
        self.step: str | None = None
        """Id of the step under way."""
        self.serving = False
        """Whether the worker takes steps. One that does not is not to be counted on."""
        self.fault = ""
        """Why its device does not work; empty where it does, or that is not known."""
        self._link = link
        self._queue = queue
        self.serves = serves
        self._interval = interval
        self._cpus = sorted(cpus)
        self._drift = drift
        self._cage = cage
        self._exchange, self._key = topology.status_route(cell)
        self._alive = Alive()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="status", daemon=True)

    def start(self) -> None:
        """Send regularly."""
        self._thread.start()

    def send(self) -> Future[None]:
        """Send now. What becomes of it does not matter: the next one follows soon."""
        return self._publish(leaving=False)

    def pause(self) -> None:
        """Say that no steps are taken any more, for now."""
        if self.serving or self.fault:
            self.serving, self.fault = False, ""
            self._publish(leaving=True)

    def serve(self) -> None:
        """Say that steps are taken from now on."""
        self.serving, self.fault = True, ""
        self._publish(leaving=False)

    def broken(self, fault: str) -> None:
        """Say why no steps are taken: the device does not work. Said regularly, until it does."""
        self.serving, self.fault = False, fault
        self._publish(leaving=False)

    def leave(self) -> None:
        """Say that the worker is leaving; nothing is sent after that."""
        self._ended.set()
        self._thread.join(LAST_WORD)
        if not (self.serving or self.fault):
            return
        with contextlib.suppress(TunemeshError, TimeoutError):
            self._publish(leaving=True).result(LAST_WORD)

    def _run(self) -> None:
        while not self._ended.wait(self._interval):
            if self.step is not None:
                self.alive()  # the worker waits for it; steps have limits of their own
            if self.serving or self.fault:
                self.send()

    def alive(self) -> None:
        """Say outside of the mesh, too, that the worker goes on."""
        self._alive.beat()

    def _publish(self, leaving: bool) -> Future[None]:
        status = WorkerStatus(
            worker=self.worker,
            queue=self._queue,
            host=socket.gethostname(),
            slots=0 if leaving or self.fault else 1,
            serves=self.serves,
            step=self.step,
            leaving=leaving,
            cpus=self._cpus,
            drift=self._drift.now if self._drift is not None else 0.0,
            cage=self._cage,
            fault=self.fault,
        )
        return self._link.publish(
            Outgoing(
                exchange=self._exchange,
                key=self._key,
                body=codec.encode(status),
                message_id=status.message_id(),
                type=status.type_name,
                headers=status.headers(),
                expires=EXPIRES,
                mandatory=False,
            )
        )
