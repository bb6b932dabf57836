"""The platforms by name, and which target belongs to which. Only the sandbox's processes call
:func:`load`."""

from __future__ import annotations

import functools

from tunemesh.stage_workers.platforms.protocol import Platform

MOCK = "mock"
TVM = "tvm"


def name_of(target: str) -> str:
    """The platform of a target in any form: targets that start with ``mock`` are no real ones."""
    return MOCK if target.startswith("mock") else TVM


@functools.cache
def load(name: str) -> Platform:
    """The platform called ``name``, one instance per process. Raises KeyError for any other name."""
    # Imported here: who only looks at names, as a worker does, must not import TVM.
    if name == MOCK:
        from tunemesh.stage_workers.platforms.mock_platform import MockPlatform

        return MockPlatform()
    if name == TVM:
        from tunemesh.stage_workers.platforms.tvm_platform import TvmPlatform

        return TvmPlatform()
    raise KeyError(name)
