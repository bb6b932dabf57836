"""Kill -9 whatever runs, from the first second on, and see what comes of it (``python -m benchmarks.chaos``).

Thirty mock jobs on a broker, a coordinator, and workers with their fork servers and sandboxes. Any of them is
killed at any moment, 300 times; in between the broker is away for two minutes. Jobs share tasks, three by
three, some are cancelled, and the database of records is away, locked, full and slow now and then. Every job
must end, with every trial counted once and recorded once, and in the end the mesh must take a new job.

With ``--nodes 3`` the broker is a cluster of as many nodes. One after the other is lost with its disk
and replaced by an empty one, ``--losses`` times. Jobs come in waves until the last one is back.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from benchmarks import chaos_nodes, chaos_records
from tunemesh.broker_config.cluster import PrivateCluster
from tunemesh.broker_config.node import PrivateNode
from tunemesh.children import Child, Children
from tunemesh.client import Client
from tunemesh.results import histories
from tunemesh.shared.accounts import Role
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
LIMIT = 1800.0
"""Seconds after which what has not ended counts as hung."""


class Mesh:
    """The processes, started again whenever they end; the broker not while it is held away.

    Args:
        records: address of the database; by default one of SQLite in ``folder``.
        nodes: of the broker.
    """

    def __init__(self, folder: Path, records: str = "", nodes: int = 1) -> None:
        self.cluster = PrivateCluster(folder / "cluster", nodes) if nodes > 1 else None
        self.node = PrivateNode(folder / "node") if self.cluster is None else None
        self.artifacts = str(folder / "artifacts")
        self.children = Children()
        self.away_until = 0.0
        self.database = None if records else chaos_records.SQLite(folder, self.workers)
        self.records = records or getattr(self.database, "address", "")
        (self.cluster or self.node).start()  # type: ignore[union-attr]
        core = min(os.sched_getaffinity(0))
        for name, role, arguments in (
            ("coordinator", "coordinator", ["coordinator"]),
            ("build-0", "worker", ["worker", "build-cpu", "--engine", "mock"]),
            ("build-1", "worker", ["worker", "build-cpu", "--engine", "mock"]),
            ("update-0", "worker", ["worker", "model-update", "--engine", "mock"]),
            (
                "profile-0",
                "worker",
                [
                    *("worker", f"profile-cpu-{core}", "--engine", "mock"),
                    *("--device", f"cpu:{core}", "--target", "mock"),
                ],
            ),
        ):
            environment = {
                "TUNEMESH_BROKER_URL": self.url(role),  # type: ignore[arg-type]
                "TUNEMESH_ARTIFACTS": self.artifacts,
            }
            if role == "worker":
                environment["TUNEMESH_RECORDS"] = self.records
            self.children.start(Child(name, arguments, environment, log=folder / f"{name}.log"))

    def url(self, role: Role) -> str:
        """The address of the broker, with all its nodes."""
        broker = self.cluster or self.node
        assert broker is not None
        return broker.url(role)

    def workers(self) -> list[int]:
        """Process ids of those who write records."""
        return [pid for name, pid in self.children.pids.items() if name != "coordinator"]

    def supervise(self) -> None:
        """Start again what has ended."""
        if self.node is not None and self.node.pid is None and time.monotonic() >= self.away_until:
            self.node.start()
        self.children.supervise()

    def victims(self) -> dict[str, int]:
        """Process ids by name: everything but the supervisor."""
        found = dict(self.children.pids)
        for name, pid in list(found.items()):
            try:
                below = psutil.Process(pid).children(recursive=True)
            except psutil.Error:
                continue
            found |= {f"{name}/{number}": each.pid for number, each in enumerate(below)}
        if self.node is not None and self.node.pid is not None:
            found["broker"] = self.node.pid
        return found

    def stop(self) -> None:
        self.children.stop()
        if self.cluster is not None:
            self.cluster.close()
        if self.node is not None:
            self.node.kill()


def kill_them(
    mesh: Mesh, rng: random.Random, kills: int, away: float, killed: Counter[str], end: threading.Event
) -> None:
    """``kills`` times; half way the broker is away for ``away`` seconds."""
    for number in range(kills):
        if end.is_set():
            return
        time.sleep(rng.uniform(0.1, 0.8))
        if number == kills // 2 and away and mesh.node is not None:
            mesh.away_until = time.monotonic() + away
            mesh.node.kill()
            killed["broker, and away"] += 1
            # Others die meanwhile, too: a worker has to start without a broker.
            while time.monotonic() < mesh.away_until and not end.is_set():
                time.sleep(rng.uniform(2.0, 8.0))
                kill_one(mesh, rng, killed)
        kill_one(mesh, rng, killed)


def kill_one(mesh: Mesh, rng: random.Random, killed: Counter[str]) -> None:
    victims = mesh.victims()
    if not victims:
        return
    # The broker takes 5 s to come back: killed as often as the others it would never be there.
    weights = [0.2 if name == "broker" else 1.0 for name in victims]
    (name,) = rng.choices(list(victims), weights)
    try:
        os.kill(victims[name], signal.SIGKILL)
    except ProcessLookupError:
        return
    killed[name.partition("/")[0] + ("'s child" if "/" in name else "")] += 1


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


def patiently(what: str, publish: Callable[[], None]) -> None:
    """Publish, again and again while the broker is away.

    Raises:
        TunemeshError: it does not come back.
    """
    for _ in range(200):
        try:
            return publish()
        except TunemeshError:
            time.sleep(0.5)
    raise TunemeshError(f"{what} could not be published")


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
    killers = [threading.Thread(target=kill_them, args=(mesh, rng, kills, away, killed, end), daemon=True)]
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


@contextlib.contextmanager
def connected(mesh: Mesh, jobs: list[str], role: Role = "operator") -> Iterator[Client]:
    """A client that follows ``jobs``, once there is a broker.

    Raises:
        TunemeshError: there is none within :data:`LIMIT`.
    """
    deadline = time.monotonic() + LIMIT
    while True:
        client = Client(mesh.url(role), jobs)
        try:
            client.__enter__()
            break
        except TunemeshError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
    try:
        yield client
    finally:
        client.__exit__(None, None, None)


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
