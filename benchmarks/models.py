"""What an experiment needs before its first run: the device, scenarios, and models, of which those that are
only named are made."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from benchmarks.experiment import Experiment
from benchmarks.machine import ROOT
from tunemesh.layout import plan
from tunemesh.shared.errors import BadInput

MAKER = ROOT / "examples" / "make_models.py"
MAKE_LIMIT = 300.0
"""Seconds."""


def find(experiment: Experiment, source: Path, out: Path) -> dict[str, Path]:
    """The file of every model that the experiment names (a simulation names none); what is to be made is made
    in ``out/models``.

    Args:
        source: the experiment's file. Relative paths are relative to its folder.

    Raises:
        BadInput: a file, a scenario or the device is missing, or a model cannot be made; names it.
    """
    if experiment.kind == "simulation":
        for scenario in experiment.axis("scenario"):
            if not (source.parent / scenario).is_file():
                raise BadInput(f"experiment {source}: there is no scenario {source.parent / scenario}")
        return {}
    try:
        plan(experiment.device, experiment.builders)
    except BadInput as error:
        raise BadInput(f"experiment {source}: {error}") from None
    names = dict.fromkeys(name for models in experiment.axis("models") for name in models)
    found = {name: _path(name, source, out) for name in names}
    missing = [name for name, path in found.items() if not path.is_file()]
    if files := [name for name in missing if Path(name).suffix]:
        raise BadInput(
            f"experiment {source}: there is no model file {found[files[0]]}; make it or change the name"
        )
    if missing:
        _make(missing, source, out / "models")
    return found


def _path(name: str, source: Path, out: Path) -> Path:
    return source.parent / name if Path(name).suffix else out / "models" / f"{name}.onnx"


def _make(names: Iterable[str], source: Path, folder: Path) -> None:
    if not MAKER.is_file():
        raise BadInput(
            f"experiment {source}: models by name need {MAKER}; run it from the repository, or give files"
        )
    command = [sys.executable, str(MAKER), str(folder), *names]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=MAKE_LIMIT, check=False)
    except subprocess.TimeoutExpired:
        raise BadInput(f"experiment {source}: {MAKER} did not end in {MAKE_LIMIT:.0f} s") from None
    if done.returncode:
        words = done.stderr.strip().splitlines() or ["it failed"]
        raise BadInput(f"experiment {source}: {words[-1]}")
