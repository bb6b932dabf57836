"""How good a schedule is that was chosen without a measurement: one network is left out of the records, and
what the others say is measured on its tasks.

Of each task of that network the same is asked as at the levels ``instant`` and ``quick``: one candidate, and
eight. All of them, and the best schedule that is known, are built, checked, and measured in turns, here and
now. Where none of the chosen is right and faster, the untuned kernel counts, as it would in the model.
"""

from __future__ import annotations

import hashlib
import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from tunemesh.shared.errors import BadInput
from tunemesh.shared.messages import Settings
from tunemesh.stage_workers import platforms
from tunemesh.stage_workers.engines.protocol import BuildCall, Engine, Examples, UpdateCall
from tunemesh.stage_workers.platforms.protocol import CompileCall, ConfirmCall, Platform, ProfileCall
from tunemesh.stage_workers.records.questions import Filter
from tunemesh.stage_workers.sandbox.sandbox import CallFailure, Sandbox
from tunemesh.stage_workers.stages.known import SIMILAR, examples_of, leaders_of

if TYPE_CHECKING:
    from tunemesh.stage_workers.records.database import Database
    from tunemesh.stage_workers.records.rows import Task

INSTANT, QUICK = 1, 8
"""Candidates of each task at these levels."""
ATTEMPTS = 3
"""Candidates that ``instant`` tries in turn until one can be run and is right."""
TOPS = (1, 5, 8)
LIMIT = 60.0
"""Seconds that a call may take."""
GLANCE = Settings(repeats=1, min_repeat_ms=20)
"""Shows which kernels are far slower than the best."""
NEAR = 1.5
"""Times the best latency up to which a kernel is measured again, in turns with the others."""
MEASURED = Settings(repeats=2, min_repeat_ms=50)
"""Four turns of 20 ms each."""


class Chosen(Struct, frozen=True, kw_only=True):
    """What was chosen for a task from a part of the records. Latencies in seconds."""

    share: float
    """Of the other tasks in the records."""
    similar: int
    """Tasks with the same operator that there were to choose from."""
    instant: float
    """Latency with the one candidate of level ``instant``."""
    top: dict[int, float]
    """Latency of the fastest of the first so many of level ``quick``; asked for the largest share alone."""
    choosing: float
    """Seconds that choosing one candidate took."""
    building: float
    """Seconds that building it took."""


class OfTask(Struct, frozen=True, kw_only=True):
    """What came of a task."""

    network: str
    task: str
    name: str
    best: float
    """Latency of the best that is known: in the records, among what was chosen, or without tuning."""
    untuned: float | None
    chosen: list[Chosen]


class _Choice(Struct, kw_only=True):
    share: float
    similar: int
    instant: list[tuple[str, bytes]]
    quick: list[tuple[str, bytes]]
    choosing: float


