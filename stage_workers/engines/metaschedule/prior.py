"""What the cost model knows of a task of which nothing was measured yet: what holds for kernels in general.

Trees that were fitted to candidates of other kernels, in the same way as those of a task: they predict the
logarithm of a candidate's speed, relative to the best of its kernel, from a summary of its features. Those
that come with the engine were measured on one kind of CPU, by the commands in ``docs/performance.md``;
``benchmarks/learn_prior.py`` wrote the file. Where they are wrong about a task, its own measurements correct
them.
"""

from __future__ import annotations

import functools
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt

FILE = "prior.ubj"
"""In XGBoost's binary format."""
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

        self._trees: Any = xgboost.Booster({"nthread": 1})
        self._trees.load_model(bytearray(content))

    def predict(self, summaries: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Logarithms of scores, one per row of :func:`.cost_model.summaries`."""
        return np.asarray(self._trees.inplace_predict(summaries), np.float32)


@functools.lru_cache(KEPT)
def load(content: bytes) -> Prior:
    """The prior of these bytes."""
    return Prior(content)


def shipped() -> bytes:
    """The bytes of the prior that comes with the engine; it is for CPUs."""
    return resources.files(__package__).joinpath(FILE).read_bytes()
