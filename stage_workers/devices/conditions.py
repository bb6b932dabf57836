"""What latencies on a device depend on: the device itself, and the versions of what builds and measures."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from tunemesh.shared.errors import Unavailable
from tunemesh.shared.messages import Conditions
from tunemesh.stage_workers.devices.devices import SMI_TIMEOUT, Device

FLAGS = ("sse4_2", "avx", "fma", "f16c", "amx", "asimd", "sve", "sme", "neon", "i8mm", "bf16")
"""What the names of instruction sets begin with that kernels use."""
MOST = 400
"""Characters of a description."""
PACKAGES = ("tunemesh", "apache-tvm")


def conditions_of(device: Device, folder: Path = Path("/")) -> Conditions:
    """The conditions on a device of this machine, without flushing caches.

    Args:
        folder: where ``proc`` and ``sys`` lie.

    Raises:
        Unavailable: the driver does not answer now.
    """
    described = _cpu(device.cores, folder) if device.cores is not None else _gpu(device)
    return Conditions(device=described[:MOST], versions=versions())


def cpu() -> str:
    """This machine's CPU, as this process may use it."""
    return _cpu(frozenset(os.sched_getaffinity(0)), Path("/"))


def versions(packages: Sequence[str] = PACKAGES) -> str:
    """Of what builds and measures, where this worker is; of those that are installed."""
    found = []
    for package in packages:
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def _cpu(cores: frozenset[int], folder: Path) -> str:
    lines = [line.partition(":") for line in _read(folder / "proc/cpuinfo").splitlines()]
    fields: dict[str, str] = {}
    for name, _, value in lines:
        fields.setdefault(name.strip(), value.strip())
    parts = {
        name: fields.get(name, "")
        for name in ("cpu family", "model", "stepping", "CPU implementer", "CPU part")
    }
    model = fields.get("model name", "")
    numbers = ", ".join(f"{name} {value}" for name, value in parts.items() if value)
    flags = fields.get("flags", "") or fields.get("Features", "")
    sets = " ".join(sorted(each for each in flags.split() if each.startswith(FLAGS) and each != "smep"))
    count = f"{len(cores)} core" + "s" * (len(cores) != 1)
    return "; ".join(filter(None, (f"{model} ({numbers})".strip(), sets, _caches(min(cores), folder), count)))


def _caches(core: int, folder: Path) -> str:
    found = []
    for index in sorted(folder.glob(f"sys/devices/system/cpu/cpu{core}/cache/index*")):
        kind, level, size = (_read(index / name).strip() for name in ("type", "level", "size"))
        if kind != "Instruction" and size:
            found.append(f"L{level} {size}")
    return " ".join(found)


def _gpu(device: Device) -> str:
    number = device.name.partition(":")[2]
    command = [
        "nvidia-smi",
        f"--id={number}",
        "--query-gpu=name,memory.total,driver_version",
        "--format=csv,noheader",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SMI_TIMEOUT, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable(f"nvidia-smi does not describe {device.name}: {error}") from None
    name, memory, driver = (part.strip() for part in done.stdout.split(",")[:3])
    return f"{name}; {memory}; driver {driver}"


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
