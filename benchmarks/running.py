"""All runs of an experiment, unattended; stopped at any moment, it goes on where it was."""

from __future__ import annotations

import fcntl
import shlex
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from benchmarks import evidence, machine, mesh_run, models, simulation_run, table
from benchmarks import matrix as matrix_module
from benchmarks import work as work_module
from benchmarks.evidence import Evidence
from benchmarks.execution import in_child
from benchmarks.experiment import Experiment
from benchmarks.matrix import Run
from benchmarks.table import Row, Table
from benchmarks.work import Result, Work
from tunemesh.shared.errors import BadInput

Execute = Callable[[Work, Path, float], Result]
"""Does a piece of work in a folder, for at most so many seconds."""

RUN_COLUMNS = (
    "experiment", "hash", "kind", "run", "status", "error", "repeat", "seed", "strategy", "section", "label",
    "tuner", "on_cores", "models", "engine", "target", "device", "builders",
    "trials", "settings", "scenario", "overrides",
    "started", "duration_s", "command", *machine.COLUMNS,
)  # fmt: skip
CANDIDATE_COLUMNS = (
    "run", "strategy", "section", "label", "job", "task", "task_name", "hash", "winner", "mesh_s",
    "confirmed_s", "alone_first_s", "alone_second_s", "ratio", "noise", "drift", "attempts", "error",
)  # fmt: skip
REMEASURED_COLUMNS = ("model", "run", "strategy", "section", "label", "round", "latency_s")
RUNS, CANDIDATES, REMEASURED = "runs.csv", "candidates.csv", "remeasured.csv"
REMEASURING = "remeasuring"
EXPERIMENT = "experiment.json"
COMMAND = "command.txt"


