"""What a person uses: the command line and the Python interface."""

from tunemesh.session import Model, Tuned, model

__all__ = ["Model", "Tuned", "model"]
