"""What the cost model knows of a task of which nothing was measured yet: what holds for kernels in general.

Trees that were fitted to candidates of other kernels, in the same way as those of a task: they predict the
logarithm of a candidate's speed, relative to the best of its kernel, from a summary of its features. One set
comes with the engine; ``tunemesh records learn`` fits further ones to the records. Where they are wrong about
a task, its own measurements correct them.
"""

from __future__ import annotations

import functools
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt

from tunemesh.stage_workers.engines.metaschedule import options
from tunemesh.stage_workers.graph import targets

FILE = "prior.ubj"
"""In XGBoost's binary format."""
FORMAT = "format"
"""The name of the attribute that says which features the trees were fitted to: :data:`.options.FORMAT`."""
KEPT = 4
"""Priors whose trees a process keeps."""


class Prior:
    """Predicts by trees.

    Args:
        content: the trees in XGBoost's binary format.

    Raises:
        xgboost.core.XGBoostError: they are damaged.
    """

    def __init__(self, content: bytes) -> None:
        import xgboost

        self.trees: Any = xgboost.Booster({"nthread": 1})
        self.trees.load_model(bytearray(content))

    @property
    def readable(self) -> bool:
        """Whether it was fitted to the features that candidates have now."""
        return bool(self.trees.attr(FORMAT) == str(options.FORMAT))

    def predict(self, summaries: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Logarithms of scores, one per row of :func:`.cost_model.summaries`."""
        return np.asarray(self.trees.inplace_predict(summaries), np.float32)


def pack(trees: Any) -> bytes:
    """The bytes of trees."""
    trees.set_attr(**{FORMAT: str(options.FORMAT)})
    return bytes(trees.save_raw("ubj"))


@functools.lru_cache(KEPT)
def load(content: bytes) -> Prior:
    """The prior of these bytes."""
    return Prior(content)


def of(target: str, given: bytes | None) -> Prior | None:
    """What is known before anything is measured: the prior that is given, or the one that comes with the
    engine, which is for CPUs, where that one is of another format."""
    if given is not None and (known := load(given)).readable:
        return known
    return None if targets.is_gpu(target) else load(shipped())


def shipped() -> bytes:
    """The bytes of the prior that comes with the engine; it is for CPUs."""
    return resources.files(__package__).joinpath(FILE).read_bytes()
