"""Import one model in a process of its own, as a worker does, and say what came of it.

``python -m benchmarks.zoo.importing`` reads a :class:`Work` from standard input and prints a :class:`Found`.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from tunemesh import model_files
from tunemesh.shared.errors import TunemeshError
from tunemesh.shared.messages import Options, OutputCheck, Settings
from tunemesh.shared.text import clip
from tunemesh.stage_workers.frontends.shapes import variants
from tunemesh.stage_workers.platforms.protocol import ImportCall, TargetCall
from tunemesh.stage_workers.platforms.tvm_platform import TvmPlatform
from tunemesh.tuning import with_fitting_samples

WRONG = "does not compute what the model says"
"""In the refusal of a model that was imported and is not right."""


class Work(Struct, frozen=True, kw_only=True):
    """One model to import."""

    path: str
    settings: dict[str, Any] = {}
    """Of a job, by name: shapes, dims, ranges."""
    options: Options = {}


class Found(Struct, frozen=True, kw_only=True):
    """What came of it."""

    verdict: Literal["right", "not judged", "wrong", "refused", "crashed"]
    tasks: int = 0
    judge: str = ""
    outputs: list[OutputCheck] = []
    """Of all sets of shapes."""
    seconds: float = 0.0
    """For the import, with the comparison and the kernels without tuning, after TVM has been loaded."""
    memory: int = 0
    """Bytes that the process had at most, TVM included."""
    error: str = ""


def in_process(work: Work, limit: float) -> Found:
    """What another process makes of a model within ``limit`` seconds, on one core."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TVM_NUM_THREADS": "1"}
    began = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.zoo.importing"],
            input=msgspec.json.encode(work),
            capture_output=True,
            timeout=limit,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Found(verdict="crashed", seconds=limit, error=f"not imported after {limit:.0f} s")
    lines = [line for line in done.stdout.splitlines() if line.startswith(b'{"verdict"')]
    if done.returncode or not lines:
        said = done.stderr.decode(errors="replace").strip().splitlines() or [""]
        error = clip(f"exit code {done.returncode}: {said[-1]}")
        return Found(verdict="crashed", seconds=time.monotonic() - began, error=error)
    return msgspec.json.decode(lines[-1], type=Found)


def import_here(work: Work) -> Found:
    """The same in this process."""
    platform = TvmPlatform()
    platform.preload()
    target = platform.resolve_target(TargetCall(target="native")).canonical
    began = time.perf_counter()
    try:
        model = model_files.read(Path(work.path), lambda text: print(text, file=sys.stderr))
        settings = msgspec.convert(work.settings, Settings)
        model = with_fitting_samples(model, settings)
        imported = platform.import_model(
            ImportCall(
                model=model.data,
                files={name: str(path) for name, path in model.files.items()},
                target=target,
                variants=variants(settings),
                ranges=settings.ranges,
                inputs=model.samples,
                options=work.options,
            )
        )
    except TunemeshError as error:
        verdict: Literal["wrong", "refused"] = "wrong" if WRONG in str(error) else "refused"
        return Found(verdict=verdict, seconds=time.perf_counter() - began, memory=_peak(), error=str(error))
    judges = sorted({each.judge for each in imported.judged if each.judge})
    judged = bool(judges) and all(each.judge for each in imported.judged)
    return Found(
        verdict="right" if judged else "not judged",
        tasks=len(imported.tasks),
        judge=", ".join(judges),
        outputs=[check for each in imported.judged for check in each.outputs],
        seconds=time.perf_counter() - began,
        memory=_peak(),
        error="" if judged else "; ".join(sorted({each.reason for each in imported.judged})),
    )


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    found = import_here(msgspec.json.decode(sys.stdin.buffer.read(), type=Work))
    print(msgspec.json.encode(found).decode(), flush=True)
