"""Traces of jobs, as OpenTelemetry gets them."""

from __future__ import annotations

import http.server
import threading
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace.status import StatusCode

from tests.unit.past import ended
from tunemesh import service_commands
from tunemesh.coordinator.events import Tell
from tunemesh.coordinator.service.traces import Traces, trace_id
from tunemesh.shared.messages import (
    BuildDone,
    Built,
    Failure,
    JobEvent,
    Profiled,
    ProfileDone,
    Stage,
    StepResult,
    Timing,
)


def result(done: Any, stage: Stage = "profile", job: str = "net-1") -> StepResult:
    timing = Timing(
        step=f"{job}/t00/2/1/{stage}", stage=stage, resource="profile-cpu-1", worker="w@h:1", started=1000.25,
        finished=1002.5, waited=0.5, size=3,
    )  # fmt: skip
    return StepResult(job=job, task="t00", round=2, chunk=1, timing=timing, result=done)


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


def spans(exporter: InMemorySpanExporter, *told: StepResult | JobEvent) -> list[ReadableSpan]:
    traces = Traces(exporter)
    for each in told:
        if isinstance(each, StepResult):
            traces.answered(each)
        else:
            traces.decided([Tell(each)])
    traces.close()
    return list(exporter.get_finished_spans())


def test_a_job_is_one_trace_with_a_span_for_each_step(exporter: InMemorySpanExporter) -> None:
    profiled = [
        Profiled(index=0, outcome="measured", latencies=[1e-3], seconds=1.0),
        Profiled(index=1, outcome="run-failed", error="x", seconds=1.0),
    ]
    step, job = spans(exporter, result(ProfileDone(profiled=profiled, drift=0.0)), ended("net-1", at=2000.0))
    assert step.context is not None
    assert job.context is not None
    assert step.parent is not None
    assert (step.name, job.name, job.parent) == ("profile", "job", None)
    assert step.context.trace_id == job.context.trace_id == int(trace_id("net-1"), 16)
    assert step.parent.span_id == job.context.span_id != step.context.span_id
    assert (step.start_time, step.end_time) == (1_000_250_000_000, 1_002_500_000_000)
    assert (job.start_time, job.end_time) == (1_900_000_000_000, 2_000_000_000_000)
    attributes = dict(step.attributes or {})
    assert attributes == {
        "tunemesh.job": "net-1", "tunemesh.stage": "profile", "tunemesh.resource": "profile-cpu-1",
        "tunemesh.worker": "w@h:1", "tunemesh.waited_s": 0.5, "tunemesh.outcome": "done",
        "tunemesh.task": "t00",
        "tunemesh.round": 2, "tunemesh.chunk": 1, "tunemesh.candidates": 3,
        "tunemesh.candidates.measured": 1, "tunemesh.candidates.run-failed": 1,
    }  # fmt: skip
    assert dict(job.attributes or {})["tunemesh.latency_after_s"] == 1e-3
    assert job.resource.attributes["service.name"] == "tunemesh"


def test_what_failed_says_so(exporter: InMemorySpanExporter) -> None:
    step, job = spans(
        exporter, result(Failure(error="killed by SIGKILL")), ended("net-1", "failed", error="import: no")
    )
    assert (step.status.status_code, step.status.description) == (StatusCode.ERROR, "killed by SIGKILL")
    assert (job.status.status_code, job.status.description) == (StatusCode.ERROR, "import: no")


def test_a_coordinator_that_takes_over_goes_on_with_the_same_trace() -> None:
    built = result(BuildDone(built=[Built(index=0, seconds=1.0, outcome="build-failed")]), "build")
    first, second = InMemorySpanExporter(), InMemorySpanExporter()
    (one,), (other,) = spans(first, built), spans(second, built)
    assert one.context == other.context
    assert dict(one.attributes or {})["tunemesh.candidates.build-failed"] == 1
    (stranger,) = spans(InMemorySpanExporter(), result(Failure(error=""), job="net-2"))
    assert stranger.context is not None
    assert one.context is not None
    assert stranger.context.trace_id != one.context.trace_id


def test_there_are_traces_where_the_environment_says_where_they_go(monkeypatch: pytest.MonkeyPatch) -> None:
    assert service_commands._traces() is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    made = service_commands._traces()
    assert made is not None
    made.close()


def test_spans_go_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[tuple[str, bytes]] = []

    class Collector(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
        traces = service_commands._traces()
        assert traces is not None
        traces.answered(result(Failure(error="killed by SIGKILL")))
        traces.close()
        server.shutdown()
    ((path, body),) = got
    assert path == "/v1/traces"
    assert bytes.fromhex(trace_id("net-1")) in body
    assert b"killed by SIGKILL" in body
