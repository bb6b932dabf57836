"""What measuring again is worth: candidates profiled while something takes the device's core now and then.

A convolution's candidates go through the ``profile`` stage: on a calm core, and while a busy loop on
the same core runs for one second of every three; with and without what ``stage_workers/stages/trust.py``
does.

    python -m benchmarks.disturbance
"""

from __future__ import annotations

import contextlib
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from examples import make_models
from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.messages import (
    Blob,
    BuildDone,
    BuildWork,
    Built,
    ImportDone,
    ImportWork,
    Profiled,
    ProfileDone,
    ProfileWork,
    Result,
    Settings,
    Step,
    TaskSpec,
    UpdateDone,
    UpdateWork,
    Work,
)
from tunemesh.stage_workers import platforms
from tunemesh.stage_workers.platforms.protocol import Platform, Target, TargetCall
from tunemesh.stage_workers.sandbox.sandbox import Sandbox
from tunemesh.stage_workers.stages import Context, run_stage, trust

CANDIDATES = 16
REPEATS = 3
LOOP = """
import time
while True:
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        sum(range(1000))
    time.sleep(2.0)
"""


class Bench:
    """A sandbox on one core, and what is done in it."""

    def __init__(self, core: int, folder: Path) -> None:
        self.core = core
        self.sandbox = Sandbox(("metaschedule",), memory=4 * 2**30, cpus=frozenset({core}))
        self.sandbox.start()
        while not self.sandbox.ready(1.0):
            pass
        self.store = ArtifactStore(str(folder))
        native = TargetCall(target="native")
        target = self.sandbox.call(platforms.TVM, Platform.resolve_target, native, 120.0)
        assert isinstance(target, Target), target
        self.target = target.canonical
        self.context = Context(self.sandbox, self.store, "cpu")

    def do(self, work: Work) -> Result:
        """One step."""
        step = Step(
            id="bench/t00/0/0/-",
            job="bench",
            engines=["metaschedule"],
            target=self.target,
            seed=1,
            # All repeats of every candidate, so that there is time to be disturbed.
            settings=Settings(cut_short=None),
            options={
                "graph": {
                    "layout": "given",
                    "convolutions": "direct",
                    "fusion": "default",
                    "products": "given",
                }
            },
            work=work,
            task="t00",
        )
        return run_stage(step, self.context)

    def candidates(self, model: Blob) -> tuple[TaskSpec, list[Built]]:
        """The model's first task, and built candidates of it."""
        imported = self.do(ImportWork(model=model))
        assert isinstance(imported, ImportDone), imported
        task = imported.tasks[0]
        proposed = self.do(UpdateWork(task=task, want=CANDIDATES))
        assert isinstance(proposed, UpdateDone), proposed
        built = self.do(BuildWork(task=task, candidates=proposed.candidates))
        assert isinstance(built, BuildDone), built
        return task, [each for each in built.built if each.artifact is not None]

    def profile(self, task: TaskSpec, built: list[Built]) -> tuple[dict[int, Profiled], float]:
        """All of them, and the seconds that it took. Anew: a worker profiles the same binary once."""
        self.context.measured.clear()
        began = time.monotonic()
        done = self.do(ProfileWork(task=task, artifacts=built))
        assert isinstance(done, ProfileDone), done
        return {
            each.index: each for each in done.profiled if each.outcome == "measured"
        }, time.monotonic() - began


@contextlib.contextmanager
def busy(core: int) -> Iterator[None]:
    """A process that takes ``core`` for one second of every three."""
    with subprocess.Popen(["taskset", "-c", str(core), sys.executable, "-c", LOOP]) as process:
        try:
            yield
        finally:
            process.kill()


def compare(measured: dict[int, Profiled], calm: dict[int, Profiled]) -> tuple[float, float]:
    """Geometric mean and largest of measured / calm."""
    ratios = [measured[i].median / calm[i].median for i in measured.keys() & calm.keys()]
    return statistics.geometric_mean(ratios), max(ratios)


def main() -> None:
    """Run it and print some lines."""
    first, *_, core = sorted(os.sched_getaffinity(0)) * 2
    os.sched_setaffinity(0, {first})
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(core, Path(folder, "store"))
        try:
            model = bench.store.put(make_models.one_convolution().SerializeToString())
            task, built = bench.candidates(model)
            bench.profile(task, built)
            calm, seconds = bench.profile(task, built)
            mean, worst = compare(bench.profile(task, built)[0], calm)
            print(
                f"calm core, {len(calm)} candidates in {seconds:.1f} s; again: {mean:.3f}, worst {worst:.2f}"
            )
            for policy in (True, False):
                with contextlib.ExitStack() as stack:
                    for name in () if policy else ("THRESHOLD", "WAITED", "SPREAD"):
                        stack.enter_context(mock.patch.object(trust, name, math.inf))
                    stack.enter_context(busy(core))
                    for _ in range(REPEATS):
                        disturbed, seconds = bench.profile(task, built)
                        mean, worst = compare(disturbed, calm)
                        again = sum(each.attempts > 1 for each in disturbed.values())
                        print(
                            f"disturbed, policy {'on' if policy else 'off'}: disturbed / calm {mean:.3f},"
                            f" worst {worst:.2f}, {again} measured again, {seconds:.1f} s"
                        )
        finally:
            bench.sandbox.stop()


if __name__ == "__main__":
    main()
