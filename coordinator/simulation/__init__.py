"""The real core and strategies in virtual time: what would happen with other strategies, more devices,
faults."""

from __future__ import annotations

import msgspec

from tunemesh.coordinator.simulation.outcome import Outcome, Slot, outcome_of
from tunemesh.coordinator.simulation.scenario import Scenario, check, load_scenario
from tunemesh.coordinator.simulation.trace import Trace, load_trace, record
from tunemesh.coordinator.simulation.world import World


def simulate(scenario: Scenario, **changes: object) -> Outcome:
    """Run ``scenario``, with some of its fields changed.

    Raises:
        BadInput: the scenario makes no sense, or its trace cannot be used.
        TunemeshError: a job failed, or they take longer than the scenario's limit.
    """
    world = World(check(msgspec.structs.replace(scenario, **changes)))
    world.run()
    return outcome_of(world)


__all__ = ["Outcome", "Scenario", "Slot", "Trace", "load_scenario", "load_trace", "record", "simulate"]
