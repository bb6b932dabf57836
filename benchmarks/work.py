"""What the process that runs everything and the one that does a single run tell each other, as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from benchmarks.experiment import Experiment
from benchmarks.matrix import Run
from benchmarks.table import Value

Status = Literal["done", "failed", "timed-out"]

WORK = "work.json"
RESULT = "result.json"


class Candidate(Struct, frozen=True, kw_only=True):
    """One candidate that was measured in the mesh and then alone. Latencies are seconds (medians)."""

    job: str
    task: str
    task_name: str
    hash: str
    winner: bool
    mesh_s: float
    """As the tuner saw it: from its own trial."""
    confirmed_s: float | None
    """As it was confirmed at the end of its task, if it was."""
    alone_first_s: float | None
    alone_second_s: float | None
    drift: float
    attempts: int
    error: str = ""

    @property
    def ratio(self) -> float | None:
        """In the mesh over alone: 1 when the mesh did not disturb it."""
        return self.mesh_s / self.alone_first_s if self.alone_first_s else None

    @property
    def noise(self) -> float | None:
        """The second time alone over the first: what a ratio of 1 looks like on this machine."""
        if self.alone_first_s and self.alone_second_s:
            return self.alone_second_s / self.alone_first_s
        return None


class Remeasured(Struct, frozen=True, kw_only=True):
    """One turn of a tuned model on the idle machine."""

    model: str
    run: str
    round: int
    latency_s: float


class Work(Struct, frozen=True, kw_only=True):
    """What a child process is to do: one run, or to re-measure the models of runs that were done."""

    experiment: Experiment
    models: dict[str, Path]
    source: Path
    """The experiment's file."""
    run: Run | None = None
    done: dict[str, Path] = {}
    """Folder of each run to re-measure."""


class Result(Struct, frozen=True, kw_only=True):
    """What became of it. ``values`` are cells of the table of runs."""

    status: Status = "done"
    error: str = ""
    values: dict[str, Value] = {}
    candidates: list[Candidate] = []
    remeasured: list[Remeasured] = []


def write(value: Work | Result, path: Path) -> None:
    """Whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_bytes(msgspec.json.encode(value, enc_hook=str))
    partial.replace(path)


def read_work(folder: Path) -> Work:
    """The work in a folder."""
    return msgspec.json.decode((folder / WORK).read_bytes(), type=Work, dec_hook=_path)


def read_result(folder: Path) -> Result | None:
    """The result in a run's folder; ``None`` if there is none."""
    try:
        return msgspec.json.decode((folder / RESULT).read_bytes(), type=Result)
    except (OSError, msgspec.DecodeError):
        return None


def _path(kind: type, value: Any) -> Any:
    return kind(value)
