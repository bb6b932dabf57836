"""Halide's own autoschedulers: each gives one schedule, whatever the knobs are."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import halide as hl

AUTOSCHEDULERS = {"adams2019": "Adams2019", "li2018": "Li2018", "mullapudi2016": "Mullapudi2016"}
"""By the names that schedules have; as good as they were on the convolution of Woodpecker-DL."""
MORE = {"adams2019": {"beam_size": "1"}}
"""Settings: with its usual beam of 32, it takes up to a minute for a convolution."""


def apply(name: str, output: Any, target: Any) -> None:
    """Schedule a pipeline for one core. Functions that are computed before the output are scheduled, too."""
    _load(name)
    parameters = hl.AutoschedulerParams(AUTOSCHEDULERS[name], {"parallelism": "1", **MORE.get(name, {})})
    hl.Pipeline(output).apply_autoscheduler(target, parameters)


@functools.cache
def _load(name: str) -> None:
    folder = Path(hl.__file__).parent / "lib64"
    hl.load_plugin(str(folder / f"libautoschedule_{name}.so"))
