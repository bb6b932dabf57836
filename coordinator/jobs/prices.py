"""What work costs: prices of queues, per hour that a worker is busy.

A price is for one queue (``profile-gpu-0``), or for all of a kind that have none of their own (``profile``,
``build-cpu``, ``model-update``). What has no price is free.
"""

from __future__ import annotations

from collections.abc import Mapping

from tunemesh.shared.messages import Usage

HOUR = 3600.0


def kind_of(queue: str) -> str:
    """Which kind of resource a queue is."""
    return "profile" if queue.startswith("profile-") else queue.partition(".")[0]


def per_second(queue: str, prices: Mapping[str, float]) -> float:
    """What a busy second of a queue costs."""
    return prices.get(queue, prices.get(kind_of(queue), 0.0)) / HOUR


def of_usage(usage: Mapping[str, Usage], prices: Mapping[str, float]) -> float | None:
    """What that costs; ``None`` where there are no prices."""
    if not prices:
        return None
    return sum(each.busy * per_second(queue, prices) for queue, each in usage.items())


def device_seconds(usage: Mapping[str, Usage]) -> float:
    """Seconds on devices."""
    return sum(each.busy for queue, each in usage.items() if kind_of(queue) == "profile")
