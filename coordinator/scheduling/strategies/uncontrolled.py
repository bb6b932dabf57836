"""Everything at once, as when several tuners are started on one machine. For comparison only.

It breaks on purpose what the mesh is built for: stage queues hold backlogs, and with the layout that
belongs to it builds and model updates run on the cores of the device that profiles. Its measurements cannot
be trusted.
"""

from __future__ import annotations

from tunemesh.coordinator.scheduling.strategies.interleaved import Interleaved


class Uncontrolled(Interleaved):
    """Steps are published as soon as they are ready."""

    name = "uncontrolled"
    controlled = False
    overlaps = False
