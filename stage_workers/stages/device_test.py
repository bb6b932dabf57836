"""Whether a device works: asked of a kernel that is known to be right, before any candidate is blamed."""

from __future__ import annotations

import logging

from tunemesh.stage_workers import platforms
from tunemesh.stage_workers.platforms.protocol import Platform, ReferenceCall
from tunemesh.stage_workers.sandbox.sandbox import CallFailure
from tunemesh.stage_workers.stages.context import Caller, DeviceFault, told

log = logging.getLogger(__name__)

REFERENCE_LIMIT = 60.0
"""Seconds for a look at the reference: the first one compiles it."""


def reference(sandbox: Caller, target: str, device: str) -> list[float]:
    """Latencies of the reference kernel, in seconds.

    Where it cannot be measured it is measured once more, in a process that has run nothing yet: what ran
    before it may have left the driver unusable for its own process.

    Args:
        target: canonical form.

    Raises:
        DeviceFault: there it could not be measured either.
    """
    platform, call = platforms.name_of(target), ReferenceCall(target=target, device=device)
    answer = sandbox.call(platform, Platform.reference, call, REFERENCE_LIMIT)
    if isinstance(answer, CallFailure):
        log.warning("no reference on %s: %s: %s", device, answer.kind, answer.text)
        sandbox.renew()
        answer = sandbox.call(platform, Platform.reference, call, REFERENCE_LIMIT)
    if isinstance(answer, CallFailure):
        raise DeviceFault(f"the device does not work: its reference kernel {answer.kind}: {told(answer)}")
    return [each for each in answer.latencies if each > 0]
