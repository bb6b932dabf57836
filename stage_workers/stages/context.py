"""What a stage works with, and how it calls an engine or a platform."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from cachetools import LRUCache

from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.errors import TunemeshError
from tunemesh.shared.messages import Blob, Conditions, Profiled, Step, TaskSpec
from tunemesh.stage_workers.devices.drift import Drift
from tunemesh.stage_workers.platforms.protocol import Imported
from tunemesh.stage_workers.records.questions import Best, Found, Memory, Similar
from tunemesh.stage_workers.records.recorder import Batch
from tunemesh.stage_workers.records.rows import Row
from tunemesh.stage_workers.sandbox import frames
from tunemesh.stage_workers.sandbox.sandbox import CallFailure, Sandbox
from tunemesh.stage_workers.stages.build_limits import Patience
from tunemesh.stage_workers.stages.kept_imports import KeptImports

C = TypeVar("C")
T = TypeVar("T")

CHECK_LIMIT = 120.0
UPDATE_LIMIT = 1800.0
PART_LIMIT = 600.0
ASSEMBLE_LIMIT = 3600.0
EXPORT_LIMIT = 900.0
VALIDATE_LIMIT = 900.0
"""Seconds. Generous: they are there so that nothing hangs for ever, not to make anything fast."""


Binary = tuple[str, str, str]
"""Job, task, and SHA-256 of a shared object."""
MEASURED_KEPT = 4096
IMPORTED_KEPT = 64 * 2**20
"""Bytes of the workloads and the code of models that were imported: some megabytes each."""


class Read(NamedTuple):
    """A model that was imported: what of it is large lies in the store."""

    imported: Imported
    """Without ``model``, ``sample`` and ``objects``."""
    model: Blob
    sample: Blob
    objects: Blob | None

    @property
    def size(self) -> int:
        """Bytes that it takes here."""
        return sum(len(task.workload) + len(task.untuned) for task in self.imported.tasks)


class Caller(Protocol):
    """What of the sandbox the stages use."""

    def call(
        self,
        callee: str,
        method: Callable[[Any, C], T],
        record: C,
        timeout: float,
        cpu_limit: float | None = None,
    ) -> T | CallFailure:
        """See :meth:`stage_workers.sandbox.sandbox.Sandbox.call`."""

    def renew(self) -> None:
        """See :meth:`stage_workers.sandbox.sandbox.Sandbox.renew`."""


class Records(Protocol):
    """What of :class:`stage_workers.records.recorder.Recorder` the stages use."""

    def write(self, rows: Sequence[Row]) -> Batch:
        """Begin to write."""

    def why_not(self, batch: Batch) -> str:
        """Wait, not for long."""

    def best(
        self, tasks: Sequence[str], engines: Sequence[str], conditions: str, since: float, tenant: str
    ) -> Mapping[str, Best]:
        """What is known of tasks."""

    def leaders(self, task: str, engine: str, tenant: str, limit: int) -> list[Found]:
        """The fastest schedules of a task, wherever they were measured."""

    def memory(self, task: str, engine: str, conditions: str, tenant: str) -> Memory:
        """What was tried of a task."""

    def prior(self, engine: str, family: str) -> bytes | None:
        """The newest prior."""

    def similar(
        self, task: str, operator: str, target: str, engine: str, tenant: str, limit: int
    ) -> list[Similar]:
        """The fastest schedules of other tasks with the same main operator."""


@dataclass(frozen=True, slots=True)
class Learning:
    """What ``learn`` works with."""

    records: str
    """Address of the database."""
    sandbox: Callable[[str], Sandbox]
    """Makes one for an engine, beside that of other steps."""
    wanted: Callable[[], bool] = lambda: False
    """Whether a step waits for the worker, or it is to leave."""


@dataclass(frozen=True, slots=True)
class Context:
    """What a stage works with besides its step."""

    sandbox: Caller
    store: ArtifactStore
    device: str | None = None
    """``cpu`` or ``cuda:0`` as the engine in the sandbox sees it; ``None`` for workers without a device."""
    drift: Drift = field(default_factory=Drift)
    """What is known of the device's speed."""
    patience: Patience = field(default_factory=Patience)
    """What is known of the time that builds take."""
    measured: LRUCache[Binary, Profiled] = field(default_factory=lambda: LRUCache(MEASURED_KEPT))
    """What this worker has measured."""
    imported: LRUCache[str, Read] = field(
        default_factory=lambda: LRUCache(IMPORTED_KEPT, getsizeof=lambda read: read.size)
    )
    """Models that this worker has imported, by all that the outcome depends on."""
    kept: KeptImports | None = None
    """Models that workers of this machine have imported, which outlive them; ``None``: nothing does."""
    cache: int = 0
    """Bytes of the device's last-level cache; 0 where it has none that can be flushed."""
    conditions: Conditions | None = None
    """What latencies on the device depend on."""
    records: Records | None = None
    """``None``: nothing is recorded."""
    learning: Learning | None = None
    """``None``: there is nothing to learn from."""
    given: Path | None = None
    """A folder of which the sandbox's children can read what is put there; ``None``: they read as we do."""

    def require_device(self, step: Step) -> str:
        """The device.

        Raises:
            StageFailed: this worker has none.
        """
        if self.device is None:
            raise StageFailed(f"{step.id} needs a device, and came to the queue of a worker without one")
        return self.device


class DeviceFault(Exception):
    """The device does not work, so that nothing can be said of what was to run on it. The step is for later,
    or for another device."""


class StageFailed(TunemeshError):
    """The step as a whole cannot be done; the text goes into its :class:`~shared.messages.Failure`."""


def insist(
    sandbox: Caller, callee: str, method: Callable[[Any, C], T], record: C, limit: float
) -> T | CallFailure:
    """Call an engine or a platform, and once more in a fresh process where the first one crashed or had no
    memory left: it may have been killed for something else, or have grown with what it did before."""
    answer = sandbox.call(callee, method, record, limit)
    if isinstance(answer, CallFailure) and answer.kind in ("crashed", "out-of-memory"):
        answer = sandbox.call(callee, method, record, limit)
    return answer


def whole(context: Context, callee: str, method: Callable[[Any, C], T], record: C, limit: float) -> T:
    """Call an engine or a platform where all depends on the answer.

    Raises:
        StageFailed: the call ended without one.
        TunemeshError: it was refused.
    """
    answer = insist(context.sandbox, callee, method, record, limit)
    if isinstance(answer, CallFailure):
        who = f"{frames.protocol_of(method).lower()} {callee}"
        raise StageFailed(f"{who}, {method.__name__.replace('_', ' ')}: {answer.kind}: {told(answer)}")
    return answer


def told(failure: CallFailure) -> str:
    """Why a call failed, and what can be done about it."""
    if failure.kind != "out-of-memory":
        return failure.text
    return f"{failure.text}; give more with --memory, where its worker is started"


def engine_of(task: TaskSpec) -> str:
    """The engine that tunes ``task``.

    Raises:
        StageFailed: none does.
    """
    if task.engine is None:
        raise StageFailed(
            f"no engine takes the task {task.id} ({task.name}), so there is nothing to do for it"
        )
    return task.engine
