"""A model as it came: the bytes of its file, and what it keeps in other files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Source:
    """A model to read.

    Attributes:
        model: the bytes of its file.
        files: further files that came with it, by the name under which the model speaks of them. Where they
            lie was chosen by whoever made this, never by the model: no frontend opens any other path.
    """

    model: bytes
    files: Mapping[str, Path] = field(default_factory=dict)
