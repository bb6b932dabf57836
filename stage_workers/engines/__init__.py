"""The engines by name. Only the sandbox's processes call :func:`load`: engine code never runs elsewhere."""

from __future__ import annotations

import functools
import importlib

from tunemesh.shared.errors import BadInput
from tunemesh.stage_workers.engines.protocol import Engine

ENGINES = ("metaschedule", "mock")

_CLASSES = {
    "metaschedule": ("tunemesh.stage_workers.engines.metaschedule", "MetaScheduleEngine"),
    "mock": ("tunemesh.stage_workers.engines.mock", "MockEngine"),
}


def names() -> tuple[str, ...]:
    """Names of the engines that are installed here, whether they can be loaded or not."""
    return ENGINES


@functools.cache
def load(name: str) -> Engine:
    """The engine called ``name``, one instance per process. Its module is imported on first use.

    Raises:
        BadInput: there is none of that name.
        ImportError: its libraries are not installed.
    """
    if name not in _CLASSES:
        raise BadInput(f"there is no engine {name!r}; known: {', '.join(ENGINES)}")
    module, kind = _CLASSES[name]
    engine: Engine = getattr(importlib.import_module(module), kind)()
    return engine
