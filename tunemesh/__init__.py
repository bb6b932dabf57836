"""What a person uses: the command line and the Python interface. The mesh itself is in its subpackages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tunemesh.session import Model, Tuned, load, model

    __version__: str

__all__ = ["Model", "Tuned", "__version__", "load", "model"]


def __getattr__(name: str) -> Any:
    """The Python interface, imported when it is asked for: coordinators and workers do not need it."""
    if name == "__version__":
        from importlib.metadata import version

        return version(__name__)
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tunemesh import session

    return getattr(session, name)
