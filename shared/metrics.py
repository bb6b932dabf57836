"""Where a process shows its figures to Prometheus: ``http://HOST:PORT/metrics``, if a port is given."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    start_http_server,
)

from tunemesh.shared.errors import BadInput
from tunemesh.shared.messages import BuildDone, Failure, ProfileDone, StepResult

LOOPBACK = "127.0.0.1"


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of ``PORT``, which is one of this machine alone, or ``HOST:PORT``.

    Raises:
        BadInput: it is neither.
    """
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
        raise BadInput(f"--metrics-port is 1 to 65535, or HOST:PORT, not {text!r}")
    return host.strip("[]") or LOOPBACK, int(port)


def serve(text: str, registry: CollectorRegistry) -> None:
    """Show what is in ``registry``, in a thread of its own, until the process ends.

    Args:
        text: ``PORT`` or ``HOST:PORT``.

    Raises:
        BadInput: nobody can listen there.
    """
    host, port = parse_address(text)
    disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter
    try:
        start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise BadInput(f"cannot show metrics on {host}:{port}: {error.strerror or error}") from None


SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
"""Bounds of histograms: steps take from milliseconds to minutes."""


class StepMetrics:
    """What became of steps: of all that a coordinator sees, or of those of one worker."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._steps = Counter(
            "tunemesh_steps", "Steps that are answered.", ["stage", "outcome"], registry=registry
        )
        self._seconds = Histogram(
            "tunemesh_step_seconds", "How long steps ran.", ["stage"], buckets=SECONDS, registry=registry
        )
        self._waited = Histogram(
            "tunemesh_queue_wait_seconds",
            "How long steps lay in the queue of their resource.",
            ["stage"],
            buckets=SECONDS,
            registry=registry,
        )
        self._trials = Counter(
            "tunemesh_trials", "Candidates by what became of them.", ["outcome"], registry=registry
        )

    def answered(self, result: StepResult) -> None:
        """A step is answered."""
        timing, done = result.timing, result.result
        self._steps.labels(timing.stage, "failed" if isinstance(done, Failure) else "done").inc()
        self._seconds.labels(timing.stage).observe(timing.finished - timing.started)
        self._waited.labels(timing.stage).observe(timing.waited)
        if isinstance(done, ProfileDone):
            for each in done.profiled:
                self._trials.labels(each.outcome).inc()
        elif isinstance(done, BuildDone):
            for built in done.built:
                if built.outcome is not None:  # those that were built are counted once they have run
                    self._trials.labels(built.outcome).inc()
