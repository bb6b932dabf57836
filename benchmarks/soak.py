"""Mixed mock jobs for as long as one likes: what grows? (``python -m benchmarks.soak --minutes 30``)

A mesh with the mock engine always has some jobs at work: plain ones, ones that share tasks, quotes, and some
that are cancelled or that fail. Every few seconds it is written down what all processes hold: memory,
descriptors, messages in the queues, files. A coordinator remembers the last 5,000 jobs that have ended, or
those of a day; here ``--kept``, so that it is seen whether anything grows from then on. What jobs leave in
the records and the artifact store is kept for longer. In the end all artifacts are made a year old and
swept: what is left must be what the results of jobs name.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import statistics
import tempfile
import time
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import psutil
from msgspec import Struct

from benchmarks.chaos_mesh import Mesh, connected, patiently
from benchmarks.markdown import table
from tunemesh.broker_config.topology import COORDINATOR, VHOST
from tunemesh.client import Client
from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.errors import TunemeshError
from tunemesh.shared.messages import FINAL_KINDS, EventKind, Level, Request, Settings
from tunemesh.stage_workers.records.database import Database
from tunemesh.stage_workers.records.sweeping import sweep

MODEL = """
tasks:
  - {{name: a{group}, weight: 3}}
  - {{name: b{group}, weight: 1}}
