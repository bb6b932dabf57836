"""Jobs that have ended, made from little."""

from __future__ import annotations

import hashlib
from typing import Any, Literal

from tunemesh.shared.messages import AssembleDone, Blob, JobEvent, JobProgress, ValidateDone


def blob(text: str) -> Blob:
    data = text.encode()
    return Blob(hashlib.sha256(data).hexdigest(), len(data))


def made(job: str) -> AssembleDone:
    """Results whose content says what each is, and of which job."""
    return AssembleDone(
        tuned=blob(f"{job} tuned"),
        untuned=blob(f"{job} untuned"),
        signature=blob(f"{job} signature"),
        files={"database.json": blob(f"{job} database")},
        records=blob(f"{job} records"),
    )


def progress(job: str, phase: Any = "done", at: float = 1000.0, **more: Any) -> JobProgress:
    """``at``: when it ended; it took 100 s."""
    finished = at if phase in ("done", "failed", "cancelled") else None
    fields = {"name": f"{job}.onnx", "target": "mock", "trials": 64, "budget": 64, **more}
    return JobProgress(
        job=job, phase=phase, accepted=at - 100, finished=finished, tasks=[], usage={}, **fields
    )


def ended(
    job: str, kind: Literal["done", "failed", "cancelled"] = "done", at: float = 1000.0, **more: Any
) -> JobEvent:
    """The last that is told of a job; ``more`` is for its progress."""
    return JobEvent(
        job=job,
        kind=kind,
        at=at,
        progress=progress(job, kind, at, **more),
        assembled=made(job) if kind == "done" else None,
        validated=ValidateDone(latency_before=2e-3, latency_after=1e-3, largest_difference=0.0, equal=True)
        if kind == "done"
        else None,
    )
