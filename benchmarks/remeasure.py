"""The tuned models of all runs on the idle machine: in one process on the device, taking turns, so that
whatever slows the device down hits all of them."""

from __future__ import annotations

import statistics
from pathlib import Path

from benchmarks.alone import Alone
from benchmarks.experiment import settings_of
from benchmarks.work import Remeasured, Work
from tunemesh.stage_workers.platforms.protocol import Platform, ValidateCall

TURN_LIMIT = 300.0
"""Seconds for one model in one round."""


def remeasure(work: Work) -> list[Remeasured]:
    """Measure every model of every run once per round; the order is reversed from round to round.

    Raises:
        TunemeshError: a model does not run.
    """
    experiment = work.experiment
    settings = settings_of(experiment.settings)
    turns = []
    models = sorted({path.name for folder in work.done.values() for path in (folder / "tuned").iterdir()})
    with Alone(experiment.engine, experiment.device, experiment.target) as alone:
        for model in models:
            tuned = {run: folder / "tuned" / model for run, folder in work.done.items()}
            entrants = [run for run, folder in tuned.items() if (folder / "model.so").is_file()]
            for number in range(experiment.remeasure):
                for run in entrants if number % 2 == 0 else reversed(entrants):
                    program, signature = _read(tuned[run])
                    # Against itself: ``validate`` is how the mesh times a model, too.
                    call = ValidateCall(
                        tuned=program,
                        untuned=program,
                        signature=signature,
                        target=alone.target,
                        device=alone.device,
                        settings=settings,
                    )
                    found = alone.call(Platform.validate, call, TURN_LIMIT)
                    latency = statistics.median(found.after)
                    turns.append(Remeasured(model=model, run=run, round=number, latency_s=latency))
    return turns


def _read(folder: Path) -> tuple[bytes, bytes]:
    return (folder / "model.so").read_bytes(), (folder / "signature.json").read_bytes()
