"""Listens to a mesh for as long as the dashboard is there, and keeps its board up to date.

Events say what happens to jobs. What they do not say is asked for: what waits, every few seconds; all jobs,
at the beginning and every minute, since an event that was sent while somebody was away is lost. Who may only
listen (the role *monitor*) sees what happens from now on.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Literal

from tunemesh.client import Client
from tunemesh.dashboard.board import Board
from tunemesh.shared.errors import BrokerRefused, BrokerUnavailable, TunemeshError
from tunemesh.shared.messages import JobEvent, Snapshot

EVERY = 3.0
"""Seconds after which it is asked what waits, and how busy resources are."""
ALL_EVERY = 60.0
"""Seconds after which all jobs are asked for."""
ALL_EVERY_WITHOUT_EVENTS = 5.0
"""The same where this user may not listen to the events of all jobs."""
ANSWER = 8.0
"""Seconds after which a question counts as not answered."""
TURN = 0.25
"""Seconds that one turn waits for a message."""
PAUSE = 1.0
"""Seconds between two attempts to connect."""

Mode = Literal["client", "asking", "monitor"]
MODES: tuple[Mode, ...] = ("client", "asking", "monitor")
"""What a user may do: listen to all jobs and ask; ask only; listen only. The first counts that the broker
lets pass."""

SILENT = "no coordinator answers; start one with: tunemesh coordinator (or tunemesh up)"

log = logging.getLogger(__name__)


class Feed:
    """A thread that keeps a board up to date. A context manager.

    Args:
        url: broker URL of a user with the role *client* or *monitor*.
        connect: makes a client; of tests.
    """

    def __init__(self, url: str, board: Board, connect: Callable[..., Client] = Client) -> None:
        self._url = url
        self._board = board
        self._connect = connect
        self._stop = threading.Event()
        self._wanted: deque[str] = deque()
        self._answered = threading.Condition()
        self._answers: dict[str, int] = {}
        self._thread = threading.Thread(target=self._run, name="dashboard feed", daemon=True)
        self.refused = ""
        """Why the broker lets this user do nothing at all; empty where it does."""

    def __enter__(self) -> Feed:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10.0)

    def look(self, job: str, timeout: float = ANSWER) -> None:
        """Ask for all that is known of a job; returns when it was answered, or after ``timeout`` seconds."""
        with self._answered:
            before = self._answers.get(job, 0)
            self._wanted.append(job)
            self._answered.wait_for(
                lambda: self._answers.get(job, 0) > before or self._stop.is_set(), timeout
            )
            self._answers.pop(job, None)

    def _run(self) -> None:
        modes = deque(MODES)
        while not self._stop.is_set():
            mode = modes[0]
            try:
                listens = mode != "asking"
                role = "monitor" if mode == "monitor" else "client"
                with self._connect(self._url, everything=listens, role=role) as client:
                    _Session(self._board, client, mode).run(self._stop, self._wanted, self._tell)
            except BrokerRefused as error:
                if len(modes) > 1:
                    modes.popleft()
                    continue
                self.refused = str(error)
                self._board.linked(self.refused, False, time.time())
                modes = deque(MODES)
                self._stop.wait(30 * PAUSE)  # rights change
            except BrokerUnavailable as error:
                self._board.linked(str(error), mode != "monitor", time.time())
                self._stop.wait(PAUSE)
            except TunemeshError as error:
                log.warning("the dashboard starts to listen again: %s", error)
                self._stop.wait(PAUSE)

    def _tell(self, job: str) -> None:
        with self._answered:
            self._answers[job] = self._answers.get(job, 0) + 1
            self._answered.notify_all()


class _Session:
    """One connection."""

    def __init__(self, board: Board, client: Client, mode: Mode) -> None:
        self._board = board
        self._client = client
        self._asks = mode != "monitor"
        self._all_every = ALL_EVERY_WITHOUT_EVENTS if mode == "asking" else ALL_EVERY
        self._began = 0.0
        self._all_at = self._next_at = 0.0
        self._asked: dict[str, tuple[str, float]] = {}
        """Questions under way: the job, or nothing for the list of all, and when they were asked."""
        self._known = 0
        """Jobs that were listed so far in this round."""
        self._heard = time.monotonic()

    def run(self, stop: threading.Event, wanted: deque[str], tell: Callable[[str], None]) -> None:
        """Listen until told to stop.

        Raises:
            BrokerRefused: this user lacks a right.
        """
        if not self._asks:
            self._board.linked("", False, time.time())
        while not stop.is_set():
            if self._asks and not self._client.away:
                self._ask(wanted)
            message, correlation_id = self._client.hear(TURN)
            now = time.time()
            if self._client.away:
                self._asked.clear()
                self._all_at = self._next_at = 0.0
                self._heard = time.monotonic()
                self._board.linked(f"the broker is away: {self._client.away}", self._asks, now)
                continue
            if message is not None:
                self._heard = time.monotonic()
                self._board.linked("", self._asks, now)
            elif self._asks and time.monotonic() - self._heard > ANSWER + EVERY:
                self._board.linked(SILENT, True, now)
            elif not self._asks:
                self._board.linked("", False, now)
            match message:
                case JobEvent():
                    self._board.event(message, now)
                case Snapshot() if correlation_id in self._asked:
                    job, _ = self._asked.pop(correlation_id)
                    if job:
                        self._board.told(job, message, now)
                        tell(job)
                    else:
                        self._listed(message, now)

    def _ask(self, wanted: deque[str]) -> None:
        now = time.monotonic()
        self._asked = {key: question for key, question in self._asked.items() if now - question[1] < ANSWER}
        while wanted:
            job = wanted.popleft()
            self._asked[self._client.ask(job)] = (job, now)
        if any(not job for job, _ in self._asked.values()):
            return
        if now >= self._all_at:
            self._all_at, self._began, self._known = now + self._all_every, time.time(), 0
            self._next_at = 0.0
        if now >= self._next_at:
            self._next_at = now + EVERY
            self._asked[self._client.ask(skip=self._known)] = ("", now)

    def _listed(self, snapshot: Snapshot, now: float) -> None:
        self._board.listed(snapshot, now)
        self._known += len(snapshot.jobs)
        if snapshot.left_out and snapshot.jobs:
            self._next_at = 0.0  # the rest, at once
        elif self._began:
            self._board.not_listed_since(self._began)
            self._began = 0.0
