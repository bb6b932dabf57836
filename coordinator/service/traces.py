"""Traces of jobs, for OpenTelemetry: one trace for each job, and in it a span for each step.

The ids of a trace and of its spans follow from the ids of the job and of its steps. So nothing has to be
kept: a coordinator that takes over goes on with the same traces, and what is sent twice is one span. Where
spans go is said in the environment, as for every program that knows OpenTelemetry:
``OTEL_EXPORTER_OTLP_ENDPOINT`` and so on.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context
from opentelemetry.trace.status import Status, StatusCode

from tunemesh.coordinator.events import Instruction, Tell
from tunemesh.shared.messages import FINAL_KINDS, BuildDone, Failure, JobEvent, ProfileDone, StepResult
from tunemesh.shared.text import clip

if TYPE_CHECKING:
    from opentelemetry.util.types import AttributeValue

LEAVE = 3_000
"""Milliseconds in which spans that are left are sent at the end."""
ERROR = 300
"""Characters of an error."""
SAMPLED = TraceFlags(TraceFlags.SAMPLED)

log = logging.getLogger(__name__)


def to_environment() -> Traces:
    """Traces that go where the environment says."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return Traces(OTLPSpanExporter())


class Traces:
    """Makes spans of what the coordinator is told. They are sent by a thread of the SDK, which drops what it
    cannot send: the coordinator waits for nothing."""

    def __init__(self, exporter: SpanExporter) -> None:
        name = os.environ.get("OTEL_SERVICE_NAME") or "tunemesh"
        self._ids = _Ids()
        self._provider = TracerProvider(
            sampler=ALWAYS_ON,
            resource=Resource.create({"service.name": name}),
            shutdown_on_exit=False,
            id_generator=self._ids,
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("tunemesh")

    def answered(self, result: StepResult) -> None:
        """A worker has answered a step."""
        timing, done = result.timing, result.result
        said: dict[str, AttributeValue] = {
            "tunemesh.job": result.job,
            "tunemesh.stage": timing.stage,
            "tunemesh.resource": timing.resource,
            "tunemesh.worker": timing.worker,
            "tunemesh.waited_s": timing.waited,
            "tunemesh.outcome": "failed" if isinstance(done, Failure) else "done",
        }
        if result.task != "-":
            said |= {"tunemesh.task": result.task, "tunemesh.round": result.round}
            said |= {"tunemesh.chunk": result.chunk, "tunemesh.candidates": timing.size}
        outcomes = _outcomes(done)
        said |= {f"tunemesh.candidates.{kind}": count for kind, count in outcomes.items()}
        error = clip(done.error, ERROR) if isinstance(done, Failure) else None
        self._send(timing.stage, result.job, timing.step, said, timing.started, timing.finished, error)

    def decided(self, instructions: Iterable[Instruction]) -> None:
        """The core has decided, perhaps that a job has ended."""
        for each in instructions:
            if isinstance(each, Tell) and each.event.kind in FINAL_KINDS:
                self._ended(each.event)

    def close(self) -> None:
        """Send what is left, as far as that is quick."""
        self._provider.force_flush(LEAVE)
        self._provider.shutdown()

    def _ended(self, event: JobEvent) -> None:
        progress = event.progress
        if progress is None:
            return
        said: dict[str, AttributeValue] = {
            "tunemesh.job": progress.job,
            "tunemesh.model": progress.name,
            "tunemesh.target": progress.target,
            "tunemesh.outcome": event.kind,
            "tunemesh.tasks": len(progress.tasks),
            "tunemesh.trials": progress.trials,
        }
        if progress.terms is not None:
            said["tunemesh.engines"] = tuple(progress.terms.engines)
        if event.validated is not None:
            said["tunemesh.latency_before_s"] = event.validated.latency_before
            said["tunemesh.latency_after_s"] = event.validated.latency_after
        error = clip(progress.error, ERROR) if event.kind == "failed" else None
        ended = progress.finished or event.at
        self._send("job", progress.job, "", said, progress.accepted, ended, error)

    def _send(
        self,
        name: str,
        job: str,
        step: str,
        attributes: dict[str, AttributeValue],
        started: float,
        finished: float,
        error: str | None,
    ) -> None:
        whole = _context(job)
        self._ids.of = _context(job, step) if step else whole
        above = set_span_in_context(NonRecordingSpan(whole), Context()) if step else Context()
        span = self._tracer.start_span(name, above, attributes=attributes, start_time=round(started * 1e9))
        span.set_status(Status(StatusCode.OK) if error is None else Status(StatusCode.ERROR, error))
        span.end(round(max(finished, started) * 1e9))


class _Ids(IdGenerator):
    """Gives the ids that were chosen for the next span."""

    of: SpanContext

    def generate_span_id(self) -> int:
        return self.of.span_id

    def generate_trace_id(self) -> int:
        return self.of.trace_id


def _outcomes(done: object) -> Counter[str]:
    """Candidates of a step by what became of them."""
    if isinstance(done, ProfileDone):
        return Counter(each.outcome for each in done.profiled)
    if isinstance(done, BuildDone):
        return Counter(each.outcome or "built" for each in done.built)
    return Counter()


def _context(job: str, step: str = "") -> SpanContext:
    """The ids of a span: that of a step, or of the job as a whole."""
    return SpanContext(
        trace_id=_number(job, 16), span_id=_number(step or f"{job}/", 8), is_remote=False, trace_flags=SAMPLED
    )


def trace_id(job: str) -> str:
    """The id of the trace of a job, as pages that show traces have it."""
    return f"{_number(job, 16):032x}"


def _number(text: str, size: int) -> int:
    """Never 0, which counts as no id."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:size]) or 1
