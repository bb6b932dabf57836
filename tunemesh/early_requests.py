"""Requests that came too early for their tenant. The coordinator says in how many seconds they may come."""

from __future__ import annotations

import logging
import math
import time

from tunemesh.shared.messages import JobEvent, Request

LIMIT = 600.0
"""Seconds for which a request is sent again and again."""

MARGIN = 0.1
"""Seconds that it is sent later than it may be."""

log = logging.getLogger(__name__)


class EarlyRequests:
    """Those of one client, and when each is to be sent again, in seconds of ``time.monotonic``."""

    def __init__(self) -> None:
        self._sent: dict[str, Request] = {}
        self._due: dict[str, tuple[float, float]] = {}
        """By job: until when its request is sent again, and when next."""

    def sent(self, request: Request) -> None:
        """A request is on its way."""
        self._sent[request.job] = request

    def waits(self, event: JobEvent) -> bool:
        """Whether ``event`` says that a request came too early, which is sent again then."""
        if event.kind != "rejected" or not event.again_in or event.job not in self._sent:
            return False
        now = time.monotonic()
        if event.job not in self._due:
            log.warning("job %s: %s; waiting for that", event.job, event.text)
        until, _ = self._due.get(event.job, (now + LIMIT, 0.0))
        again = now + event.again_in + MARGIN
        goes_on = again < until
        self._due[event.job] = until, again if goes_on else math.inf
        return goes_on

    def take(self) -> list[Request]:
        """Those that may come now. They are due once."""
        now = time.monotonic()
        jobs = [job for job, (_, again) in self._due.items() if again <= now]
        for job in jobs:
            self._due[job] = self._due[job][0], math.inf
        return [self._sent[job] for job in jobs]

    def due(self, job: str) -> float:
        """When the request of a job that waits is to be sent again."""
        return self._due[job][1]

    @property
    def next(self) -> float:
        """When the first of all is to be sent again; infinite where none waits."""
        return min((again for _, again in self._due.values()), default=math.inf)
