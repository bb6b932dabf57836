"""Do to a mesh what may happen to it, all at once, and see what comes of it (``python -m benchmarks.chaos``).

Waves of thirty mock jobs on a broker, a coordinator and its standby, and workers with their fork servers and
sandboxes. 300 times one of them is killed, whichever chance picks; in between they stand still for up to 25
s, or are cut off from the broker, with or without a word; and the broker is away for two minutes. Meanwhile
the database of records is away, locked, full or slow, the artifact store has no room, clocks jump by up to
an hour, and the broker runs out of memory or disk. Jobs share tasks, three by three, and some are cancelled.
Every job must end, with every trial counted once and recorded once, and in the end the mesh must take a new
job. Nothing here needs the rights of root.

With ``--nodes 3`` the broker is a cluster of as many nodes. One trouble after the other comes to its nodes:
``--losses`` times one is lost with its disk and replaced by an empty one, ``--cuts`` times they do not see
each other for a while, and some are killed or stand still.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import chaos_kills, chaos_nodes, chaos_records, chaos_troubles
from benchmarks.chaos_kills import Done
from benchmarks.chaos_mesh import LIMIT, Mesh, connected, patiently
from benchmarks.markdown import table
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
OF_NODES = 40
KILLED = ("killed", "lost with its disk", chaos_kills.AWAY)
"""What counts as a kill."""


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
    parser.add_argument("--pace", type=float, default=0.4, help="seconds between two of them")
    parser.add_argument("--jobs", type=int, default=30, help="of a wave")
    parser.add_argument("--away", type=float, default=120.0, help="seconds without a broker, half way")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--nodes", type=int, default=1, help="of the broker; several are a cluster")
    parser.add_argument("--losses", type=int, default=30, help="of nodes of a cluster, with their disks")
    parser.add_argument("--cuts", type=int, default=10, help="between the nodes of a cluster")
    parser.add_argument("--records", default="", help="database of PostgreSQL, without troubles of its own")
    parser.add_argument("--folder", type=Path, help="keeps data and logs; a temporary one by default")
    chosen = parser.parse_args()
    folder = chosen.folder or Path(tempfile.mkdtemp(prefix="tunemesh-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    storm = Storm(chosen.kills, chosen.pace, chosen.away, chosen.losses, chosen.cuts, chosen.seed)
    found = run(folder, chosen.jobs, storm, chosen.records, chosen.nodes)
    print("\n".join(found.lines()))
    return 1 if found.wrong else 0


@dataclass(frozen=True, slots=True)
class Storm:
    """What is done to a mesh."""

    kills: int
    """Of processes; on a cluster one of :data:`OF_NODES` is of a node."""
    pace: float = 0.4
    """Seconds between two kills, on average."""
    away: float = 0.0
    """Seconds without a broker, half way; not of a cluster."""
    losses: int = 0
    """Of nodes of a cluster, with their disks."""
    cuts: int = 0
    """Between the nodes of a cluster."""
    seed: int = 1


@dataclass(slots=True)
class Found:
    """What happened."""

    done: Done = field(default_factory=Counter)
    figures: dict[str, int] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)
    """By job, or ``cluster`` or ``records``."""

    def times(self, *what: str) -> int:
        """How often something was done that is called one of these."""
        return sum(count for (_, how), count in self.done.items() if how in what)

    def lines(self) -> list[str]:
        """Tables of all of it."""
        done = [[whom, how, str(count)] for (whom, how), count in sorted(self.done.items())]
        figures = [[name, f"{value:,}"] for name, value in self.figures.items()]
        return [
            *table(["to whom", "what was done", "times"], done),
            "",
            *table(["what came of it", ""], [["killed", str(self.times(*KILLED))], *figures]),
            "",
            *[f"{where}: {what}" for where, what in self.wrong.items()],
            f"{len(self.wrong)} wrong" if self.wrong else "nothing is lost, doubled, or hangs",
        ]


def run(folder: Path, jobs: int, storm: Storm, records: str = "", nodes: int = 1) -> Found:
    """Jobs on a mesh to which much is done.

    Args:
        jobs: of a wave; waves come until all of it is done.
        records: address of the database; by default one of SQLite, with troubles of its own.
        nodes: of the broker.
    """
    rng = random.Random(storm.seed)
    began = time.monotonic()
    mesh = Mesh(folder, records, nodes, troubled=True)
    found = Found()
    end, calm = threading.Event(), threading.Event()
    of_nodes = -(-storm.kills // OF_NODES) if mesh.cluster is not None else 0
    given = rng, storm.kills - of_nodes, storm.away, storm.pace, found.done, end

    def thread(what: Callable[..., None], *arguments: object) -> threading.Thread:
        def safely() -> None:
            try:
                what(*arguments)
            except Exception as error:  # fewer troubles than were asked for must not pass for a success
                found.wrong[what.__name__] = f"{type(error).__name__}: {error}"

        return threading.Thread(target=safely, daemon=True)

    killers = [thread(chaos_kills.kill_them, mesh, *given)]
    if mesh.cluster is not None:
        them = chaos_nodes.Nodes(mesh.cluster, random.Random(storm.seed), found.done, end)
        killers.append(thread(them.trouble, storm.losses, of_nodes, storm.cuts, found.wrong))
    troubling = thread(chaos_troubles.trouble, mesh, random.Random(storm.seed), found.done, calm)
    # The mesh is still starting.
    for each in (*killers, troubling):
        each.start()

    def calmed() -> None:
        calm.set()
        troubling.join(4 * chaos_troubles.LONGEST)

    try:
        found.figures |= _all_jobs(mesh, jobs, rng, killers, found.wrong, calmed)
    finally:
        end.set()
        for killer in killers:
            killer.join(10.0)
        calmed()
        mesh.stop()
    found.figures["seconds"] = round(time.monotonic() - began)
    return found


def _all_jobs(
    mesh: Mesh,
    count: int,
    rng: random.Random,
    killers: list[threading.Thread],
    problems: dict[str, str],
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
            ended |= _wave(mesh, store, count, len(ended), rng, problems)
            if problems or not any(killer.is_alive() for killer in killers):
                break
        for killer in killers:
            killer.join(LIMIT)
        calmed()
        with connected(mesh, ["last"]) as client:
            submit(client, store, "last", 30_000)
            ended |= follow(client, store, ["last"], problems, {})
            figures, wrong = chaos_records.compared(client, store, mesh.records, ended)
        problems.update(wrong)
    finally:
        stop.set()
        supervisor.join(30.0)
    return {
        "jobs": len(ended),
        "of these cancelled": sum(event.kind == "cancelled" for event in ended.values()),
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
) -> dict[str, JobEvent]:
    """``count`` jobs, numbered from ``first``, until all have ended. The last event of each."""
    jobs = [f"job{first + number}" for number in range(count)]
    cancelled = {job: rng.uniform(0.0, 2.0 * count) for job in jobs if rng.random() < CANCELLED}
    with connected(mesh, jobs) as client:
        for number, job in enumerate(jobs):
            submit(client, store, job, first + number)
        return follow(client, store, jobs, problems, cancelled)


def follow(
    client: Client,
    store: ArtifactStore,
    jobs: list[str],
    problems: dict[str, str],
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
        if time.monotonic() - first > LIMIT:
            problems.update({job: f"hung: not ended after {LIMIT:.0f} s" for job in jobs if job not in ended})
            break
    return ended


if __name__ == "__main__":
    raise SystemExit(main())