class Evaluation:
    """Answers for one engine and one device.

    Args:
        database: of the records.
        sandbox: in which the engine and the device's platform run.
        engine: whose schedules they are.
        device: as :attr:`~stage_workers.devices.devices.Device.inside`.
        shares: parts of the records to choose from.
    """

    def __init__(
        self, database: Database, sandbox: Sandbox, engine: str, device: str, shares: Sequence[float]
    ) -> None:
        self._database = database
        self._sandbox = sandbox
        self._engine = engine
        self._device = device
        self._shares = shares

    def networks(self) -> list[str]:
        """Those that were tuned to their end."""
        from tunemesh.stage_workers.records import queries

        with self._database.reading() as connection:
            return queries.models(connection)

    def of_network(self, network: str, note: Callable[[str], None], most: int = 0) -> list[OfTask]:
        """What came of the tasks of a network.

        Args:
            note: is told what cannot be evaluated, and why.
            most: so many tasks at most; 0: all.

        Raises:
            BadInput: nothing is known of it.
        """
        from tunemesh.stage_workers.records import queries

        with self._database.reading() as connection:
            tasks = queries.tasks_of(connection, network, self._engine)
        if not tasks:
            raise BadInput(f"the records know no model {network!r} that {self._engine} has tuned")
        found = []
        # Of all kinds: they are ordered by name.
        for task in tasks[:: -(-len(tasks) // most) if most else 1]:
            try:
                found.append(self._of_task(network, task))
            except _Unusable as error:
                note(f"{network}: {task.name}: {error}")
        return found

    def _of_task(self, network: str, task: Task) -> OfTask:
        from tunemesh.stage_workers.records import queries

        with self._database.reading() as connection:
            best = queries.fastest(connection, task.key, Filter(engine=self._engine))[0]
            ((workload, _),) = queries.by_workload(connection, [best])
            baseline = queries.baseline(connection, task.key)
        choices = [self._choice(network, task, workload, share) for share in self._shares]
        names = {best.trial.hash: best.trial.schedule}
        for choice in choices:
            names |= dict(choice.instant) | dict(choice.quick)
        built: dict[str, tuple[bytes, float]] = {}
        for name, schedule in names.items():
            began = time.monotonic()
            call = BuildCall(workload=workload, target=task.target, schedule=schedule)
            answer = self._sandbox.call(self._engine, Engine.build, call, LIMIT)
            if not isinstance(answer, CallFailure) and answer.artifact is not None:
                built[name] = answer.artifact, time.monotonic() - began
        if best.trial.hash not in built:
            raise _Unusable("the best that is known cannot be built any more")
        latencies = self._measured(workload, task.target, {name: code for name, (code, _) in built.items()})
        if best.trial.hash not in latencies:
            raise _Unusable("the best that is known cannot be run, or is wrong")
        fallback = math.inf if baseline is None else baseline

        def fastest(candidates: Sequence[tuple[str, bytes]]) -> float:
            return min([fallback, *(latencies[name] for name, _ in candidates if name in latencies)])

        def first(candidates: Sequence[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
            return [each for each in candidates[:ATTEMPTS] if each[0] in latencies][:1]

        chosen = [
            Chosen(
                share=each.share,
                similar=each.similar,
                instant=fastest(first([*each.instant, *each.quick])),
                top={count: fastest(each.quick[:count]) for count in TOPS if each.quick},
                choosing=each.choosing,
                building=sum(built[name][1] for name, _ in each.instant if name in built),
            )
            for each in choices
        ]
        return OfTask(
            network=network,
            task=task.key,
            name=task.name,
            best=min(fallback, *latencies.values()),
            untuned=baseline,
            chosen=chosen,
        )

    def _choice(self, network: str, task: Task, workload: bytes, share: float) -> _Choice:
        """What would be chosen from so much of what is known of other networks."""
        from tunemesh.stage_workers.records import queries

        which = Filter(engine=self._engine, without_model=network)
        began = time.monotonic()
        with self._database.reading() as connection:
            known = queries.fastest(connection, task.key, which, QUICK) if _taken(task.key, share) else []
            found = queries.similar(connection, task.key, task.operator, task.target, which, SIMILAR)
        similar = [examples_of(each) for each in found if _taken(each.task, share)]
        asking = time.monotonic() - began
        wanted = (INSTANT, QUICK) if share == max(self._shares) else (INSTANT,)
        leaders = {want: leaders_of(known, want) for want in wanted}
        proposed: dict[int, list[tuple[str, bytes]]] = {}
        took: dict[int, float] = {}
        for want, before in leaders.items():
            began = time.monotonic()
            proposed[want] = [(each.trial.hash, each.trial.schedule) for each in before]
            if want > len(before):
                proposed[want] += self._proposed(workload, task.target, want - len(before), similar)
            took[want] = time.monotonic() - began
        return _Choice(
            share=share,
            similar=len(similar),
            instant=proposed[INSTANT],
            quick=list(dict(proposed.get(QUICK, [])).items()),
            choosing=asking + took[INSTANT],
        )

    def _proposed(
        self, workload: bytes, target: str, want: int, similar: list[Examples]
    ) -> list[tuple[str, bytes]]:
        call = UpdateCall(workload=workload, target=target, want=want, seed=0, similar=similar)
        answer = self._sandbox.call(self._engine, Engine.update, call, LIMIT)
        if isinstance(answer, CallFailure):
            raise _Unusable(f"{self._engine} proposes nothing: {answer.text}")
        return answer.schedules

    def _measured(self, workload: bytes, target: str, built: dict[str, bytes]) -> dict[str, float]:
        """Latencies of kernels that are right, in seconds."""
        platform = platforms.name_of(target)
        call = CompileCall(workload=workload, target=target)
        untuned = self._sandbox.call(platform, Platform.compile, call, LIMIT)
        if isinstance(untuned, CallFailure):
            raise _Unusable(f"it cannot be compiled: {untuned.text}")
        found: dict[str, float] = {}
        for name, artifact in built.items():
            profile = ProfileCall(
                workload=workload,
                target=target,
                artifact=artifact,
                untuned=untuned.artifact,
                device=self._device,
                settings=GLANCE,
                best=min(found.values(), default=None),
            )
            outcome = self._sandbox.call(platform, Platform.profile, profile, LIMIT)
            if not isinstance(outcome, CallFailure) and outcome.outcome == "measured":
                found[name] = statistics.median(outcome.latencies)
        best = min(found.values(), default=0.0)
        near = [name for name, latency in found.items() if latency <= NEAR * best]
        confirm = ConfirmCall(
            workload=workload,
            target=target,
            artifacts=[built[name] for name in near],
            untuned=untuned.artifact,
            device=self._device,
            settings=MEASURED,
        )
        answer = self._sandbox.call(platform, Platform.confirm, confirm, LIMIT)
        if isinstance(answer, CallFailure):
            raise _Unusable(f"its kernels cannot be measured: {answer.text}")
        for name, outcome in zip(near, answer.outcomes, strict=True):
            if outcome.outcome == "measured":
                found[name] = statistics.median(outcome.latencies)
        return found


class _Unusable(Exception):
    """Why a task is left out."""


def _taken(task: str, share: float) -> bool:
    """Whether a task is in that part of the records: always the same ones, the more the larger it is."""
    number = int.from_bytes(hashlib.sha256(task.encode()).digest()[:4], "big")
    return number < share * 2**32


def mean(ratios: Iterable[float]) -> float:
    """Geometric; 0 of none."""
    logarithms = [math.log(each) for each in ratios if each > 0]
    return math.exp(statistics.fmean(logarithms)) if logarithms else 0.0
