"""What a worker says of itself."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from tunemesh.shared.messages.basics import (
    Count,
    Drift,
    EngineName,
    Headers,
    Message,
    Name,
    QueueName,
    StepId,
)
from tunemesh.shared.messages.tasks import Device


class Serves(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a worker can be asked for."""

    engines: Annotated[list[EngineName], Meta(max_length=32)] = []
    """Engines that it runs; on a device none, where it is the same whoever made a kernel."""
    targets: Annotated[list[Annotated[str, Meta(max_length=2000)]], Meta(max_length=8)] = []
    """Names of the target that its device is, the canonical one first; empty for workers without a device."""
    device: Device | None = None
    """What it measures on."""


class WorkerStatus(Message, frozen=True, kw_only=True, tag="worker-status"):
    """Sent every few seconds by every worker to ``tunemesh.status``; not persistent."""

    worker: Name
    """Unique per worker process: ``<queue>@<host>:<pid>``."""
    queue: QueueName
    host: Name
    slots: Annotated[int, Meta(ge=0, le=1024)]
    """Steps that it does at once; 0 when it is leaving, or its device does not work."""
    serves: Serves = Serves()
    step: StepId | None = None
    """What it is doing now."""
    leaving: bool = False
    cpus: Annotated[list[Count], Meta(max_length=4096)] = []
    """Cores of ``host`` that its work runs on, where that is limited; work on shared cores is shared out."""
    drift: Drift = 0.0
    """How much slower than usual the device's reference kernel ran last."""
    cage: Annotated[str, Meta(max_length=200)] = ""
    """What holds engines, models and kernels in there, in words; ``bare``: nothing."""
    fault: Annotated[str, Meta(max_length=2000)] = ""
    """Why its device does not work, which it tries again and again; empty where it works."""

    def problem(self) -> str:
        """Why it makes no sense, in one line; nothing if it does."""
        device = self.queue.startswith("profile-")
        if device != bool(self.serves.targets):
            count = len(self.serves.targets)
            return f"a worker on {self.queue} serves {count} targets; it is devices that serve some"
        if self.fault and (self.slots or not device):
            return f"a worker on {self.queue} with {self.slots} slots has a device that does not work"
        return ""

    def message_id(self) -> str:
        return f"{self.worker}/status"

    def headers(self) -> Headers:
        return super().headers() | {"worker": self.worker, "queue": self.queue, "step": self.step or "-"}
