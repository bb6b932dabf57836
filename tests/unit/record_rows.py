"""Rows of records, made from little."""

from __future__ import annotations

from tunemesh.shared.messages import Conditions, Origin
from tunemesh.stage_workers.records import gathering, rows

HERE = Conditions(device="AMD EPYC; avx2; 1 core", versions="apache-tvm 0.27")
ELSEWHERE = Conditions(device="Intel Xeon; avx2; 1 core", versions="apache-tvm 0.27")
ORIGIN = Origin(job="net", accepted=100.0, model="net.onnx")


def task(name: str = "fused_conv2d_add", key: str = "a" * 64, target: str = "mock") -> rows.Task:
    return rows.Task(key=key, name=name, operator=gathering.operator_of(name), target=target)


def trial(
    number: int = 0,
    latency: float | None = 1e-3,
    *,
    origin: Origin = ORIGIN,
    conditions: Conditions = HERE,
    key: str = "a" * 64,
    engine: str = "mock",
    at: float = 200.0,
) -> rows.Trial:
    """A trial that took ``latency`` seconds; one that failed without."""
    job = gathering.of_job(origin).id
    name = f"h{number}"
    return rows.Trial(
        id=rows.trial_id(key, engine, 1, name, job),
        task=key,
        job=job,
        engine=engine,
        format=1,
        hash=name,
        workload="w" * 32,
        schedule=b"schedule %d" % number,
        outcome="measured" if latency is not None else "build-failed",
        latency=latency,
        latencies=[latency] * 3 if latency is not None else [],
        drift=0.0,
        attempts=1,
        cut_short=False,
        error="" if latency is not None else "no code",
        conditions=conditions.id if latency is not None else "",
        at=at,
    )


def confirmation(of: rows.Trial, latency: float) -> rows.Confirmation:
    return rows.Confirmation(
        id=rows.made_id("confirmation", of.id),
        trial=of.id,
        task=of.task,
        latency=latency,
        latencies=[latency] * 3,
        conditions=of.conditions,
        at=of.at,
    )


def around(origin: Origin = ORIGIN, *conditions: Conditions) -> list[rows.Row]:
    """What trials name."""
    return [task(), gathering.of_job(origin), *gathering.of_conditions(conditions or (HERE,))]
