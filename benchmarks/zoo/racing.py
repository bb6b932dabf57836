"""Tuned models beside ONNX Runtime: one core, one thread each, in turns."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import markdown
from benchmarks.versus_onnxruntime import RUNS, TURNS, compiled, seconds, session
from benchmarks.zoo.importing import Work
from tunemesh import following, model_files, tuning
from tunemesh.shared.messages import Settings
from tunemesh.stage_workers.graph.models import unpack_signatures
from tunemesh.stage_workers.measuring import inputs
from tunemesh.stage_workers.measuring.loading import threads

COLUMNS = ("model", "tuned, ms", "ONNX Runtime, ms", "tuned / ONNX Runtime", "before tuning, ms", "trials")


class _Progress(following.Watcher):
    def note(self, text: str) -> None:
        print(text, flush=True)


def race(works: Mapping[str, Work], trials: int, out: Path) -> list[str]:
    """Tune each model, and then run it beside ONNX Runtime. Lines of a table.

    Args:
        works: the models, ONNX files, by name.
        trials: for each.
        out: folder of the results.
    """
    given = [
        msgspec.structs.replace(model_files.read(Path(work.path), print), name=name, settings=work.settings)
        for name, work in works.items()
    ]
    plan = tuning.Plan(target="native", trials=trials, out=out)
    body = []
    for model, ending in zip(given, tuning.tune(given, plan, _Progress()), strict=True):
        if ending.report is None:
            body.append([model.name, ending.error, *[""] * 4])
            continue
        tuned, judged, ratio = _raced(works[model.name], out / ending.job, ending.report.target)
        milliseconds = [f"{each * 1e3:.3g}" for each in (tuned, judged, ending.report.latency_before_s)]
        tried = str(ending.report.trials)
        body.append([model.name, *milliseconds[:2], f"{ratio:.2f}", milliseconds[2], tried])
    return markdown.table(COLUMNS, body)


def _raced(work: Work, folder: Path, target: str) -> tuple[float, float, float]:
    """Medians in seconds of the first set of shapes, tuned and by ONNX Runtime, and that of the ratios within
    a turn."""
    signature = unpack_signatures((folder / "signature.json").read_bytes()).variants[0]
    settings = msgspec.convert(work.settings, Settings)
    tensors = [(each.name, each.shape, each.dtype) for each in signature.inputs]
    arrays: dict[str, Any] = {
        name: array
        for (name, _, _), array in zip(tensors, inputs.random(tensors, 0, settings.ranges), strict=True)
    }
    with _on_one_core(), threads(target):
        reference = session(Path(work.path))
        tuned = compiled((folder / "model.so").read_bytes(), arrays, signature.function)
        contestants = (tuned, lambda: reference.run(None, arrays))
        for run in contestants:
            run()
        turns = [[seconds(run, RUNS) for run in contestants] for _ in range(TURNS)]
    ours, theirs = (statistics.median(column) for column in zip(*turns, strict=True))
    return ours, theirs, statistics.median(one / other for one, other in turns)


@contextmanager
def _on_one_core() -> Iterator[None]:
    usable = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(usable)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, usable)