@dataclass(frozen=True, slots=True)
class Bench:
    """An experiment and the folder of its results."""

    experiment: Experiment
    source: Path
    out: Path

    def columns(self) -> tuple[str, ...]:
        """Of the table of runs."""
        kind = mesh_run.COLUMNS if self.experiment.kind == "mesh" else simulation_run.COLUMNS
        return (*RUN_COLUMNS, *kind)

    def folder(self, run: str) -> Path:
        """Where a run leaves what is not in the tables."""
        return self.out / "runs" / run

    def evidence(self, rows: Iterable[Row]) -> list[Evidence]:
        """What the runs of these rows have left for plots, as far as it is still there."""
        found = (evidence.load(self.folder(row["run"])) for row in rows)
        return [each for each in found if each is not None]

    def run_all(
        self,
        execute: Execute = in_child,
        tell: Callable[[str], None] = print,
        only: Collection[str] = (),
        retry: bool = False,
    ) -> list[Row]:
        """Do every run that is not in the table yet, then re-measure the models. Returns the table.

        Args:
            execute: does one piece of work; in a child process by default.
            tell: is told one line about every run.
            only: ids of runs to do, instead of all.
            retry: do runs again that have failed.

        Raises:
            BadInput: the folder belongs to another experiment or is in use, or a model is missing.
        """
        runs = matrix_module.runs(self.experiment)
        if unknown := sorted(set(only) - {run.id for run in runs}):
            raise BadInput(f"there is no run {unknown[0]!r}; known: {', '.join(run.id for run in runs)}")
        with self._owned():
            found = models.find(self.experiment, self.source, self.out)
            work = Work(experiment=self.experiment, models=found, source=self.source)
            rows = Table(self.out / RUNS, self.columns())
            if retry:
                rows.drop([row["run"] for row in rows.rows if row["status"] != "done"])
            finished = {row["run"] for row in rows.rows}
            for number, run in enumerate(runs, 1):
                if run.id in finished or (only and run.id not in only):
                    continue
                tell(f"{number}/{len(runs)} {run.id} …")
                row = rows.append(self._one(work, run, execute))
                self._write_candidates(rows.rows)
                tell(f"{number}/{len(runs)} {run.id}: {_in_words(row)}")
            if self.experiment.kind == "mesh" and self.experiment.remeasure:
                self._remeasure(work, rows.rows, execute, tell)
        return rows.rows

    def _one(self, work: Work, run: Run, execute: Execute) -> dict[str, table.Value]:
        facts, started = machine.facts(), time.time()
        result = execute(msgspec.structs.replace(work, run=run), self.folder(run.id), self.experiment.limit_s)
        experiment = self.experiment
        return {
            "experiment": experiment.name,
            "hash": experiment.hash,
            "kind": experiment.kind,
            "run": run.id,
            "status": result.status,
            "error": result.error,
            "repeat": run.repeat,
            "seed": run.seed,
            "strategy": run.strategy,
            "section": matrix_module.section(run),
            "label": matrix_module.label(run),
            "tuner": run.tuner if experiment.kind == "mesh" else "",
            "on_cores": run.cores,
            "models": " ".join(run.models),
            "engine": experiment.engine,
            "target": experiment.target,
            "device": experiment.device,
            "builders": experiment.builders,
            "trials": run.trials,
            "settings": _json(run.settings),
            "scenario": run.scenario,
            "overrides": _json(run.overrides),
            "started": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
            "duration_s": time.time() - started,
            "command": shlex.join(
                ["tunemesh", "bench", str(self.source), "--out", "again", "--only", run.id]
            ),
            **facts,
            **result.values,
        }

    def _write_candidates(self, rows: list[Row]) -> None:
        """From the results of the runs in the table: what belongs to a broken run is not among them."""
        lines = []
        for row in rows:
            result = work_module.read_result(self.folder(row["run"]))
            for each in result.candidates if result is not None else []:
                named = {name: row[name] for name in ("run", "strategy", "section", "label")}
                ratios = {"ratio": each.ratio, "noise": each.noise}
                lines.append({**named, **msgspec.structs.asdict(each), **ratios})
        table.write(self.out / CANDIDATES, CANDIDATE_COLUMNS, lines)

    def _remeasure(self, work: Work, rows: list[Row], execute: Execute, tell: Callable[[str], None]) -> None:
        done = {row["run"]: row for row in rows if row["status"] == "done"}
        measured = {row["run"] for row in table.read(self.out / REMEASURED)}
        if not done or measured == set(done):
            return
        tell("measuring the tuned models of all runs, taking turns …")
        folders = {run: self.folder(run) for run in done}
        limit = self.experiment.limit_s * len(done)
        result = execute(msgspec.structs.replace(work, done=folders), self.out / REMEASURING, limit)
        if result.status != "done":
            tell(f"the tuned models could not be measured: {result.error}")
            return
        named = ("strategy", "section", "label")
        lines = [
            {**msgspec.structs.asdict(each), **{name: done[each.run][name] for name in named}}
            for each in result.remeasured
        ]
        table.write(self.out / REMEASURED, REMEASURED_COLUMNS, lines)

    @contextmanager
    def _owned(self) -> Iterator[None]:
        """This folder is ours: for this experiment, and for this process."""
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            lock = (self.out / ".lock").open("w")
        except OSError as error:
            raise BadInput(f"cannot write to {self.out}: {error.strerror or error}") from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BadInput(f"another tunemesh bench writes to {self.out}; give another --out") from None
            _check_same(self.experiment, self.out)
            (self.out / EXPERIMENT).write_bytes(msgspec.json.format(msgspec.json.encode(self.experiment)))
            (self.out / COMMAND).write_text(_command() + "\n")
            yield


def load_results(out: Path) -> Experiment:
    """The experiment whose results are in ``out``.

    Raises:
        BadInput: there are none.
    """
    try:
        return msgspec.json.decode((out / EXPERIMENT).read_bytes(), type=Experiment)
    except (OSError, msgspec.DecodeError):
        raise BadInput(
            f"there are no results in {out}; run the experiment first, without --render-only"
        ) from None


def _check_same(experiment: Experiment, out: Path) -> None:
    if not (out / EXPERIMENT).exists():
        return
    before = load_results(out)
    if before.hash != experiment.hash:
        fields = experiment.__struct_fields__
        changed = [name for name in fields if getattr(before, name) != getattr(experiment, name)]
        raise BadInput(
            f"{out} holds results of another experiment ({before.name}, {before.hash}), which differs in"
            f" {', '.join(changed)}; give another --out, or remove {out}"
        )


def _command() -> str:
    name = Path(sys.argv[0]).name
    program = ["tunemesh"] if name in ("tunemesh", "__main__.py") else [name]
    return shlex.join([*program, *sys.argv[1:]])


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _in_words(row: Row) -> str:
    if row["status"] != "done":
        return f"{row['status']}: {row['error']}"
    told = {"makespan_s": "makespan {} s", "fidelity_mean": "mesh/alone {}", "ratio": "{} of the lower bound"}
    return ", ".join(form.format(row[name]) for name, form in told.items() if row.get(name)) or "done"
