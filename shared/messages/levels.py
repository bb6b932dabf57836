"""What a client asks for beside the model: its service level."""

from __future__ import annotations

from msgspec import Struct


class Level(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How good a job has to be, and what it may take. All of it is optional."""

    shared: bool = True
    """Whether its tasks may be tuned together with those of other jobs: what one has measured serves all.
    Without it the job neither gives nor takes."""