durations: {{model-update: 0.05, build: 0.02, profile: 0.02}}
"""
BROKEN = "tasks: none"
"""Fails when it is imported."""
AT_WORK = 8
"""Jobs at a time."""
WAVE = 60
"""Jobs of one client; then comes another."""
HUNG = 120.0
"""Seconds without a word after which jobs count as hung."""
EVERY = 2.0
"""Seconds between two samples."""
WARM = 0.25
"""Share of the time after which processes have what they need; growth counts from there."""
YEAR = 365 * 86_400.0


class Sample(Struct, frozen=True, kw_only=True):
    """What there was at one moment. Memory in bytes, by kind of process."""

    at: float
    """Seconds since the first job."""
    ended: int
    """Jobs."""
    memory: dict[str, int]
    descriptors: dict[str, int]
    ready: int
    """Messages that wait, in all queues."""
    held: int
    """By the coordinator."""
    queues: int
    disk: dict[str, int]
    """Bytes of the broker's data, the artifacts and the records."""
    artifacts: int
    """Files."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--nodes", type=int, default=1, help="of the broker; several are a cluster")
    parser.add_argument("--kept", type=int, default=200, help="ended jobs that the coordinator remembers")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="keeps data and logs; a temporary one by default")
    parser.add_argument("--plot", type=Path, help="draws all of it (.svg or .png)")
    chosen = parser.parse_args()
    folder = chosen.folder or Path(tempfile.mkdtemp(prefix="tunemesh-soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    samples, swept = run(folder, chosen.minutes * 60, chosen.nodes, chosen.seed, chosen.kept)
    print(report(samples))
    print(swept)
    if chosen.plot is not None:
        from benchmarks.plots.soak import soak

        soak(chosen.plot, [each.at / 60 for each in samples], panels(samples))
    return 0


def run(
    folder: Path, seconds: float, nodes: int = 1, seed: int = 1, kept: int = 200
) -> tuple[list[Sample], str]:
    """Jobs for ``seconds``. What was there all the time, and one line on what came of sweeping.

    Args:
        kept: jobs that have ended and that the coordinator remembers.

    Raises:
        TunemeshError: a job ended otherwise than it should, or something was swept that is needed.
    """
    mesh = Mesh(folder, str(folder / "records.sqlite"), nodes, kept=kept)
    try:
        store = ArtifactStore(mesh.artifacts)
        soak = Soak(mesh, folder, store, random.Random(seed), time.monotonic())
        while time.monotonic() - soak.began < seconds:
            soak.wave(seconds)
        with connected(mesh, [], "operator") as client:
            return soak.samples, _swept(client, store, mesh)
    finally:
        mesh.stop()


class Soak:
    """Keeps a mesh at work, and looks at it."""

    def __init__(
        self, mesh: Mesh, folder: Path, store: ArtifactStore, rng: random.Random, began: float
    ) -> None:
        self.samples: list[Sample] = []
        self.began = began
        self._mesh, self._folder, self._store, self._rng = mesh, folder, store, rng
        self._begun = self._ended = 0
        self._due = 0.0

    def wave(self, seconds: float) -> None:
        """:data:`WAVE` jobs of one client, some at a time; none begins after ``seconds``.

        Raises:
            TunemeshError: a job ended otherwise than it should, or not at all.
        """
        names = [f"soak{self._begun + number}" for number in range(WAVE)]
        expected: dict[str, tuple[EventKind, ...]] = {}
        with connected(self._mesh, names) as client:
            heard = time.monotonic()
            while names or expected:
                now = time.monotonic() - self.began
                self._mesh.supervise()
                while names and now < seconds and len(expected) < AT_WORK:
                    job = names.pop(0)
                    expected[job] = self._submit(client, job)
                if now >= seconds:
                    names.clear()
                if now >= self._due:
                    self._due = now + EVERY
                    self._keep(self._sample(now))
                event = client.poll()
                if event is None:
                    if time.monotonic() - heard > HUNG:
                        raise TunemeshError(f"nothing is heard of {', '.join(expected)}")
                    time.sleep(0.01)
                    continue
                heard = time.monotonic()
                if event.kind in FINAL_KINDS and event.job in expected:
                    if event.kind not in expected.pop(event.job):
                        raise TunemeshError(f"{event.job} is {event.kind}: {event.text}")
                    self._ended += 1

    def _keep(self, sample: Sample) -> None:
        """Written down at once: whatever ends the soak, what came before can be looked at."""
        self.samples.append(sample)
        with (self._folder / "samples.jsonl").open("ab") as file:
            file.write(msgspec.json.encode(sample) + b"\n")

    def _submit(self, client: Client, job: str) -> tuple[EventKind, ...]:
        """One job of some kind. How it may end."""
        number, self._begun = self._begun, self._begun + 1
        kind = self._rng.choices(("plain", "shared", "quote", "broken", "cancelled"), (5, 3, 1, 1, 1))[0]
        group = number // 4 if kind == "shared" else f"-{number}"
        model = BROKEN if kind == "broken" else MODEL.format(group=group)
        request = Request(
            job=job,
            model=self._store.put(model.encode()),
            target="mock",
            level=Level(trials=self._rng.choice((16, 32, 64)), quote_only=kind == "quote"),
            engines=["mock"],
            seed=number,
            settings=Settings(chunk=4, batch=16),
        )
        patiently(f"the request for {job}", lambda: client.submit(request))
        if kind == "cancelled":
            client.cancel(job)
        ends: dict[str, tuple[EventKind, ...]] = {
            "quote": ("cancelled",),
            "broken": ("failed",),
            "cancelled": ("cancelled", "done"),
        }
        return ends.get(kind, ("done",))

    def _sample(self, at: float) -> Sample:
        mesh, folder = self._mesh, self._folder
        memory: dict[str, int] = {}
        descriptors: dict[str, int] = {}
        groups: dict[str, list[int]] = {
            name.partition("-")[0]: [] for name in ("broker", *mesh.children.pids)
        }
        groups["broker"] = [node.pid for node in mesh.nodes if node.pid is not None]
        for name, pid in mesh.children.pids.items():
            groups[name.partition("-")[0]].append(pid)
        for name, pids in groups.items():
            memory[name] = descriptors[name] = 0
            for process in _with_children(pids):
                with contextlib.suppress(psutil.Error):
                    memory[name] += process.memory_info().rss
                    descriptors[name] += process.num_fds()
        queues = _queues(mesh)
        broker = folder / ("cluster" if mesh.cluster is not None else "node")
        artifacts = _files(Path(mesh.artifacts))
        return Sample(
            at=at,
            ended=self._ended,
            memory=memory,
            descriptors=descriptors,
            ready=sum(each.get("messages_ready", 0) for each in queues),
            held=sum(
                each.get("messages_unacknowledged", 0) for each in queues if each["name"] == COORDINATOR
            ),
            queues=len(queues),
            disk={
                "broker": sum(_files(broker)),
                "artifacts": sum(artifacts),
                "records": sum(_files(folder, "records.sqlite*")),
            },
            artifacts=len(artifacts),
        )


def _with_children(pids: list[int]) -> Iterator[psutil.Process]:
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            yield process
            yield from process.children(recursive=True)


def _files(folder: Path, pattern: str = "**/*") -> list[int]:
    """Bytes of all files of a folder whose paths fit."""
    sizes = []
    for path in folder.glob(pattern):
        with contextlib.suppress(OSError):  # it is gone by now
            if path.is_file():
                sizes.append(path.stat().st_blocks * 512)
    return sizes


def _queues(mesh: Mesh) -> list[dict[str, Any]]:
    """As the management API shows them, which is some seconds behind."""
    node = mesh.nodes[0]
    login = b64encode(f"monitor:{node.password('monitor')}".encode()).decode()
    address = f"{node.management_url}/api/queues/{quote(VHOST, safe='')}"
    asked = urllib.request.Request(address, headers={"Authorization": f"Basic {login}"})
    with urllib.request.urlopen(asked, timeout=10) as answer:
        found: list[dict[str, Any]] = json.load(answer)
    return found


def _swept(client: Client, store: ArtifactStore, mesh: Mesh) -> str:
    """Sweep as if all had been there for a year. What is left must be what jobs name."""
    for path in Path(mesh.artifacts).rglob("*"):
        if path.is_file():
            os.utime(path, (time.time() - YEAR,) * 2)
    with Database(mesh.records) as database:
        done = sweep(store, database, client.census())
    return f"swept: {done.removed} of {done.removed + done.kept} artifacts, {done.freed / 1e6:.1f} MB"


def panels(samples: list[Sample]) -> dict[str, dict[str, list[float]]]:
    """What to draw: by unit, and by name."""
    last = samples[-1]
    return {
        "MB": {name: [_of("memory", name, each) / 1e6 for each in samples] for name in last.memory},
        "descriptors": {
            name: [_of("descriptors", name, each) for each in samples] for name in last.descriptors
        },
        "messages": {
            "waiting": [each.ready for each in samples],
            "held": [each.held for each in samples],
        },
        "MB on disk": {name: [_of("disk", name, each) / 1e6 for each in samples] for name in last.disk},
        "jobs": {"ended": [each.ended for each in samples]},
    }


def report(samples: list[Sample]) -> str:
    """What there was after a quarter of the time and at the end, and what came with each thousand jobs."""
    end = samples[-1].at
    early = [each for each in samples if WARM * end <= each.at <= 2 * WARM * end] or samples[:1]
    late = [each for each in samples if each.at >= (1 - WARM) * end]
    jobs = statistics.median(each.ended for each in late) - statistics.median(each.ended for each in early)
    rows = []
    for what, unit, value in _figures(samples[-1]):
        before = statistics.median(value(each) for each in early) / unit
        after = statistics.median(value(each) for each in late) / unit
        rows.append(
            [what, f"{before:,.1f}", f"{after:,.1f}", f"{(after - before) / (jobs or 1.0) * 1000:+,.1f}"]
        )
    headers = [
        f"{samples[-1].ended} jobs in {end / 60:.1f} min",
        "second quarter",
        "last quarter",
        "per 1,000 jobs",
    ]
    return "\n".join(table(headers, rows))


def _figures(sample: Sample) -> list[tuple[str, float, Callable[[Sample], float]]]:
    """What to show: its name, its unit, and how to read it off."""
    found: list[tuple[str, float, Callable[[Sample], float]]] = []
    for name in sample.memory:
        found.append((f"memory of {name} (MB)", 1e6, partial(_of, "memory", name)))
    for name in sample.descriptors:
        found.append((f"descriptors of {name}", 1.0, partial(_of, "descriptors", name)))
    for name in sample.disk:
        found.append((f"files of {name} (MB)", 1e6, partial(_of, "disk", name)))
    found.append(("artifacts", 1.0, lambda each: each.artifacts))
    found.append(("messages that wait", 1.0, lambda each: each.ready))
    found.append(("messages that the coordinator holds", 1.0, lambda each: each.held))
    found.append(("queues", 1.0, lambda each: each.queues))
    return found


def _of(field: str, name: str, sample: Sample) -> float:
    return float(getattr(sample, field).get(name, 0))


if __name__ == "__main__":
    raise SystemExit(main())
