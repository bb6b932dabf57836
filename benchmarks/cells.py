"""Several coordinators on one mesh: what each more of them brings, and how well the desk deals out jobs.

    python -m benchmarks.cells                                 # 1 and 3 coordinators, a real broker
    python -m benchmarks.cells --share 1                       # the same, not held back
    python -m benchmarks.cells --simulate                      # 10 cells of 1,000 devices in virtual time
    python -m benchmarks.cells --simulate --cells 4 --devices 50 --jobs 20
    python -m benchmarks.cells --kill                          # a cell's coordinator is killed for good

With real processes: a broker, a desk, coordinators, and for each cell a process that plays all its workers
and answers every step at once with a result of the usual size. Jobs are asked of the desk. Steps are counted
for a while, from when all cells have some, beside the CPU time that each process took meanwhile.

On few cores coordinators, broker and workers wait for each other, and the rate says nothing of cells: broker
and workers take more CPU time for a step than a coordinator does. So each coordinator is held to a share of a
core (stopped whenever it has had more), so small that the broker keeps up with all of them: the rate then
is what coordinators make it. ``--share 1`` holds nobody back. The CPU time of a step is told for each kind of
process. From it follows what one coordinator could do with a core of its own, and what the broker's limit is:
its cores over what it takes for a step.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.context import SpawnProcess
from multiprocessing.sharedctypes import RawArray
from pathlib import Path

import psutil

from benchmarks.coordinator_rate import FASTEST, STARTING, Numbers, Peer, request_for
from tunemesh.broker_config.node import PrivateNode
from tunemesh.children import Child, Children
from tunemesh.client import Client
from tunemesh.coordinator.simulation import load_scenario
from tunemesh.coordinator.simulation.many_cells import CellsOutcome, simulate_cells
from tunemesh.shared.messages import Snapshot

SCENARIO = Path(__file__).parent / "scenarios" / "ten_cells.yaml"

LOOK = 0.005
"""Seconds between two looks whether a process has had its share."""

SOON = 2.0
"""Seconds after which coordinators that are held back have what they are given."""

GONE = 20.0
"""Seconds after which the jobs of a dead cell are moved, here."""


class Throttle:
    """Lets processes have no more than a share of a core each.

    Args:
        share: seconds of CPU time in a second.
    """

    def __init__(self, pids: Sequence[int], share: float) -> None:
        self._pids = pids
        self._share = share
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Throttle:
        if self._share < 1:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._share < 1:
            self._thread.join()
        for pid in self._pids:
            os.kill(pid, signal.SIGCONT)

    def _run(self) -> None:
        since = time.monotonic()
        allowed = {pid: _cpu_of(pid) for pid in self._pids}
        while not self._ended.wait(LOOK):
            now = time.monotonic()
            for pid in self._pids:
                used = _cpu_of(pid)
                # What it did not want a while ago it does not get later.
                allowed[pid] = min(allowed[pid] + self._share * (now - since), used + LOOK)
                os.kill(pid, signal.SIGSTOP if used > allowed[pid] else signal.SIGCONT)
            since = now


def _cpu_of(pid: int) -> float:
    """Seconds of CPU time that all threads of a process have had, to the nanosecond."""
    found = 0
    for each in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):  # a thread may have ended
            found += int(each.read_text().split()[0])
    return found / 1e9


@dataclass(frozen=True)
class Measured:
    """What so many coordinators did. CPU time in seconds of a step."""

    cells: int
    share: float
    """Of a core, that each coordinator could have."""
    rate: float
    """Steps a second, of all cells."""
    coordinator: float
    broker: float
    peers: float
    desk: float
    """Of one core."""
    idle: float
    """Share of all cores."""

    def text(self, broker_cores: int) -> str:
        """For people."""
        held = f", held to {self.share:.0%} of a core each" if self.share < 1 else ""
        each = f"coordinator {1e3 * self.coordinator:.3f} ms, broker {1e3 * self.broker:.3f} ms"
        limit = f"the broker's limit with {broker_cores} cores: {broker_cores / self.broker:,.0f}"
        part = f"workers' part {1e3 * self.peers:.3f} ms; desk {self.desk:.1%} of a core"
        return "\n".join(
            [
                f"{self.cells} coordinator(s){held}: {self.rate:,.0f} results/s; cores idle {self.idle:.0%}",
                f"  CPU of a step: {each}, {part}",
                f"  one coordinator with a core of its own: {1 / self.coordinator:,.0f} results/s; {limit}",
            ]
        )


def _play(url: str, width: int, cell: str, number: int, counts: Numbers) -> None:
    """Be all workers of a cell until the end of this process."""
    peer = Peer(url, width, reports=True, cell=cell)
    while True:
        peer.serve(time.monotonic() + 0.1)
        counts[number] = peer.results


class Mesh:
    """A broker, a desk, and cells with workers that answer at once."""

    def __init__(self, node: PrivateNode, cells: int, width: int) -> None:
        self.names = [f"c{number}" for number in range(cells)]
        self.children = Children()
        self._environment = {"TUNEMESH_BROKER_URL": node.url("coordinator")}
        self._start("desk", ["desk", "--give-up-after", f"{GONE:g}"])
        for name in self.names:
            self._start(name, ["coordinator", "--cell", name])
        fresh = multiprocessing.get_context("spawn")
        self.counts = RawArray("d", cells)
        self.players: list[SpawnProcess] = [
            fresh.Process(
                target=_play, args=(node.url("admin"), width, name, number, self.counts), daemon=True
            )
            for number, name in enumerate(self.names)
        ]
        for player in self.players:
            player.start()

    def _start(self, name: str, arguments: list[str]) -> None:
        self.children.start(Child(name, arguments, self._environment))

    def stop(self) -> None:
        """End all of it."""
        self.children.stop()
        for player in self.players:
            player.kill()
            player.join()


@contextlib.contextmanager
def _mesh(cells: int, width: int) -> Iterator[tuple[PrivateNode, Mesh]]:
    with PrivateNode() as node:
        mesh = Mesh(node, cells, width)
        try:
            yield node, mesh
        finally:
            mesh.stop()


def _until(client: Client, enough: object, limit: float, what: str) -> Snapshot:
    """Ask how things are until it is enough."""
    deadline = time.monotonic() + limit
    while True:
        with contextlib.suppress(Exception):
            snapshot = client.snapshot(timeout=5.0)
            if enough(snapshot):  # type: ignore[operator]
                return snapshot
        if time.monotonic() > deadline:
            raise SystemExit(f"after {limit:.0f} s: {what}")
        time.sleep(0.5)


def measure(cells: int, width: int, jobs: int, seconds: float, share: float) -> Measured:
    """Steps that so many coordinators do, with ``jobs`` for each."""
    with _mesh(cells, width) as (node, mesh), Client(node.url("operator")) as client:
        _until(
            client, lambda s: sum(e.silent is None for e in s.cells) == cells, STARTING, "a cell is not there"
        )
        trials = round(FASTEST * (seconds + STARTING)) // jobs
        for number in range(cells * jobs):
            client.submit(request_for(f"job{number}", trials))
        deadline = time.monotonic() + STARTING
        while min(mesh.counts) < 100 and time.monotonic() < deadline:
            time.sleep(0.1)
        if min(mesh.counts) < 100:
            raise SystemExit(f"a cell has got nothing to do: {list(mesh.counts)}")
        assert node.pid is not None
        groups = [
            [mesh.children.pids[name] for name in mesh.names],
            [node.pid],
            [player.pid for player in mesh.players if player.pid is not None],
            [mesh.children.pids["desk"]],
        ]
        with Throttle(groups[0], share):
            time.sleep(SOON)
            before, since, idle = _cpu(groups), time.monotonic(), _idle()
            steps = sum(mesh.counts)
            time.sleep(seconds)
            after, took = _cpu(groups), time.monotonic() - since
            steps = sum(mesh.counts) - steps
            idle_for = _idle() - idle
        coordinator, broker, peers, desk = (b - a for a, b in zip(before, after, strict=True))
        free = idle_for / took / (os.cpu_count() or 1)
    each = (coordinator / steps, broker / steps, peers / steps)
    return Measured(cells, share, steps / took, *each, desk / took, free)


def _cpu(groups: Sequence[Sequence[int]]) -> list[float]:
    return [sum(_cpu_of(pid) for pid in pids) for pids in groups]


def _idle() -> float:
    times = psutil.cpu_times()
    return float(times.idle + times.iowait)


def kill(width: int) -> str:
    """Kill the coordinator of one of two cells for good. Says what became of its jobs."""
    with _mesh(2, width) as (node, mesh), Client(node.url("operator")) as client:
        _until(client, lambda s: sum(e.silent is None for e in s.cells) == 2, STARTING, "a cell is not there")
        for number in range(8):
            client.submit(request_for(f"job{number}", 100_000))
        shared = _until(
            client,
            lambda s: [e.jobs for e in s.cells] == [4, 4] and all(job.trials > 50 for job in s.jobs),
            STARTING,
            "the jobs are not dealt out",
        )
        child = next(each for each in mesh.children.children if each.name == "c0")
        assert child.process is not None
        child.process.kill()
        since = time.monotonic()
        moved = _until(
            client,
            lambda s: [e.jobs for e in s.cells if e.silent is None] == [8] and len(s.jobs) == 8,
            STARTING + GONE,
            "the jobs are not moved",
        )
        took = time.monotonic() - since
        before = {job.job: job.trials for job in shared.jobs}
        after = {job.job: job.trials for job in moved.jobs}
        kept = all(after[job] >= trials for job, trials in before.items())
        _until(
            client,
            lambda s: all(job.trials > after[job.job] for job in s.jobs) and len(s.jobs) == 8,
            STARTING,
            "a job does not go on",
        )
    lost = "no trial was" if kept else "TRIALS WERE"
    return (
        "two cells, 8 jobs: the coordinator of one was killed (SIGKILL) and not started again; its 4 jobs"
        f" were at work in the other one {took:.0f} s later, of which {GONE:.0f} s were waited for it to come"
        f" back; {lost} lost, and all 8 go on"
    )


def simulated(outcome: CellsOutcome) -> str:
    """For people."""
    ends = sorted(outcome.ends.values())
    jobs = sorted(outcome.jobs.values())
    return (
        f"{outcome.cells} cells, {outcome.devices:,} devices, {sum(jobs):,} jobs, {outcome.steps:,} steps:"
        f" devices {outcome.busy:.1%} busy in the middle three fifths of {outcome.makespan:,.0f} virtual"
        f" seconds (least busy cell {outcome.least:.1%}), {outcome.whole:.1%} with beginning and end;"
        f" {jobs[0]} to {jobs[-1]} jobs in a cell, whose last ended after {ends[0]:.0%} to {ends[-1]:.0%} of"
        f" it; core {outcome.core_us:,.0f} us a step, desk {outcome.desk_us:,.0f} us a job"
    )


def main() -> None:
    """Run it and print what came of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", help="cells; with real processes several with commas (1,3; simulated 10)")
    parser.add_argument("--width", type=int, default=16, help="devices of a cell, real (16)")
    parser.add_argument("--jobs", type=int, help="for each cell, real (8); of all of them, simulated")
    parser.add_argument("--seconds", type=float, default=10.0, help="for which steps are counted (10)")
    parser.add_argument("--share", type=float, default=0.1, help="of a core, for each coordinator (0.1)")
    parser.add_argument("--simulate", action="store_true", help="in virtual time")
    parser.add_argument(
        "--devices", type=int, help="of a cell, simulated; other workers in proportion (1,000)"
    )
    parser.add_argument("--kill", action="store_true", help="kill a coordinator")
    given = parser.parse_args()
    if given.simulate:
        scenario = load_scenario(SCENARIO)
        devices, cells = given.devices or scenario.devices, int(given.cells or 10)
        scale = devices / scenario.devices
        changes = {
            "devices": devices,
            "builders": max(round(scenario.builders * scale), 1),
            "updaters": max(round(scenario.updaters * scale), 1),
            "jobs": given.jobs or max(round(scenario.jobs * scale * cells / 10), 1),
        }
        print(simulated(simulate_cells(scenario, cells, **changes)))
        return
    if given.kill:
        print(kill(given.width))
        return
    found = []
    cores = os.cpu_count() or 1
    for cells in map(int, (given.cells or "1,3").split(",")):
        found.append(measure(cells, given.width, given.jobs or 8, given.seconds, given.share))
        print(found[-1].text(cores), flush=True)
    if len(found) > 1:
        first, last = found[0], found[-1]
        times = last.rate / first.rate
        print(f"{last.cells} coordinators against {first.cells}: {times:.2f} times as many results")


if __name__ == "__main__":
    main()
