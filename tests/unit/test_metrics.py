"""What is told to Prometheus."""

from __future__ import annotations

import socket
import urllib.request
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from tunemesh.coordinator.events import Acknowledge, Declare
from tunemesh.coordinator.service.metrics import Metrics
from tunemesh.shared import metrics
from tunemesh.shared.errors import BadInput
from tunemesh.shared.messages import Failure, Profiled, ProfileDone, ResourceProgress, StepResult, Timing

DEVICE = "profile-cpu-0"


def answer(result: Any, seconds: float = 2.0) -> StepResult:
    timing = Timing(
        step="j/-/profile/0/0",
        stage="profile",
        resource=DEVICE,
        worker="w",
        started=1.0,
        finished=1.0 + seconds,
        waited=0.5,
    )
    return StepResult(job="j", timing=timing, result=result)


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Value by name and sorted labels."""
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scraped(registry: CollectorRegistry) -> dict[tuple[str, ...], float]:
    """What Prometheus would get over HTTP."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    metrics.serve(str(port), registry)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
        return samples(page.read().decode())


def test_a_scrape_shows_steps_trials_decisions_and_queues() -> None:
    told = Metrics()
    told.answered(
        answer(
            ProfileDone(
                profiled=[
                    Profiled(index=0, seconds=0.1, outcome="measured", latencies=[1e-3], median=1e-3),
                    Profiled(index=1, seconds=0.1, outcome="crashed", error="signal 11"),
                ]
            )
        )
    )
    told.answered(answer(Failure(error="no")))
    told.decided([Acknowledge(1), Acknowledge(2), Declare(DEVICE)])
    told.delivered(again=False)
    told.delivered(again=True)
    told.put_aside()
    queue = ResourceProgress(
        queue=DEVICE, slots=1, workers=["w"], targets=[], running=["s"], busy=7.5, utilisation=0.5, drift=0.02
    )
    told.look([], [queue], held=12, active=True)
    found = scraped(told.registry)
    assert found["tunemesh_steps_total", "done", "profile"] == 1
    assert found["tunemesh_steps_total", "failed", "profile"] == 1
    assert found["tunemesh_step_seconds_sum", "profile"] == 4.0
    assert found["tunemesh_queue_wait_seconds_sum", "profile"] == 1.0
    assert found["tunemesh_trials_total", "measured"] == found["tunemesh_trials_total", "crashed"] == 1
    assert found["tunemesh_decisions_total", "acknowledge"] == 2
    assert found[("tunemesh_redeliveries_total",)] == 1
    assert found[("tunemesh_dead_letters_total",)] == 1
    assert found[("tunemesh_held_deliveries",)] == 12
    assert found[("tunemesh_coordinator_active",)] == 1
    assert found["tunemesh_queue_busy_seconds_total", DEVICE] == 7.5
    assert found["tunemesh_queue_slots", DEVICE] == found["tunemesh_queue_running", DEVICE] == 1
    assert found["tunemesh_queue_drift", DEVICE] == 0.02
    assert found["tunemesh_jobs", "tuning"] == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [("9100", ("127.0.0.1", 9100)), ("0.0.0.0:9100", ("0.0.0.0", 9100)), ("[::1]:9100", ("::1", 9100))],
)
def test_a_port_is_one_of_this_machine_unless_a_host_is_given(text: str, expected: tuple[str, int]) -> None:
    assert metrics.parse_address(text) == expected


@pytest.mark.parametrize("text", ["", "0", "65536", "x", "9100:", "host:", "-1"])
def test_what_is_no_port_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="--metrics-port is 1 to 65535"):
        metrics.parse_address(text)


def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BadInput, match=rf"cannot show metrics on .*:{port}: Address already in use"):
            metrics.serve(str(port), CollectorRegistry())
