"""Calls of engines and platforms on a device when nothing else runs: in the mesh's own sandbox, under the
device's lock, on the device's cores, as its profile worker makes them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

from tunemesh.shared.errors import TunemeshError, Unavailable
from tunemesh.stage_workers import platforms
from tunemesh.stage_workers.devices.devices import DeviceLock, lock_device, parse_device
from tunemesh.stage_workers.platforms.protocol import Platform, TargetCall
from tunemesh.stage_workers.sandbox import frames
from tunemesh.stage_workers.sandbox.sandbox import CallFailure, Sandbox

MEMORY = 4 * 2**30
"""Bytes, as a worker's sandbox has by default."""
RESOLVE_LIMIT = 120.0
FREE_LIMIT = 60.0
"""Seconds to wait for a device that another process is about to leave."""

C = TypeVar("C")
T = TypeVar("T")


class CallFailed(TunemeshError):
    """An engine call gave no value."""


class Alone:
    """A device for this process only. Use as a context manager, from the main thread."""

    def __init__(self, engine: str, device: str | None, target: str) -> None:
        self._engine = engine
        self._device = parse_device(device or default_device())
        self._asked = target
        self._platform = platforms.name_of(target)
        self._usable = os.sched_getaffinity(0)
        self._lock: DeviceLock | None = None

    def __enter__(self) -> Alone:
        self._lock = wait_for(self._device.name)
        cores = self._device.cores or frozenset()
        self._sandbox = Sandbox(
            (self._engine,),
            platforms=(self._platform,),
            memory=MEMORY,
            cpus=self._device.cores,
            environment=self._device.environment,
            held=self._lock.descriptors,
        )
        os.sched_setaffinity(0, self._usable - cores or self._usable)
        self._sandbox.start()
        self.device = self._device.inside
        self.cache = self._device.cache
        """Bytes of its last-level cache; 0 where it has none that can be flushed."""
        asked = TargetCall(target=self._asked)
        self.target = self.call(Platform.resolve_target, asked, RESOLVE_LIMIT).canonical
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sandbox.stop()
        os.sched_setaffinity(0, self._usable)
        if self._lock is not None:
            self._lock.release()

    def call(self, method: Callable[[Any, C], T], record: C, limit: float) -> T:
        """Call a method of the engine or of the target's platform, on the device.

        Raises:
            CallFailed: it crashed, or took longer than ``limit`` seconds.
            TunemeshError: it was refused.
        """
        callee = self._engine if frames.protocol_of(method) == "Engine" else self._platform
        answer = self._sandbox.call(callee, method, record, limit)
        if isinstance(answer, CallFailure):
            raise CallFailed(f"{method.__name__}: {answer.kind}: {answer.text}")
        return answer


def default_device() -> str:
    """As :func:`tunemesh.layout.plan` chooses it."""
    return f"cpu:{max(os.sched_getaffinity(0))}"


def wait_for(device: str, sleep: Callable[[float], None] = time.sleep) -> DeviceLock:
    """The lock of a device, after waiting for the worker of a mesh that is being taken down.

    Raises:
        Unavailable: another process does not let go of it.
    """
    deadline = time.monotonic() + FREE_LIMIT
    while True:
        try:
            return lock_device(parse_device(device))
        except Unavailable:
            if time.monotonic() > deadline:
                raise
            sleep(0.5)
