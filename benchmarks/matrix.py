"""From an experiment to its runs, in the order in which they are done."""

from __future__ import annotations

import itertools
import re
from typing import Any

from msgspec import Struct

from benchmarks.experiment import Experiment, Tuner


class Run(Struct, frozen=True, kw_only=True):
    """One combination of the matrix in one repeat."""

    id: str
    """Unique, and readable: ``r1-s0-predictive`` is repeat 1, seed 0, and what is compared."""
    repeat: int
    seed: int
    strategy: str
    cell: dict[str, Any]
    """Values of the other axes that the matrix varies, strategy included: what is compared."""
    models: list[str] = []
    trials: int = 0
    settings: dict[str, Any] = {}
    tuner: Tuner = "tunemesh"
    cores: int | None = None
    scenario: str = ""
    overrides: dict[str, Any] = {}

    @property
    def block(self) -> str:
        """Runs of one block differ in their cell only."""
        return f"r{self.repeat}-s{self.seed}"


def runs(experiment: Experiment) -> list[Run]:
    """All runs in order: repeat by repeat, seed by seed, and in every such block all cells.

    The order of the cells is rotated by one from block to block, so that none of them always comes first or
    always follows the same one, whatever the machine does meanwhile.
    """
    cells = cells_of(experiment)
    blocks = list(itertools.product(range(experiment.repeats), experiment.axis("seed")))
    ordered = []
    for number, (repeat, seed) in enumerate(blocks):
        shift = number % len(cells)
        ordered += [_run(experiment, repeat, seed, cell) for cell in cells[shift:] + cells[:shift]]
    return ordered


def cells_of(experiment: Experiment) -> list[dict[str, Any]]:
    """All combinations of the axes other than seed and repeat, in the order of the file."""
    axes = {name: values for name, values in experiment.matrix.items() if name != "seed"}
    axes = axes or {"strategy": [experiment.strategy]}
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def label(run: Run) -> str:
    """What is compared, for people: tuner, strategy and settings where they vary."""
    compared = {axis: value for axis, value in run.cell.items() if _is_compared(axis)}
    return _in_words(compared) or run.strategy


def section(run: Run) -> str:
    """What only runs of the same are compared in: models, trials, cores, scenario and overrides where they
    vary."""
    return _in_words({axis: value for axis, value in run.cell.items() if not _is_compared(axis)})


def slug(words: str) -> str:
    """``words`` as a part of ids and file names."""
    return re.sub(r"[^A-Za-z0-9]+", "-", words).strip("-")


def _is_compared(axis: str) -> bool:
    return axis in ("tuner", "strategy") or axis.startswith("settings.")


def _in_words(cell: dict[str, Any]) -> str:
    parts = []
    for axis, value in cell.items():
        text = "+".join(map(str, value)) if isinstance(value, list) else str(value)
        parts.append(
            text
            if axis in ("tuner", "strategy", "models", "scenario")
            else f"{axis.rpartition('.')[2]} {text}"
        )
    return ", ".join(parts)


def _run(experiment: Experiment, repeat: int, seed: int, cell: dict[str, Any]) -> Run:
    def value(name: str) -> Any:
        return cell[name] if name in cell else getattr(experiment, name)

    def family(name: str) -> dict[str, Any]:
        prefix = f"{name}."
        varied = {axis.removeprefix(prefix): v for axis, v in cell.items() if axis.startswith(prefix)}
        return {**getattr(experiment, name), **varied}

    name = slug(_in_words(cell))
    return Run(
        id=f"r{repeat}-s{seed}-{name}",
        repeat=repeat,
        seed=seed,
        strategy=value("strategy"),
        cell=cell,
        models=value("models"),
        trials=value("trials"),
        settings=family("settings"),
        tuner=value("tuner"),
        cores=value("cores"),
        scenario=cell.get("scenario") or experiment.scenario or "",
        overrides=family("overrides"),
    )
