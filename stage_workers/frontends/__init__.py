"""From a model's file to a Relax module with static shapes.

Every frontend is a module with two functions: ``recognises(source)``, which looks at the first bytes only,
and ``read(source, variant)``. A frontend is imported when a model is there to be read, so that a client that
only looks at a file does not wait for what the others need.
"""

from __future__ import annotations

import importlib
from typing import Any, Protocol

from tunemesh.stage_workers.frontends.shapes import Variant
from tunemesh.stage_workers.frontends.source import Source
from tunemesh.stage_workers.graph.signatures import Signature

__all__ = ["FRONTENDS", "Frontend", "Source", "Variant", "frontend_of", "read"]

FRONTENDS = ("relax_json", "tflite", "onnx")
"""Modules of this package, in the order in which they are asked. ``onnx`` takes what has no signature of its
own, so it comes last."""


class Frontend(Protocol):
    """What a frontend's module has."""

    def recognises(self, source: Source) -> bool:
        """Whether it is a model of this kind, by its first bytes. It may be damaged all the same."""

    def read(self, source: Source, variant: Variant) -> tuple[Any, Signature]:
        """See :func:`read`."""


def frontend_of(source: Source) -> str:
    """The name of the frontend that reads a model."""
    return next(name for name in FRONTENDS if _load(name).recognises(source))


def read(source: Source, variant: Variant) -> tuple[Any, Signature]:
    """The Relax module of a model, whose ``main`` takes the inputs only and has static shapes, and its
    signature.

    Raises:
        BadModel: no frontend knows it, or it cannot be imported.
    """
    return _load(frontend_of(source)).read(source, variant)


def _load(name: str) -> Frontend:
    module: Any = importlib.import_module(f"{__name__}.{name}")
    found: Frontend = module
    return found
