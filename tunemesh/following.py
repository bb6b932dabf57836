"""Jobs on their way: submitted, listened to, stopped early, and what they end with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tunemesh import measured_files
from tunemesh.client import Client
from tunemesh.early_stop import EarlyStop
from tunemesh.model_files import ModelFile
from tunemesh.report import Report
from tunemesh.report_page import writing
from tunemesh.results import save_measured, save_results
from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.errors import BrokerUnavailable, LinkDown, TunemeshError
from tunemesh.shared.messages import JobEvent, Request

STOPPING = (
    "stopping early: what is under way is finished and the best is kept, where something was measured;"
    " Ctrl-C again leaves at once"
)


@dataclass(frozen=True, slots=True)
class Ending:
    """How one job ended: with a report, or with the reason why there is none."""

    job: str
    report: Report | None
    error: str = ""
    measured: Path | None = None
    """Where there is no result: the folder with what was measured all the same."""

    @property
    def story(self) -> str:
        """The reason, and what is left."""
        left = f"; what was measured is in {self.measured}" if self.measured is not None else ""
        return f"{self.error}{left}"


class Watcher:
    """Told of what goes on; does nothing by itself."""

    def note(self, text: str) -> None:
        """One line on what is going on."""

    def submitting(self) -> None:
        """The mesh is up, and the first request is about to be published."""

    def event(self, event: JobEvent) -> None:
        """Something happened to a job."""

    def refresh(self) -> None:
        """Called about twice a second."""


def waves(models: Sequence[ModelFile]) -> list[list[int]]:
    """The numbers of the models that are tuned at the same time. Those of a list follow each other: each
    takes over what was measured for those before."""
    places: dict[str, int] = {}
    found: list[list[int]] = []
    for number, model in enumerate(models):
        place = places[model.origin] = places.get(model.origin, -1) + 1 if model.origin else 0
        while len(found) <= place:
            found.append([])
        found[place].append(number)
    return found


class Following:
    """Submits jobs and listens until they have ended.

    Args:
        store: has what they make.
        out: folder of the results.
        request: the message of a job, for a model, and after jobs whose measurements serve it.
        supervise: called on every turn.
        html: whether every report gets a page for people.
    """

    def __init__(
        self,
        client: Client,
        store: ArtifactStore,
        out: Path,
        request: Callable[[str, ModelFile, Sequence[str]], Request],
        watcher: Watcher,
        early_stop: EarlyStop | None,
        supervise: Callable[[], None],
        html: bool = True,
    ) -> None:
        self._client = client
        self._store = store
        self._out = out
        self._request = request
        self._watcher = watcher
        self._early_stop = early_stop
        self._supervise = supervise
        self._html = html
        self._done: dict[str, list[str]] = {}
        self.open: set[str] = set()
        """Jobs that have not ended."""
        self.endings: dict[str, Ending] = {}
        self._kept_badly = False

    def follow(self, jobs: Mapping[str, ModelFile]) -> None:
        """Submit ``jobs``, by id, and return when all have ended; none is begun after an early stop was asked
        for."""
        if self._early_stop is not None and self._early_stop.asked:
            self.endings |= {job: Ending(job, None, "stopped early, before it had begun") for job in jobs}
            return
        for job, model in jobs.items():
            known = self._done.get(model.origin, []) if model.origin else []
            self._client.submit(self._request(job, model, known))
            self.open.add(job)
        to_stop: set[str] | None = None
        for event in self._client.follow(list(jobs)):
            self._supervise()
            if self._early_stop is not None and self._early_stop.asked and to_stop is None:
                to_stop = set(jobs)
                self._watcher.note(STOPPING)
            if to_stop:
                to_stop = stop(self._client, to_stop & self.open)
            if event is None:
                self._watcher.refresh()
                continue
            self._watcher.event(event)
            ending = _ending(event, self._store, self._out)
            if ending is not None and self._html and (ending.report or ending.measured):
                writing.write_beside(self._out / event.job)
            if ending is None:
                self._keep(event)
            else:
                self.open.discard(event.job)
                self.endings[event.job] = ending
                # A job whose results could not be written has them in the mesh all the same.
                if event.kind == "done":
                    self._done.setdefault(jobs[event.job].origin, []).append(event.job)

    def _keep(self, event: JobEvent) -> None:
        """What was measured is written down while the job runs. That it cannot be is said once."""
        if event.progress is None or not event.measured:
            return
        try:
            measured_files.keep(
                self._store.of(event.progress.tenant),
                event.job,
                event.progress.target,
                event.measured,
                self._out / event.job,
            )
        except TunemeshError as error:
            if not self._kept_badly:
                self._watcher.note(f"what is measured cannot be written down yet: {error}")
            self._kept_badly = True


def stop(client: Client, jobs: set[str]) -> set[str]:
    """Ask for ``jobs`` to be stopped early. Returns those for which the broker could not be reached."""
    for job in sorted(jobs):
        try:
            client.cancel(job, keep=True)
        except (BrokerUnavailable, LinkDown):
            return jobs
        jobs = jobs - {job}
    return jobs


def _ending(event: JobEvent, store: ArtifactStore, out: Path) -> Ending | None:
    match event.kind:
        case "done" if event.progress is not None:
            try:
                report = save_results(
                    store, event.progress, event.assembled, event.validated, out / event.job
                )
            except TunemeshError as error:
                return Ending(event.job, None, str(error))
            measured_files.drop(out / event.job)
            return Ending(event.job, report)
        case "failed" | "cancelled" if event.progress is not None and event.measured:
            folder = out / event.job
            try:
                save_measured(store, event.progress, event.measured, folder)
            except TunemeshError as error:
                return Ending(event.job, None, f"{event.text}; what was measured cannot be fetched: {error}")
            measured_files.drop(folder)
            return Ending(event.job, None, event.text, folder)
        case "failed" | "cancelled" | "rejected":
            return Ending(event.job, None, event.text)
    return None
