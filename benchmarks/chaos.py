"""Kill -9 whatever runs, from the first second on, and see what comes of it (``python -m benchmarks.chaos``).

Thirty mock jobs on a broker, a coordinator, and workers with their fork servers and sandboxes. Any of them is
killed at any moment, 300 times; in between the broker is away for two minutes. Every job must end, with every
trial counted once, and in the end the mesh must take a new job.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import psutil

from tunemesh.broker_config.node import PrivateNode
from tunemesh.children import Child, Children
from tunemesh.client import Client
from tunemesh.report import histories
from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.errors import TunemeshError
from tunemesh.shared.messages import FINAL_KINDS, JobEvent, Level, Request, Settings

MODEL = b"""
tasks:
  - {name: a, weight: 3}
  - {name: b, weight: 1}
durations: {model-update: 0.05, build: 0.02, profile: 0.02}
"""
TRIALS = 60
LIMIT = 1800.0
"""Seconds after which what has not ended counts as hung."""


class Mesh:
    """The processes, started again whenever they end; the broker not while it is held away."""

    def __init__(self, folder: Path) -> None:
        self.node = PrivateNode(folder / "node")
        self.artifacts = str(folder / "artifacts")
        self.children = Children()
        self.away_until = 0.0
        self.node.start()
        for name, role, arguments in (
            ("coordinator", "coordinator", ["coordinator"]),
            ("build-0", "worker", ["worker", "build-cpu", "--engine", "mock"]),
            ("build-1", "worker", ["worker", "build-cpu", "--engine", "mock"]),
            ("update-0", "worker", ["worker", "model-update", "--engine", "mock"]),
            (
                "profile-0",
                "worker",
                ["worker", "profile-cpu-0", "--engine", "mock", "--device", "cpu:0", "--target", "mock"],
            ),
        ):
            environment = {
                "TUNEMESH_BROKER_URL": self.node.url(role),  # type: ignore[arg-type]
                "TUNEMESH_ARTIFACTS": self.artifacts,
            }
            self.children.start(Child(name, arguments, environment, log=folder / f"{name}.log"))

    def supervise(self) -> None:
        """Start again what has ended."""
        if self.node.pid is None and time.monotonic() >= self.away_until:
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
        if self.node.pid is not None:
            found["broker"] = self.node.pid
        return found

    def stop(self) -> None:
        self.children.stop()
        self.node.kill()


def kill_them(
    mesh: Mesh, rng: random.Random, kills: int, away: float, killed: Counter[str], end: threading.Event
) -> None:
    """``kills`` times; half way the broker is away for ``away`` seconds."""
    for number in range(kills):
        if end.is_set():
            return
        time.sleep(rng.uniform(0.1, 0.8))
        if number == kills // 2 and away:
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


def submit(client: Client, store: ArtifactStore, job: str, seed: int) -> None:
    settings = Settings(chunk=4, batch=16)
    request = Request(
        job=job,
        model=store.put(MODEL),
        target="mock",
        level=Level(trials=TRIALS, shared=False),
        engines=["mock"],
        seed=seed,
        settings=settings,
    )
    for _ in range(100):
        try:
            client.submit(request)
        except TunemeshError:  # the broker is away
            time.sleep(0.5)
        else:
            return
    raise TunemeshError(f"the request for {job} could not be published")


def judge(store: ArtifactStore, event: JobEvent) -> str:
    """What is wrong with a job that has ended; nothing if all is well."""
    if event.kind != "done" or event.assembled is None or event.progress is None:
        return f"{event.kind}: {event.text}"
    tried = [
        f"{history.task} {trial.candidate.hash}"
        for history in histories(store, event.assembled)
        for trial in history.trials
    ]
    if len(tried) != len(set(tried)):
        return f"{len(tried) - len(set(tried))} trials counted twice"
    if not len(tried) == event.progress.trials == TRIALS:
        return f"{len(tried)} trials in its history, {event.progress.trials} counted, {TRIALS} asked for"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--jobs", type=int, default=30)
    parser.add_argument("--away", type=float, default=120.0, help="seconds without a broker, half way")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="keeps data and logs; a temporary one by default")
    chosen = parser.parse_args()
    rng = random.Random(chosen.seed)
    folder = chosen.folder or Path(tempfile.mkdtemp(prefix="tunemesh-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    mesh = Mesh(folder)
    killed: Counter[str] = Counter()
    end = threading.Event()
    killer = threading.Thread(
        target=kill_them, args=(mesh, rng, chosen.kills, chosen.away, killed, end), daemon=True
    )
    killer.start()  # the mesh is still starting
    problems: dict[str, str] = {}
    try:
        run(mesh, chosen.jobs, killer, problems, began)
    finally:
        end.set()
        killer.join(10.0)
        mesh.stop()
    found = {
        "kills": killed.total(),
        "by process": dict(killed.most_common()),
        "jobs": chosen.jobs,
        "wrong": problems,
        "seconds": round(time.monotonic() - began),
    }
    print(json.dumps(found, indent=2))
    return 1 if problems else 0


def run(mesh: Mesh, count: int, killer: threading.Thread, problems: dict[str, str], began: float) -> None:
    """All jobs, then one more; what is wrong goes into ``problems``."""
    store = ArtifactStore(mesh.artifacts)
    jobs = [f"job{number}" for number in range(count)]
    stop = threading.Event()

    def supervise() -> None:
        while not stop.wait(0.1):
            mesh.supervise()

    supervisor = threading.Thread(target=supervise, daemon=True)
    supervisor.start()
    try:
        client = connected(mesh, [*jobs, "last"])
        for seed, job in enumerate(jobs):
            submit(client, store, job, seed)
        follow(client, store, jobs, problems, began)
        killer.join(LIMIT)
        submit(client, store, "last", 1000)
        follow(client, store, ["last"], problems, time.monotonic())
    finally:
        stop.set()
        supervisor.join(30.0)


def connected(mesh: Mesh, jobs: list[str]) -> Client:
    deadline = time.monotonic() + LIMIT
    while True:
        client = Client(mesh.node.url("client"), jobs)
        try:
            return client.__enter__()
        except TunemeshError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def follow(
    client: Client, store: ArtifactStore, jobs: list[str], problems: dict[str, str], began: float
) -> None:
    left = set(jobs)
    for event in client.follow(jobs, idle=0.2):
        if event is not None and event.kind in FINAL_KINDS:
            left.discard(event.job)
            if why := judge(store, event):
                problems[event.job] = why
        if time.monotonic() - began > LIMIT:
            problems.update(dict.fromkeys(left, f"hung: not ended after {LIMIT:.0f} s"))
            return


if __name__ == "__main__":
    raise SystemExit(main())
