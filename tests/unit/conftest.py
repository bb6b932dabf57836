"""Fixtures of the tests of stages."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.stage_calls import FakeSandbox
from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.stage_workers.stages import Context


@pytest.fixture
def sandbox() -> FakeSandbox:
    return FakeSandbox()


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path))


@pytest.fixture
def context(sandbox: FakeSandbox, store: ArtifactStore) -> Context:
    return Context(sandbox, store, "cpu")
