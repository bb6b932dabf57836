"""What many jobs of the same few models cost a mesh that remembers, and one that does not.

``python -m benchmarks.memory`` tunes a hundred jobs of five mock models; with ``--models a.onnx b.onnx --jobs
10`` models of one's own on the last core of this machine. They come ten at a time. Once every job starts from
nothing and alone; once with known results first and shared tasks, from an empty database.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from benchmarks import markdown
from tunemesh import layout, mesh_address, model_files, tuning
from tunemesh.client import Client
from tunemesh.mesh import LocalMesh
from tunemesh.model_files import ModelFile
from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.errors import TunemeshError
from tunemesh.shared.messages import FINAL_KINDS, JobProgress, Level, Settings

TASKS = 12
"""Of all mock models together."""
OF_EACH = 6
"""Of a mock model: any two of them have some in common."""
MODELS = 5
LIMIT = 1800.0
"""Seconds after which a wave of jobs counts as hung."""
COLUMNS = ("", "trials", "device, s", "builds and updates, s", "makespan, s", "sum of latencies, ms")


class Costs(Struct, frozen=True):
    """What all jobs took together. Times in seconds."""

    trials: int
    device: float
    others: float
    """Of workers that build, propose, import and assemble."""
    makespan: float
    latency: float
    """Sum over the jobs of one run of the tuned model."""

    def row(self, name: str) -> list[str]:
        """Of the table."""
        numbers = self.trials, self.device, self.others, self.makespan, 1e3 * self.latency
        return [name, *map(markdown.digits, numbers)]


def mock_models() -> list[ModelFile]:
    """Models of layers of which some are in several."""
    found = []
    for number in range(MODELS):
        layers = sorted(random.Random(number).sample(range(TASKS), OF_EACH))
        lines = "".join(f"  - {{name: layer{layer}, weight: {1 + layer % 3}}}\n" for layer in layers)
        text = f"tasks:\n{lines}durations: {{model-update: 0.02, build: 0.01, profile: 0.015}}\n"
        found.append(ModelFile(name=f"mock{number}", data=text.encode()))
    return found


def tune_all(models: Sequence[ModelFile], plan: tuning.Plan, wave: int, folder: Path) -> Costs:
    """A job for each model, ``wave`` at a time, on a mesh of their own.

    Raises:
        TunemeshError: a job is not done.
    """
    jobs = [f"job{number}" for number in range(len(models))]
    ended: list[JobProgress] = []
    latency = 0.0
    engines, records = plan.engines, str(folder / "records.sqlite")
    with (
        LocalMesh(layout.plan(plan.device), plan.target, engines, folder=folder, records=records) as mesh,
        Client(mesh.url, jobs) as client,
    ):
        store = ArtifactStore(mesh.artifacts)
        began = time.monotonic()
        for first in range(0, len(jobs), wave):
            under_way = jobs[first : first + wave]
            for job, model in zip(under_way, models[first : first + wave], strict=True):
                client.submit(tuning.make_request(job, model, plan, store))
            for event in client.follow(under_way, idle=0.1):
                mesh.supervise()
                if time.monotonic() - began > LIMIT:
                    raise TunemeshError(f"only {len(ended)} of {len(jobs)} jobs have ended")
                if event is None or event.kind not in FINAL_KINDS:
                    continue
                if event.kind != "done" or event.progress is None or event.validated is None:
                    raise TunemeshError(f"{event.job} is {event.kind}: {event.text}")
                ended.append(event.progress)
                latency += event.validated.latency_after
        makespan = time.monotonic() - began
    busy = [(queue, usage.busy) for progress in ended for queue, usage in progress.usage.items()]
    return Costs(
        trials=sum(progress.trials for progress in ended),
        device=sum(seconds for queue, seconds in busy if queue.startswith("profile")),
        others=sum(seconds for queue, seconds in busy if not queue.startswith("profile")),
        makespan=makespan,
        latency=latency,
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--jobs", type=int, default=100)
    parser.add_argument("--wave", type=int, default=10, help="jobs that come at a time")
    parser.add_argument("--trials", type=int, default=48, help="of each job")
    parser.add_argument("--seed", type=int, default=0, help="of which job has which model")
    parser.add_argument("--models", type=Path, nargs="+", help="files; by default mock models")
    given = parser.parse_args()
    # Without what comes with Tunemesh: the database is to be empty.
    os.environ[mesh_address.SHIPPED] = "none"
    target, engine = ("native", "metaschedule") if given.models else ("mock", "mock")
    models = [model_files.read(path, print) for path in given.models] if given.models else mock_models()
    chosen = random.Random(given.seed).choices(models, k=given.jobs)
    rows = []
    for name, remembers in (("without memory", False), ("with", True)):
        plan = tuning.Plan(
            target=target,
            engines=(engine,),
            level=Level(trials=given.trials, shared=remembers),
            out=Path(),
            settings=Settings(known="first" if remembers else "never"),
        )
        with tempfile.TemporaryDirectory(prefix="tunemesh-memory-") as folder:
            costs = tune_all(chosen, plan, given.wave, Path(folder))
        rows.append(costs.row(name))
        print(f"{name}: {costs}", flush=True)
    print(*markdown.table(COLUMNS, rows), sep="\n")


if __name__ == "__main__":
    main()
