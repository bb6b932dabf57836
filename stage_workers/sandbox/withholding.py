"""Packages that imports in a process do not find, although they are installed."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from typing import Any

_withheld: set[str] = set()


def withhold(package: str) -> None:
    """Let imports of a package fail from now on, as if it were not installed.

    Nothing is put into ``sys.modules``: libraries look there for what is already imported, and would take a
    ``None`` for the package.
    """
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path[:] = [_Finder(finder) for finder in sys.meta_path]
    _withheld.add(package)


def provide(package: str) -> None:
    """Let it be found again: for an engine that needs it, where the engine itself is imported."""
    _withheld.discard(package)


class _Finder:
    """A finder of modules that finds none of those withheld."""

    def __init__(self, finder: Any) -> None:
        self._finder = finder

    def find_spec(self, name: str, *more: Any) -> ModuleSpec | None:
        """As `importlib.abc.MetaPathFinder` says."""
        found: ModuleSpec | None = None if name in _withheld else self._finder.find_spec(name, *more)
        return found

    def __getattr__(self, name: str) -> Any:
        # What else finders have: `invalidate_caches`, `find_distributions`.
        return getattr(self._finder, name)
