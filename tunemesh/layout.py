"""Who runs on which core of this machine.

The profiled device has its cores to itself; the broker, the coordinator, builds and model updates share the
rest. So nothing of the mesh disturbs a profile. Only the strategy ``uncontrolled`` is laid out otherwise: it
stands for several tuners that were started on one machine and know nothing of each other.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from tunemesh.broker_config import topology
from tunemesh.shared.errors import BadInput
from tunemesh.stage_workers.devices.devices import parse_device

MEMORY = 4.0
"""GiB that each worker gives to what it runs in its sandbox, where nobody says otherwise."""
DISTURBED = (
    "WARNING: with the strategy uncontrolled builds and model updates run on the device's own cores."
    " MEASUREMENTS WILL BE DISTURBED; it is for comparison only, never for models that you will use."
)


@dataclass(frozen=True, slots=True)
class Layout:
    """The processes of a mesh on one machine."""

    device: str
    device_queue: str
    device_cpus: frozenset[int]
    """Empty for a GPU: its worker shares the cores of the others."""
    other_cpus: frozenset[int]
    builders: int
    updaters: int
    apart: bool = True
    """Whether the device's cores are kept free of everything else."""

    @property
    def shared(self) -> bool:
        """Whether builds run on the device's cores: there is no other core, or they are not kept apart."""
        return bool(self.device_cpus & self.other_cpus)


def fitting(layout: Layout, strategy: str) -> str:
    """``strategy``, or ``sequential`` where the device has all cores: only when steps take turns nothing
    disturbs a profile there."""
    return "sequential" if layout.apart and layout.shared else strategy


def keeps_apart(strategy: str) -> bool:
    """Whether workers have to stay off the device's cores under this strategy (as on the command line)."""
    return strategy.partition(":")[0] != "uncontrolled"


def plan(device: str | None, builders: int | None = None, apart: bool = True) -> Layout:
    """Lay the mesh out for this machine.

    Args:
        device: ``cpu:<list>`` or ``cuda:<n>``; by default the machine's last core.
        builders: number of build workers; by default two thirds of the cores that are left.
        apart: keep everything else off the device's cores. If not, all cores get one build and one
            model-update worker each, the device's included.

    Raises:
        BadInput: the device is not on this machine, or there is to be no build worker.
    """
    if builders is not None and builders < 1:
        raise BadInput(f"there must be at least one build worker, not {builders}")
    cores = frozenset(os.sched_getaffinity(0))
    chosen = parse_device(device if device is not None else f"cpu:{max(cores)}")
    taken = chosen.cores or frozenset()
    queue = topology.device_queue(re.sub(r"[^a-z0-9]+", "-", chosen.name))
    if not apart:
        count = builders if builders is not None else len(cores)
        return Layout(chosen.name, queue, taken, cores, count, len(cores), apart=False)
    rest = cores - taken or cores
    updaters = max(1, len(rest) // 3)
    return Layout(
        device=chosen.name,
        device_queue=queue,
        device_cpus=taken,
        other_cpus=rest,
        builders=builders if builders is not None else max(1, len(rest) - updaters),
        updaters=updaters,
    )
