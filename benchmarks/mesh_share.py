"""What a mesh itself takes of a short job: CPU time of broker, coordinator and workers (without their
sandboxes), and of the codec, as shares of the wall time from the request to the result.

Jobs of 64 trials of one kernel, one after the other, on one mesh and one core. The messages of one more job
are tapped, which costs the broker something, and then encoded and decoded again, under the clock.

    python -m benchmarks.mesh_share [KERNEL ...]
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import overhead
from benchmarks.alone import default_device
from benchmarks.machine import cores_of
from benchmarks.markdown import table
from benchmarks.mesh_run import Recorder
from examples import make_models
from tunemesh import layout, tuning
from tunemesh.broker_config import topology
from tunemesh.coordinator.jobs.ledger import Ledger, Marker
from tunemesh.mesh import LocalMesh
from tunemesh.mesh_address import MeshAddress
from tunemesh.shared import codec
from tunemesh.shared.messages import (
    Cancel,
    JobEvent,
    Level,
    Message,
    Request,
    Settings,
    Step,
    StepResult,
    WorkerStatus,
)
from tunemesh.shared.transport.link import Delivery, Link, Subscription

KERNELS = ("matmul_128", "layer_norm")
TRIALS = 64
JOBS = 4
REPEATS = 5
"""Times that a message is encoded and decoded under the clock; the least counts."""
CHECKED = 2
"""Times that a result is encoded and decoded: its worker reads it before it sends it."""
WAIT = 5.0
"""Seconds to wait for a message of a job that has ended."""
SENT = (Cancel, JobEvent, Ledger, Marker, Request, Step, StepResult, WorkerStatus)
"""What goes through the exchanges."""


def main() -> None:
    """Run it and print a table."""
    os.sched_setaffinity(0, cores_of(1))
    rows: list[list[str]] = []
    for name in sys.argv[1:] or KERNELS:
        with tempfile.TemporaryDirectory() as folder:
            rows += _measure(name, Path(folder))
    headers = ["CPU seconds of a job", "wall", *overhead.PARTS, "broker + coordinator, of the wall"]
    print("\n".join(table(headers, rows)))


def _measure(name: str, folder: Path) -> list[list[str]]:
    model = folder / f"{name}.onnx"
    model.write_bytes(make_models.MODELS[name]().SerializeToString())
    plan = layout.plan(default_device(), 1, layout.keeps_apart("sequential"))
    rows = []
    with LocalMesh(plan, "native", ["metaschedule"], "sequential", folder / "mesh") as mesh:
        for number in range(JOBS):
            seconds, spent = _tune(mesh, model, number)
            cells = [f"{spent[part]:.2f}" for part in overhead.PARTS]
            share = (spent["broker"] + spent["coordinator"]) / seconds
            rows.append([f"{name}, job {number + 1}", f"{seconds:.1f}", *cells, f"{share:.2%}"])
        with contextlib.closing(_tap(mesh.node.url("admin"), plan.device_queue)) as tap:
            tap.start()
            seconds, _ = _tune(mesh, model, JOBS)
            sent = _received(tap)
    codec_seconds = sum(_codec_seconds(message) for message, _ in sent)
    size = sum(size for _, size in sent) / 1e3
    print(
        f"{name}: {len(sent)} messages with {size:,.0f} kB, encoded and decoded"
        f" in {codec_seconds * 1e3:.1f} ms: {codec_seconds / seconds:.2%} of the wall time"
    )
    return rows


def _tap(url: str, device_queue: str) -> Link:
    """Gets a copy of every message; ``url`` is the broker's, as *admin*."""
    stages = (topology.MODEL_UPDATE, topology.BUILD_CPU, device_queue)
    bindings = (
        (topology.NEWCOMERS, ""),
        (topology.RESULTS, "result.#"),
        (topology.LEDGER, topology.LEDGER_KEY),
        *((topology.STEPS, stage) for stage in stages),
        (topology.STATUS, ""),
        (topology.EVENTS, "job.#"),
    )
    return Link(url, "tap", subscriptions=[Subscription("monitor.tap", bindings=bindings)])


def _received(tap: Link) -> list[tuple[Message, int]]:
    """Everything up to the end of a job, with the bytes of its body."""
    found: list[tuple[Message, int]] = []
    while (event := tap.next(WAIT)) is not None:
        if isinstance(event, Delivery):
            tap.ack(event)
            found.append((codec.decode(event.body, *SENT), len(event.body)))
            if isinstance(found[-1][0], JobEvent) and found[-1][0].kind == "done":
                break
    return found


def _tune(mesh: LocalMesh, model: Path, seed: int) -> tuple[float, dict[str, float]]:
    """Tune on the mesh. Returns the seconds from the request to the result, and CPU seconds by part."""
    plan = tuning.Plan(
        target="native",
        level=Level(trials=TRIALS, shared=False),
        out=model.parent / "tuned",
        overwrite=True,
        html=False,
        seed=seed,
        settings=Settings(lookahead=0),
        address=MeshAddress(broker=mesh.url, artifacts=mesh.artifacts),
    )
    recorder = Recorder(others=frozenset(os.sched_getaffinity(0)))
    (ending,) = tuning.tune([model], plan, recorder)
    if ending.report is None:
        raise SystemExit(f"{ending.job} failed: {ending.error}")
    return recorder.ended[ending.job].at - recorder.requested, recorder.spent


def _codec_seconds(message: Message) -> float:
    """To encode and decode it, as often as that is done on its way."""
    least = min(_once(message) for _ in range(REPEATS))
    return least * (CHECKED if isinstance(message, StepResult) else 1)


def _once(message: Message) -> float:
    started = time.perf_counter()
    codec.decode(codec.encode(message), *SENT)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
