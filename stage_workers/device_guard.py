"""A worker's device: it is tested before steps are taken, and again after it has stopped working."""

from __future__ import annotations

import logging
import time

from cachetools import LRUCache

from tunemesh.shared.errors import Unavailable
from tunemesh.shared.retry import Retry
from tunemesh.shared.text import clip
from tunemesh.stage_workers.sandbox.sandbox import Sandbox
from tunemesh.stage_workers.stages import Context, DeviceFault
from tunemesh.stage_workers.stages.device_test import reference
from tunemesh.stage_workers.status import StatusSender

log = logging.getLogger(__name__)

PAUSES = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds between two tests of a device that does not work; the last one repeats."""
MOST_FAULTS = 3
"""Times that a device may stop working during one step, with a test that it passes before each: then it is
the step that does that."""
REMEMBERED = 8
"""Steps during which it stopped working."""
FAULT_LENGTH = 1000
"""Characters of what is wrong."""


class DeviceGuard:
    """What is known of the device of one worker.

    Args:
        context: whose device it is; it may have none.
        status: told what is wrong.
        by_hand: whether somebody waits at a terminal who should be told if the device has never worked.
    """

    def __init__(self, sandbox: Sandbox, context: Context, status: StatusSender, by_hand: bool) -> None:
        self._sandbox = sandbox
        self._context = context
        self._status = status
        self.works = context.device is None
        """Whether it has passed its test, and has not failed since."""
        self._has_worked = not by_hand
        self._retry = Retry(log, PAUSES)
        self._faults: LRUCache[str, int] = LRUCache(REMEMBERED)
        """Times that it stopped working during a step, by its id."""

    def test(self) -> float:
        """See whether it works, if that is not known. What its reference kernel takes is the first that is
        known of its speed.

        Returns:
            Seconds until it should be tested again; 0 where it works.

        Raises:
            Unavailable: somebody waits at a terminal, and it does not work.
        """
        if self.works:
            return 0.0
        device, drift = self._context.device, self._context.drift
        assert device is not None
        try:
            latencies = reference(self._sandbox, self._status.serves.targets[0], device)
        except DeviceFault as fault:
            text = self._in_full(fault)
            if not self._has_worked:
                raise Unavailable(text) from None
            return self._broken(text)
        if latencies:
            drift.seen(latencies, time.monotonic())
        self.works = self._has_worked = True
        self._retry.succeeded(f"{self._status.worker}: the device works")
        return 0.0

    def failed(self, step: str, fault: DeviceFault) -> tuple[float, str]:
        """It has stopped working during a step.

        Returns:
            Seconds until it should be tested, and why the step fails, if it is what stops the device; empty
            where it may be done later, or by another device.
        """
        text, count = self._in_full(fault), self._faults.get(step, 0) + 1
        self._faults[step] = count
        blame = f"{count} times the device worked before this and not after it: {text}"
        return self._broken(text), blame if count >= MOST_FAULTS else ""

    def _broken(self, text: str) -> float:
        self.works = False
        self._status.broken(text)
        return self._retry.failed(f"{self._status.worker}: {text}")

    def _in_full(self, fault: DeviceFault) -> str:
        """What is wrong, and how to find out more."""
        caged = self._sandbox.cage != "bare"
        advice = "; TUNEMESH_CAGE=bare shows whether it is the cage" if caged else ""
        return f"{clip(str(fault), FAULT_LENGTH)}{advice}"
