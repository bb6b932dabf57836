"""The engines by name. They are found by entry points of the group :data:`GROUP`, Tunemesh's own like those
of other packages. Only the sandbox's processes call :func:`load`: engine code never runs elsewhere."""

from __future__ import annotations

import functools
import platform
from importlib import metadata, util

from tunemesh.shared.errors import BadInput
from tunemesh.stage_workers.engines import compilers
from tunemesh.stage_workers.engines.protocol import Engine

GROUP = "tunemesh.engines"

METASCHEDULE, TEMPLATE = OWN = "metaschedule", "template"
"""Those that come with Tunemesh and make kernels: what workers serve unless they are told otherwise."""
HALIDE = "halide"
EXTRAS = (HALIDE,)
"""Those that come with Tunemesh, need an extra, and are served where they are named."""
NO_HALIDE = 'the engine halide needs a package: pip install "tunemesh[halide]"'


class BrokenEngine(BadInput):
    """An engine is installed, and cannot be used."""


def names() -> tuple[str, ...]:
    """Names of the engines that are installed here, whether they can be loaded or not."""
    return tuple(sorted({point.name for point in metadata.entry_points(group=GROUP)}))


def missing(name: str, *, building: bool = True) -> str:
    """What this machine lacks for an engine that comes with Tunemesh, in one line; empty where it lacks
    nothing, or nothing is known of it.

    Args:
        building: whether kernels are to be built; to propose takes less.
    """
    if name == HALIDE and util.find_spec(HALIDE) is None:
        return NO_HALIDE
    if building and name in (TEMPLATE, HALIDE) and compilers.compiler(platform.machine()) is None:
        return compilers.MISSING
    return ""


def served_by_default() -> tuple[str, ...]:
    """The engines that those who build on this machine serve unless they are told otherwise."""
    return tuple(name for name in OWN if not missing(name))


@functools.cache
def load(name: str) -> Engine:
    """The engine called ``name``, one instance per process. Its package is imported on first use.

    Raises:
        BadInput: there is none of that name, or two.
        BrokenEngine: it cannot be imported, or is no engine.
    """
    found = list(metadata.entry_points(group=GROUP, name=name))
    if not found:
        raise BadInput(f"there is no engine {name!r}; installed: {', '.join(names())}")
    if len(found) > 1:
        packages = ", ".join(sorted(map(_package, found)))
        raise BadInput(f"several packages have an engine {name!r}: {packages}; uninstall all but one")
    (point,) = found
    try:
        engine: Engine = point.load()()
        described = engine.name, engine.format
    except MemoryError:
        raise
    except Exception as error:  # whatever somebody else's package raises when it is imported
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        raise BrokenEngine(
            f"engine {name!r} of package {_package(point)} cannot be loaded: {cause}"
        ) from error
    if described[0] != name:
        raise BrokenEngine(f"engine {name!r} of package {_package(point)} calls itself {described[0]!r}")
    return engine


def _package(point: metadata.EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value
