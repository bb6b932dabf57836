"""Kill -9 whatever runs, from the first second on, and see what comes of it (``python -m benchmarks.chaos``).

Thirty mock jobs on a broker, a coordinator and its standby, and workers with their fork servers and
sandboxes. Any of them is killed at any moment, or stands still for up to 25 s, 300 times; in between the
broker is away for two minutes. Jobs share tasks, three by three, some are cancelled, and the database of
records is away, locked, full and slow now and then. Every job must end, with every trial counted once and
recorded once, and in the end the mesh must take a new job.

With ``--nodes 3`` the broker is a cluster of as many nodes. One after the other is lost with its disk
and replaced by an empty one, ``--losses`` times. Jobs come in waves until the last one is back.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import chaos_kills, chaos_nodes, chaos_records
from benchmarks.chaos_mesh import LIMIT, Mesh, connected, patiently
from tunemesh.client import Client
from tunemesh.results import histories
from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.errors import TunemeshError
from tunemesh.shared.messages import FINAL_KINDS, JobEvent, Level, Request, Settings

MODEL = """
tasks:
  - {{name: a, weight: 3}}
  - {{name: {other}, weight: 1}}
durations: {{model-update: 0.05, build: 0.02, profile: 0.02}}
"""
TRIALS = 60
ALIKE = 3
"""Jobs that have tasks in common: the first task all of them, the second two of three."""
CANCELLED = 0.1
"""Share of the jobs that are cancelled at some moment."""


def submit(client: Client, store: ArtifactStore, job: str, number: int) -> None:
    group, place = divmod(number, ALIKE)
    model = MODEL.format(other="b" if place < ALIKE - 1 else "c").encode()
    request = Request(
        job=job,
        model=store.put(model),
        target="mock",
        level=Level(trials=TRIALS),
        engines=["mock"],
        seed=group,
        # They are to tune, not to find out that another group has.
        settings=Settings(chunk=4, batch=16, known="never"),
    )
    patiently(f"the request for {job}", lambda: client.submit(request))


def judge(store: ArtifactStore, event: JobEvent, cancelled: bool) -> str:
    """What is wrong with a job that has ended; nothing if all is well."""
    if event.kind == "cancelled" and cancelled:
        return ""
    if event.kind != "done" or event.assembled is None or event.progress is None:
        return f"{event.kind}: {event.text}"
    tried = [
        f"{history.task} {trial.candidate.hash}"
        for history in histories(store, event.assembled)
        for trial in history.trials
    ]
    if len(tried) != len(set(tried)):
        return f"{len(tried) - len(set(tried))} trials counted twice"
    own = event.progress.trials
    taken = sum(task.taken.trials for task in event.progress.tasks if task.taken is not None)
    if not (len(tried) == own + taken >= TRIALS >= own):
        return f"{len(tried)} trials in its history, {own} counted, {taken} of others, {TRIALS} asked for"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--jobs", type=int, default=30)
    parser.add_argument("--away", type=float, default=120.0, help="seconds without a broker, half way")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--nodes", type=int, default=1, help="of the broker; several are a cluster")
    parser.add_argument("--losses", type=int, default=30, help="of nodes of a cluster, with their disks")
    parser.add_argument("--records", default="", help="database of PostgreSQL, without troubles of its own")
    parser.add_argument("--folder", type=Path, help="keeps data and logs; a temporary one by default")
    chosen = parser.parse_args()
    folder = chosen.folder or Path(tempfile.mkdtemp(prefix="tunemesh-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    losses = chosen.losses if chosen.nodes > 1 else 0
    found = run(
        folder,
        chosen.kills,
        chosen.jobs,
        chosen.away,
        chosen.seed,
        chosen.records,
        nodes=chosen.nodes,
        losses=losses,
    )
    print(json.dumps(found, indent=2))
    return 1 if found["wrong"] else 0


def run(
    folder: Path,
    kills: int,
    jobs: int,
    away: float = 0.0,
    seed: int = 1,
    records: str = "",
    nodes: int = 1,
    losses: int = 0,
) -> dict[str, Any]:
    """Jobs on a mesh of which processes are killed. What happened, and what is ``wrong`` with it, by job.

    Args:
        away: seconds without a broker, half way.
        records: address of the database; by default one of SQLite, with troubles of its own.
        nodes: of the broker.
        losses: of nodes, if there are several. ``jobs`` are then those of a wave.
    """
    rng = random.Random(seed)
    began = time.monotonic()
    mesh = Mesh(folder, records, nodes)
    killed: Counter[str] = Counter()
    troubles: Counter[str] = Counter()
    end = threading.Event()
    # The mesh is still starting.
    problems: dict[str, str] = {}
    killers = [
        threading.Thread(
            target=chaos_kills.kill_them, args=(mesh, rng, kills, away, killed, end), daemon=True
        )
    ]
    if mesh.cluster is not None:
        given = mesh.cluster, random.Random(seed), losses, killed, problems, end
        killers.append(threading.Thread(target=chaos_nodes.lose_them, args=given, daemon=True))
    for killer in killers:
        killer.start()
    calm = threading.Event()
    troubling = threading.Thread(target=_trouble, args=(mesh, seed, troubles, calm), daemon=True)
    troubling.start()
    try:
        figures = _all_jobs(mesh, jobs, rng, killers, problems, began, lambda: _calmed(calm, troubling))
    finally:
        end.set()
        for killer in killers:
            killer.join(10.0)
        _calmed(calm, troubling)
        mesh.stop()
    return {
        "kills": killed.total(),
        "by process": dict(killed.most_common()),
        "troubles of the database": dict(troubles.most_common()),
        **figures,
        "wrong": problems,
        "seconds": round(time.monotonic() - began),
    }


def _trouble(mesh: Mesh, seed: int, had: Counter[str], calm: threading.Event) -> None:
    if mesh.database is not None:
        chaos_records.trouble(mesh.database, random.Random(seed), had, calm)


def _calmed(calm: threading.Event, troubling: threading.Thread) -> None:
    calm.set()
    troubling.join(2 * chaos_records.LONGEST)


def _all_jobs(
    mesh: Mesh,
    count: int,
    rng: random.Random,
    killers: list[threading.Thread],
    problems: dict[str, str],
    began: float,
    calmed: Callable[[], None],
) -> dict[str, int]:
    """All jobs, then one more; what is wrong goes into ``problems``. Figures of what there was."""
    store = ArtifactStore(mesh.artifacts)
    stop = threading.Event()

    def supervise() -> None:
        while not stop.wait(0.1):
            mesh.supervise()

    supervisor = threading.Thread(target=supervise, daemon=True)
    supervisor.start()
    ended: dict[str, JobEvent] = {}
    try:
        while True:
            ended |= _wave(mesh, store, count, len(ended), rng, problems, began)
            if mesh.cluster is None or problems or not any(killer.is_alive() for killer in killers):
                break
        for killer in killers:
            killer.join(LIMIT)
        calmed()
        with connected(mesh, ["last"]) as client:
            submit(client, store, "last", 30_000)
            ended |= follow(client, store, ["last"], problems, time.monotonic(), {})
            figures, wrong = chaos_records.compared(client, store, mesh.records, ended)
        problems.update(wrong)
    finally:
        stop.set()
        supervisor.join(30.0)
    return {
        "jobs": len(ended),
        "cancelled": sum(event.kind == "cancelled" for event in ended.values()),
        "trials": sum(event.progress.trials for event in ended.values() if event.progress is not None),
        "tasks taken over": sum(
            task.taken is not None
            for event in ended.values()
            if event.progress is not None
            for task in event.progress.tasks
        ),
        **figures,
    }


def _wave(
    mesh: Mesh,
    store: ArtifactStore,
    count: int,
    first: int,
    rng: random.Random,
    problems: dict[str, str],
    began: float,
) -> dict[str, JobEvent]:
    """``count`` jobs, numbered from ``first``, until all have ended. The last event of each."""
    jobs = [f"job{first + number}" for number in range(count)]
    cancelled = {job: rng.uniform(0.0, 2.0 * count) for job in jobs if rng.random() < CANCELLED}
    with connected(mesh, jobs) as client:
        for number, job in enumerate(jobs):
            submit(client, store, job, first + number)
        return follow(client, store, jobs, problems, began, cancelled)


def follow(
    client: Client,
    store: ArtifactStore,
    jobs: list[str],
    problems: dict[str, str],
    began: float,
    cancelled: dict[str, float],
) -> dict[str, JobEvent]:
    """The last event of each job; those to be ``cancelled`` are, after so many seconds."""
    ended: dict[str, JobEvent] = {}
    due = dict(cancelled)
    first = time.monotonic()
    for event in client.follow(jobs, idle=0.2):
        for job in [job for job, after in due.items() if time.monotonic() - first > after]:
            del due[job]
            # Where the broker is away it is not cancelled then.
            with contextlib.suppress(TunemeshError):
                client.cancel(job)
        if event is not None and event.kind in FINAL_KINDS:
            ended[event.job] = event
            if why := judge(store, event, event.job in cancelled):
                problems[event.job] = why
        if time.monotonic() - began > LIMIT:
            problems.update({job: f"hung: not ended after {LIMIT:.0f} s" for job in jobs if job not in ended})
            break
    return ended


if __name__ == "__main__":
    raise SystemExit(main())
