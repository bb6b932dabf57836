"""Tuned models beside ONNX Runtime: one core, one thread each, in turns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from benchmarks import markdown
from benchmarks.machine import cores_of
from benchmarks.zoo.importing import Work
from tunemesh import following, model_files, tuning
from tunemesh.comparing import comparison, peers
from tunemesh.shared.errors import TunemeshError
from tunemesh.shared.messages import Level

COLUMNS = ("model", "tuned, ms", "ONNX Runtime, ms", "tuned / ONNX Runtime", "before tuning, ms", "trials")


class _Progress(following.Watcher):
    def note(self, text: str) -> None:
        print(text, flush=True)


def race(works: Mapping[str, Work], trials: int, out: Path) -> list[str]:
    """Tune each model, and then run it beside ONNX Runtime with its first set of shapes. Lines of a table.

    Args:
        works: the models, ONNX files, by name.
        trials: for each.
        out: folder of the results.
    """
    given = [
        msgspec.structs.replace(model_files.read(Path(work.path), print), name=name, settings=work.settings)
        for name, work in works.items()
    ]
    plan = tuning.Plan(
        target="native", level=Level(trials=trials, shared=False), out=out, overwrite=True, html=False
    )
    judge = peers.named(["onnxruntime"])
    device = comparison.device_of(f"cpu:{max(cores_of(None))}")
    progress = _Progress()
    body = []
    for model, ending in zip(given, tuning.tune(given, plan, progress), strict=True):
        if ending.report is None:
            body.append([model.name, ending.error, *[""] * 4])
            continue
        settings = tuning.settings_of(model, plan.settings)
        try:
            found = comparison.compare(model, settings, out / ending.job, device, judge, progress.note)[0]
        except TunemeshError as error:
            body.append([model.name, str(error), *[""] * 4])
            continue
        before, tried = ending.report.latency_before_s, str(ending.report.trials)
        if found.latency_s is None or found.ratio is None:
            body.append([model.name, _ms(found.tuned_s), found.error, "", _ms(before), tried])
        else:
            latencies = _ms(found.tuned_s), _ms(found.latency_s)
            body.append([model.name, *latencies, f"{found.ratio:.2f}", _ms(before), tried])
    return markdown.table(COLUMNS, body)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g}"
