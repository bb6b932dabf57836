"""What a person uses: the command line and the Python interface. The mesh itself is in its subpackages."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tunemesh.remote import Job, Mesh, connect
    from tunemesh.session import Model, load, model
    from tunemesh.shared.errors import (
        ArtifactError,
        BadInput,
        BadModel,
        BadTarget,
        BrokerRefused,
        BrokerUnavailable,
        JobFailed,
        TunemeshError,
        Unavailable,
    )
    from tunemesh.tuned import Tuned

    __version__: str

__all__ = [
    "ArtifactError",
    "BadInput",
    "BadModel",
    "BadTarget",
    "BrokerRefused",
    "BrokerUnavailable",
    "Job",
    "JobFailed",
    "Mesh",
    "Model",
    "Tuned",
    "TunemeshError",
    "Unavailable",
    "__version__",
    "connect",
    "load",
    "model",
]

_PLACES = {
    "tunemesh.remote": ("Job", "Mesh", "connect"),
    "tunemesh.session": ("Model", "load", "model"),
    "tunemesh.tuned": ("Tuned",),
}
"""Modules and what they have of the Python interface; errors have a module of their own."""


def __getattr__(name: str) -> Any:
    """The Python interface, imported when it is asked for: coordinators and workers do not need it."""
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version(__name__)
        except PackageNotFoundError:
            return "0+unknown"  # a checkout that was never installed
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    place = next((module for module, names in _PLACES.items() if name in names), "tunemesh.shared.errors")
    return getattr(importlib.import_module(place), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
