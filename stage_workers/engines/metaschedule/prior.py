"""What the cost model knows of a task of which nothing was measured yet: what holds for kernels in general.

Trees that were fitted to candidates of other kernels, in the same way as those of a task: they predict the
logarithm of a candidate's speed, relative to the best of its kernel, from a summary of its features. They
were measured on one kind of CPU, by the commands in ``docs/performance.md``; ``benchmarks/learn_prior.py``
wrote the file. Where they are wrong about a task, its own measurements correct them.
"""

from __future__ import annotations

import functools
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt

FILE = "prior.ubj"
"""In XGBoost's binary format."""


@functools.cache
def _trees() -> Any:
    import xgboost

    trees = xgboost.Booster({"nthread": 1})
    trees.load_model(bytearray(resources.files(__package__).joinpath(FILE).read_bytes()))
    return trees


def predict(summaries: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Logarithms of scores, one per row of :func:`.cost_model.summaries`."""
    return np.asarray(_trees().inplace_predict(summaries), np.float32)
