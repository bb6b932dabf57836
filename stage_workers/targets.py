"""What a device announces as its target."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import msgspec

from tunemesh.shared.errors import BadInput
from tunemesh.shared.retry import Retry
from tunemesh.stage_workers import platforms
from tunemesh.stage_workers.devices.devices import Device
from tunemesh.stage_workers.platforms.protocol import Platform, TargetCall
from tunemesh.stage_workers.sandbox.sandbox import CallFailure
from tunemesh.stage_workers.stages.context import Caller

log = logging.getLogger(__name__)

RESOLVE_LIMIT = 120.0
"""Seconds to look at a target: TVM may ask the driver about the device."""


def announced_targets(targets: Sequence[str], sandbox: Caller, cores: int = 1) -> list[str]:
    """The canonical form of ``targets`` for a device of so many cores, then the forms that were given:
    requests may name any of them.

    A platform that fails in any other way than by a refusal is asked again, for as long as it takes: what it,
    a driver or the system raises may pass.

    Raises:
        BadInput: one of them is refused, or they mean different things.
    """
    canonical = list(dict.fromkeys(_canonical(target, sandbox, cores) for target in targets))
    if len(canonical) > 1:
        raise BadInput(f"a device has one target, but these differ: {', '.join(canonical)}")
    return list(dict.fromkeys((*canonical, *targets)))


def check_fits(device: Device, target: str) -> None:
    """A GPU's kernels do not run on a CPU, nor the other way round.

    Raises:
        BadInput: ``target`` (canonical) is for another kind of device.
    """
    try:
        kind = msgspec.json.decode(target, type=dict[str, msgspec.Raw])["kind"]
    except (msgspec.DecodeError, KeyError):
        return  # a platform without kinds of devices
    wanted = {b'"llvm"': "cpu", b'"cuda"': "cuda"}.get(bytes(kind))
    if wanted is not None and wanted != device.name.partition(":")[0]:
        raise BadInput(f"device {device.name} cannot run target {target}; give a {wanted}:… device")


def _canonical(target: str, sandbox: Caller, cores: int) -> str:
    platform, call, retry = platforms.name_of(target), TargetCall(target=target, cores=cores), Retry(log)
    while True:
        answer = sandbox.call(platform, Platform.resolve_target, call, RESOLVE_LIMIT)
        if not isinstance(answer, CallFailure):
            retry.succeeded(f"platform {platform} has looked at target {target!r}")
            return answer.canonical
        problem = f"platform {platform} cannot look at target {target!r}: {answer.kind}: {answer.text}"
        time.sleep(retry.failed(problem))
