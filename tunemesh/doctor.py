"""What is installed, what is missing, and what to do about it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys

import msgspec

from tunemesh.broker_config import node
from tunemesh.layout import MEMORY
from tunemesh.shared import environment as environments
from tunemesh.shared.errors import TunemeshError
from tunemesh.stage_workers import engines
from tunemesh.stage_workers.devices.devices import SMI_TIMEOUT, Device, lock_device, parse_device
from tunemesh.stage_workers.engines import compilers
from tunemesh.stage_workers.graph import device_code
from tunemesh.stage_workers.sandbox import allocator, cage

PACKAGES = ("apache-tvm", "apache-tvm-ffi", "xgboost-cpu", "onnx", "onnxruntime", "pika", "msgspec", "numpy")


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at."""

    what: str
    ok: bool
    found: str
    advice: str = ""


def examine() -> list[Finding]:
    """Everything that a mesh on this machine needs."""
    found = [
        _python(),
        *map(_package, PACKAGES),
        _broker(),
        _cage(),
        _linker(),
        _compiler(),
        _engines(),
        _allocator(),
        _cores(),
        _gpu(),
    ]
    return [*found, *(device_works(device, target) for device, target in _gpus())]


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding(
        what="Python", ok=sys.version_info >= (3, 11), found=version, advice="install Python 3.11 or newer"
    )


def _package(name: str) -> Finding:
    try:
        return Finding(what=name, ok=True, found=importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(what=name, ok=False, found="missing", advice=f"pip install -c constraints.txt {name}")


def _broker() -> Finding:
    try:
        return Finding(what="RabbitMQ", ok=True, found=str(node.server_binary()))
    except TunemeshError as error:
        return Finding(what="RabbitMQ", ok=False, found="missing", advice=str(error))


def _cage() -> Finding:
    """What holds models, compilers and kernels in when this user starts workers."""
    environment = environments.for_child()
    try:
        chosen = cage.choose(environment, gpu=False, memory=2**30, size=2**29)
    except TunemeshError as error:
        return Finding(what="cage", ok=False, found="none", advice=str(error))
    chosen.groups.remove()
    advice = "leave out TUNEMESH_CAGE=bare where strangers send models"
    return Finding(what="cage", ok=chosen.mode != "bare", found=str(chosen), advice=advice)


def _linker() -> Finding:
    found = shutil.which("ld") or shutil.which("gcc")
    advice = "sudo apt-get install --no-install-recommends binutils"
    return Finding(what="linker", ok=found is not None, found=found or "missing", advice=advice)


def _compiler() -> Finding:
    found = (
        compilers.compiler(platform.machine()) or "missing, only needed by the engines template and halide"
    )
    return Finding(what="C compiler", ok=True, found=found)


def _engines() -> Finding:
    """What workers here serve unless they are told otherwise, and what else they could."""
    lacking = {name: engines.missing(name) for name in (*engines.OWN, *engines.EXTRAS)}
    served = ", ".join(engines.served_by_default())
    more = "".join(f"; {name} where it is named" for name in engines.EXTRAS if not lacking[name])
    without = "".join(f"; not {name}: {why}" for name, why in lacking.items() if why)
    return Finding(what="engines", ok=True, found=f"{served}{more}{without}")


def _allocator() -> Finding:
    found = allocator.library() or "missing, workers are a little slower (package libjemalloc2)"
    return Finding(what="jemalloc", ok=True, found=found)


def _cores() -> Finding:
    count = len(os.sched_getaffinity(0))
    return Finding(what="cores", ok=True, found=str(count) if count > 1 else "1: steps take turns, slower")


def _gpu() -> Finding:
    smi, nvcc = shutil.which("nvidia-smi"), shutil.which("nvcc")
    if smi is None:
        return Finding(what="GPU", ok=True, found="none (only needed for cuda targets)")
    compiler = f"NVRTC {nvrtc}" if (nvrtc := device_code.version()) else nvcc
    return Finding(
        what="GPU",
        ok=compiler is not None,
        found=f"{smi}, compiler of kernels: {compiler or 'missing'}",
        advice=device_code.WITH,
    )


def _gpus() -> list[tuple[Device, str]]:
    """The GPUs of this machine that this process may use, with their targets."""
    command = ["nvidia-smi", "--query-gpu=index,compute_cap", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=SMI_TIMEOUT, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []  # what _gpu has said
    found = []
    for line in said.splitlines():
        index, _, capability = line.partition(", ")
        with contextlib.suppress(TunemeshError):
            target = {"kind": "cuda", "arch": f"sm_{capability.strip().replace('.', '')}"}
            found.append((parse_device(f"cuda:{index}"), msgspec.json.encode(target).decode()))
    return found


def device_works(device: Device, target: str) -> Finding:
    """Whether a kernel runs on a device, in the cage that a worker's kernels run in."""
    from tunemesh.stage_workers import platforms
    from tunemesh.stage_workers.platforms.protocol import Platform, TargetCall
    from tunemesh.stage_workers.sandbox.sandbox import CallFailure, Sandbox
    from tunemesh.stage_workers.stages.context import DeviceFault
    from tunemesh.stage_workers.stages.device_test import REFERENCE_LIMIT, reference

    what, platform = f"device {device.name}", platforms.name_of(target)
    advice = "see whether it is the cage: TUNEMESH_CAGE=bare tunemesh doctor"
    try:
        lock = lock_device(device)
    except TunemeshError as error:  # a worker has it, which tests it
        return Finding(what=what, ok=True, found=f"not tried: {error}")
    try:
        with Sandbox(
            platforms=[platform],
            memory=round(MEMORY * 2**30),
            cpus=device.cores,
            environment=device.environment,
            held=lock.descriptors,
            gpu=not device.inside.startswith("cpu"),
        ) as sandbox:
            resolved = sandbox.call(
                platform, Platform.resolve_target, TargetCall(target=target), REFERENCE_LIMIT
            )
            if isinstance(resolved, CallFailure):
                raise DeviceFault(resolved.text)
            latencies = reference(sandbox, resolved.canonical, device.inside)
    except (TunemeshError, DeviceFault) as error:
        return Finding(what=what, ok=False, found=str(error), advice=advice)
    finally:
        lock.release()
    return Finding(
        what=what, ok=True, found=f"works: its reference kernel takes {1e6 * min(latencies):.0f} us"
    )
