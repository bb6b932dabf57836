"""A result where a person runs it, beside what its report says.

    python -m benchmarks.deployed                   # tunes three small models first, some 3 minutes
    python -m benchmarks.deployed tuned/resnet18    # results of tunemesh tune

Each result runs in a plain virtual machine of TVM and as each kind of export: every time in a fresh process
on one core, without any variable of TVM's in the environment. All take turns; the medians over the rounds are
printed, in parentheses those over the latency in the report.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks import markdown
from benchmarks.deployed_child import WAYS
from examples.make_models import MODELS
from tunemesh import session
from tunemesh.tuned import Tuned

NAMES = ("tiny_cnn", "tiny_mlp_mixer", "tiny_residual")
ALL = (*WAYS, "cpp")
ROUNDS = 3
LIMIT = 300.0
"""Seconds for one process."""


def environment() -> dict[str, str]:
    """That of this process, less what says how TVM is to run."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TVM_")}


def seconds(way: str, folder: Path, core: int) -> float:
    """The latency of one way to run a result, in a process of its own on ``core``."""
    if way == "cpp":
        command = [str(folder / "run")]
    else:
        command = [sys.executable, "-m", "benchmarks.deployed_child", way, str(folder)]
    ended = subprocess.run(
        ["taskset", "--cpu-list", str(core), *command],
        cwd=folder if way == "cpp" else None,  # it writes its outputs there
        env=environment(),
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=True,
    )
    if way != "cpp":
        return float(ended.stdout)
    found = re.search(r"^(\S+) us", ended.stdout, flags=re.MULTILINE)
    assert found is not None, ended.stdout
    return float(found[1]) / 1e6


@contextmanager
def exported(result: Tuned, ways: Sequence[str]) -> Iterator[dict[str, Path]]:
    """Where each way finds what it runs."""
    with tempfile.TemporaryDirectory(prefix="tunemesh-deployed-") as made:
        folders = {"plain": result.folder}
        for kind in ways:
            if kind != "plain":
                folders[kind] = result.export(kind, Path(made, kind))  # type: ignore[arg-type]
        if "cpp" in folders:
            subprocess.run(["make", "-s", "run"], cwd=folders["cpp"], check=True, timeout=LIMIT)
        yield folders


def compare(folder: Path, ways: Sequence[str], core: int, rounds: int) -> list[str]:
    """A row of the table."""
    result = session.load(folder.resolve())
    reported = result.report.latency_after_s
    with exported(result, ways) as folders:
        times = [{way: seconds(way, folders[way], core) for way in ways} for _ in range(rounds)]
    middles = {way: statistics.median(each[way] for each in times) for way in ways}
    cells = [f"{value * 1e6:,.1f} ({value / reported:.3f})" for value in middles.values()]
    return [folder.name, f"{reported * 1e6:,.1f}", *cells]


def tune(out: Path, core: int) -> list[Path]:
    """Tune the small models, one after the other."""
    folders = []
    for name in NAMES:
        path = out / f"{name}.onnx"
        path.write_bytes(MODELS[name]().SerializeToString())
        tuned = session.model(path).on("native", f"cpu:{core}").trials(64).tune(out)
        folders.append(tuned.folder)
    return folders


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("results", type=Path, nargs="*", help="folders with model.so and report.json")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)), help="by default the last")
    parser.add_argument("--ways", nargs="*", choices=ALL, help="by default all")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    ways = arguments.ways or [way for way in ALL if way != "torch" or importlib.util.find_spec("torch")]
    with tempfile.TemporaryDirectory(prefix="tunemesh-deployed-") as made:
        folders = arguments.results or tune(Path(made), arguments.core)
        rows = [compare(folder, ways, arguments.core, arguments.rounds) for folder in folders]
    print("\n".join(markdown.table(["us", "report", *ways], rows)))


if __name__ == "__main__":
    main()
