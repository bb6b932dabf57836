"""What records cost, and how fast they answer: ``python -m benchmarks.records [TRIALS]``.

Fills a new database (SQLite, or ``--database URL``), the last 10,000 trials in batches of 32, as workers do,
and asks it questions.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tunemesh.shared.messages import Conditions, Origin
from tunemesh.stage_workers.records import gathering, queries, rows
from tunemesh.stage_workers.records.database import Database
from tunemesh.stage_workers.records.questions import ALL, Filter

TASKS, BATCH, LARGE = 500, 32, 5000
TIMED = 10_000
"""Trials that are written in batches of 32: each of these waits for the disk."""
SCHEDULE = 1200
"""Bytes of a schedule, about as many as MetaSchedule's have."""
HERE = Conditions(device="AMD EPYC (made up); avx512f; L3 32768K; 1 core", versions="apache-tvm 0.27.0")
ORIGIN = Origin(job="benchmark", accepted=1.0, model="resnet18.onnx")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trials", type=int, nargs="?", default=100_000)
    parser.add_argument("--database", default="")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        address = given.database or str(Path(folder) / "records.sqlite")
        with Database(address) as database:
            _fill(database, given.trials)
        if not given.database:
            size = sum(file.stat().st_size for file in Path(folder).iterdir())
            print(f"size          {size / 1e6:,.0f} MB, {size / given.trials:,.0f} bytes a record")
        began = time.monotonic()
        with Database(address) as database:
            database.id()
            print(f"open          {(time.monotonic() - began) * 1e3:.1f} ms")
            _ask(database)


def _fill(database: Database, trials: int) -> None:
    rng = random.Random(0)
    keys = [rows.made_id("task", number) * 2 for number in range(TASKS)]
    job = gathering.of_job(ORIGIN)
    named = [
        rows.Task(key=key, name=f"fused_conv2d{number}", operator="fused_conv2d", target="llvm")
        for number, key in enumerate(keys)
    ]
    database.add([job, *gathering.of_conditions([HERE]), *named])
    before = max(trials - TIMED, 0)
    for start in range(0, before, LARGE):
        numbers = range(start, min(start + LARGE, before))
        database.add([_trial(rng.choice(keys), number, job, rng) for number in numbers])
    took = []
    for start in range(before, trials, BATCH):
        key = rng.choice(keys)
        batch = [_trial(key, number, job, rng) for number in range(start, min(start + BATCH, trials))]
        began = time.monotonic()
        database.add([job, *batch])
        took.append(time.monotonic() - began)
    took.sort()
    each = sum(took) / (trials - before)
    print(f"write         {1 / each:,.0f} trials/s, {each * 1e6:.0f} us a trial, beside {before:,}")
    middle, slow = took[len(took) // 2], took[int(0.99 * len(took))]
    print(f"batch of {BATCH}   median {middle * 1e3:.1f} ms, p99 {slow * 1e3:.1f} ms")


def _trial(key: str, number: int, job: rows.Job, rng: random.Random) -> rows.Trial:
    latency = rng.lognormvariate(-7.0, 1.0)
    return rows.Trial(
        id=rows.trial_id(key, "metaschedule", 1, f"{number:016x}", job.id),
        task=key,
        job=job.id,
        engine="metaschedule",
        format=1,
        hash=f"{number:016x}",
        workload=key[:32],
        schedule=rng.randbytes(SCHEDULE),
        outcome="measured",
        latency=latency,
        latencies=[latency] * 3,
        drift=0.0,
        attempts=1,
        cut_short=False,
        error="",
        conditions=HERE.id,
        at=1e9 + number,
    )


def _ask(database: Database) -> None:
    with database.reading() as connection:
        task = queries.tasks(connection, ALL)[0]
    asked: dict[str, Callable[..., object]] = {
        "best 4 of a task": lambda connection: queries.fastest(connection, task, ALL, 4),
        "best 4, device": lambda connection: queries.fastest(connection, task, Filter(device="EPYC"), 4),
        "latest 20": lambda connection: queries.newest(connection, ALL, 20),
    }
    for name, ask in asked.items():
        took = []
        for _ in range(50):
            began = time.monotonic()
            with database.reading() as connection:
                ask(connection)
            took.append(time.monotonic() - began)
        print(f"{name:<16}  median {statistics.median(took) * 1e3:.2f} ms, largest {max(took) * 1e3:.2f} ms")


if __name__ == "__main__":
    main()
