"""The report of a job as it grows: what ``report.json`` would say if the job ended now."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
from cachetools import LRUCache

from tunemesh import past_jobs
from tunemesh.dashboard.board import Detail
from tunemesh.mesh_address import MeshAddress
from tunemesh.report import JobReport, make_job_report, make_report
from tunemesh.report_page import writing
from tunemesh.results import histories
from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.messages import Blob, History
from tunemesh.shared.messages.requests import MOST_ROUNDS
from tunemesh.stage_workers.graph.signatures import unpack_signatures
from tunemesh.stage_workers.stages.histories import read_histories
from tunemesh.tried import Tried, unlearned

MOST_HISTORIES = 2 * MOST_ROUNDS
"""Rounds that are kept decoded, without their schedules: one of a job that grows is read once."""
MOST_PARTS = 20
MOST_HEARD = 10_000
PAUSE = 3.0
"""Seconds for which the report of a job that goes on is not made again."""
SHARE = 10
"""So many times as long as it took to make it rests, too."""


class Reports:
    """Makes reports, one at a time: drawing takes a second, and the plots share settings.

    Args:
        address: of the mesh. Without a store a report says what the coordinator knows, and shows no trials.
    """

    def __init__(self, address: MeshAddress) -> None:
        self._address = address
        self._store = ArtifactStore(address.artifacts) if address.artifacts else None
        self._lock = threading.Lock()
        self._rounds: LRUCache[str, History] = LRUCache(MOST_HISTORIES)
        self._parts: LRUCache[str, tuple[Detail, str, float]] = LRUCache(MOST_PARTS)
        """By job: what it was made of, the part of the page, and when it may be made again."""
        self._heard: LRUCache[str, float] = LRUCache(MOST_HEARD)
        """When trials were heard of whose steps nobody has told about yet: they are told with the update that
        learns from them."""

    def of(self, detail: Detail) -> str:
        """The report of a job as a part of a page; that of a moment ago where it would be made too often.

        Raises:
            TunemeshError: something cannot be read.
        """
        job = detail.progress.job
        with self._lock:
            known = self._parts.get(job)
            if known is not None and (
                known[0] is detail or (detail.progress.finished is None and time.monotonic() < known[2])
            ):
                return known[1]
            began = time.monotonic()
            made = writing.part(Path(job), self._report(detail), detail.progress.finished is None)
            took = time.monotonic() - began
            self._parts[job] = detail, made, time.monotonic() + max(PAUSE, SHARE * took)
            return made

    def past(self, job: str) -> Detail | None:
        """A job that the coordinator has forgotten, as workers remember it; ``None`` where they do not.

        Raises:
            Unavailable: nobody answers who might know it.
        """
        found = past_jobs.ask_mesh(self._address.broker, past_jobs.about(job))
        ended = found.ended
        if ended is None or ended.progress is None:
            return None
        measured = {each.task.id: each for each in ended.measured}
        return Detail(ended.progress, ended.assembled, ended.validated, measured, asked=time.time())

    def _report(self, detail: Detail) -> JobReport:
        progress = detail.progress
        if progress.finished is None:
            progress = msgspec.structs.replace(progress, finished=max(time.time(), progress.accepted))
        if self._store is None:
            return make_job_report(progress, [])
        store = self._store.of(progress.tenant)
        if detail.assembled is not None and detail.validated is not None:
            signatures = unpack_signatures(store.get(detail.assembled.signature))
            measured = list(histories(store, detail.assembled))
            return make_report(progress, detail.validated, signatures, measured, detail.assembled)
        found: list[History] = []
        late: list[Tried] = []
        for each in detail.measured.values():
            found += self._read(each.history, store)
            if each.origin is None:
                hashes = [f"{progress.job} {each.task.id} {trial.candidate.hash}" for trial in each.trials]
                moments = [self._heard.setdefault(known, time.time()) for known in hashes]
                late += unlearned(each.task.id, each.trials, moments)
        report = make_job_report(progress, found)
        tried = sorted([*report.tried, *late], key=lambda each: each.at)
        return msgspec.structs.replace(report, tried=tried)

    def _read(self, blobs: Sequence[Blob], store: ArtifactStore) -> list[History]:
        for blob in blobs:
            if blob.sha256 not in self._rounds:
                (read,) = read_histories([blob], store)
                self._rounds[blob.sha256] = _light(read)
        return [self._rounds[blob.sha256] for blob in blobs]


def _light(history: History) -> History:
    """Without the schedules, which a report does not show."""
    trials = [
        msgspec.structs.replace(each, candidate=msgspec.structs.replace(each.candidate, schedule=b""))
        for each in history.trials
    ]
    return msgspec.structs.replace(history, trials=trials)
