"""How long a coordinator has work for its workers, by target: what the desk of a mesh with cells goes by."""

from __future__ import annotations

from collections import defaultdict

from tunemesh.broker_config.topology import BUILD_CPU, MODEL_UPDATE
from tunemesh.coordinator.cells.messages import MOST_SERVED, Served
from tunemesh.coordinator.jobs import forecast
from tunemesh.coordinator.scheduling.dispatcher import DEVICE_KIND
from tunemesh.coordinator.scheduling.durations import GUESS, Durations
from tunemesh.coordinator.scheduling.needs import Need
from tunemesh.coordinator.scheduling.resources import Resources
from tunemesh.coordinator.state import State
from tunemesh.shared.messages import Stage

OTHERS = (BUILD_CPU, MODEL_UPDATE)
"""Kinds of resources that jobs of all targets need."""


def loads(state: State) -> list[Served]:
    """What holds at this moment, for each target that a live device serves."""
    resources = state.resources
    work: defaultdict[str, float] = defaultdict(float)
    for job in state.jobs.values():
        if not job.ended:
            for need, seconds in forecast.forecast(job, state.durations).work.items():
                work[_kind(resources, need)] += seconds
    beside = max(work[kind] / max(resources.slots(Need(kind)), 1) for kind in OTHERS)
    builders = max(resources.slots(Need(BUILD_CPU)), 1)
    engines = resources.common_engines(MODEL_UPDATE, BUILD_CPU)
    found = []
    for targets, devices in resources.live_targets():
        seconds = max(work[f"{DEVICE_KIND}{targets[0]}"] / devices, beside)
        pace = max(_usual(state.durations, "profile") / devices, _usual(state.durations, "build") / builders)
        found.append(Served(targets=targets, engines=engines, devices=devices, seconds=seconds, pace=pace))
    return found[:MOST_SERVED]


def _kind(resources: Resources, need: Need) -> str:
    """One name for what is called by several."""
    kind, _, target = need.kind.partition(":")
    return f"{DEVICE_KIND}{resources.canonical(target) or target}" if target else kind


def _usual(durations: Durations, stage: Stage) -> float:
    usual = durations.usual(stage)
    return GUESS if usual is None else usual
