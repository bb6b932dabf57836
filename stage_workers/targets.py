"""What a device announces as its target."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import msgspec

from tunemesh.shared.errors import BadInput, BadTarget
from tunemesh.shared.retry import Retry
from tunemesh.stage_workers.devices.devices import Device
from tunemesh.stage_workers.sandbox.sandbox import CallFailure
from tunemesh.stage_workers.stages.context import Caller

log = logging.getLogger(__name__)

RESOLVE_LIMIT = 120.0
"""Seconds to look at a target: TVM may ask the driver about the device."""


def announced_targets(targets: Sequence[str], engines: Sequence[str], sandbox: Caller) -> list[str]:
    """The canonical form of ``targets``, then the forms that were given: requests may name any of them.

    An engine whose process ends over it is asked again, for as long as it takes.

    Raises:
        BadInput: no engine knows one of them, or they mean different things.
    """
    canonical = list(dict.fromkeys(_canonical(target, engines, sandbox) for target in targets))
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
        return  # an engine without kinds of devices
    wanted = {b'"llvm"': "cpu", b'"cuda"': "cuda"}.get(bytes(kind))
    if wanted is not None and wanted != device.name.partition(":")[0]:
        raise BadInput(f"device {device.name} cannot run target {target}; give a {wanted}:… device")


def _canonical(target: str, engines: Sequence[str], sandbox: Caller) -> str:
    refusals = []
    for engine in engines:
        try:
            return _resolve(target, engine, sandbox)
        except BadTarget as error:
            refusals.append(str(error))
    raise BadTarget(refusals[0])


def _resolve(target: str, engine: str, sandbox: Caller) -> str:
    retry = Retry(log)
    while True:
        answer = sandbox.call(engine, "resolve_target", (target,), str, RESOLVE_LIMIT)
        if not isinstance(answer, CallFailure):
            retry.succeeded(f"engine {engine} has looked at target {target!r}")
            return answer
        problem = f"engine {engine} cannot look at target {target!r}: {answer.kind}: {answer.text}"
        if answer.kind == "raised":
            raise BadInput(problem)
        time.sleep(retry.failed(problem))
