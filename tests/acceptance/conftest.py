"""Fixtures of the acceptance tests: the command line as a person runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from examples import make_models
from tests.acceptance import direct
from tunemesh.broker_config.node import server_binary
from tunemesh.shared.errors import TunemeshError
from tunemesh.shared.messages import Trial
from tunemesh.stage_workers.platforms.protocol import ExtractedTask, Imported

Run = Callable[..., subprocess.CompletedProcess[str]]

MOCK = """
tasks:
  - {name: conv, weight: 2}
  - {name: dense, weight: 1}
durations: {model-update: 0.05, build: 0.01, profile: 0.01}
"""


@pytest.fixture(scope="session", autouse=True)
def _broker_is_installed() -> None:
    try:
        server_binary()
    except TunemeshError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))


def complaint(errors: str) -> str:
    """The one line that a refusal consists of, among all that was written to standard error."""
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, errors
    assert "Traceback" not in errors
    return lines[0]


def command_line(home: Path) -> Run:
    """Run ``tunemesh`` in this home; returns what it printed and its exit code."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("TUNEMESH_", "XDG_"))
    }
    # What comes with Tunemesh would change what is counted; a page for people takes a second that few need.
    environment |= {
        "HOME": str(home),
        "COLUMNS": "200",
        "TUNEMESH_SHIPPED_RECORDS": "none",
        "TUNEMESH_HTML": "0",
    }

    def run(*arguments: object, timeout: float = 120.0) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tunemesh", *map(str, arguments)]
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=environment,
            stdin=subprocess.DEVNULL,
            check=False,
        )

    return run


@pytest.fixture
def tunemesh(tmp_path: Path) -> Run:
    """Run ``tunemesh`` with a home of its own."""
    return command_line(tmp_path / "home")


@pytest.fixture
def mock_model(tmp_path: Path) -> Path:
    """A model for the mock engine."""
    path = tmp_path / "model.yaml"
    path.write_text(MOCK)
    return path


@pytest.fixture(scope="session")
def target() -> str:
    """This machine's CPU."""
    direct.PLATFORM.preload()
    return direct.resolve_target("native")


@pytest.fixture(scope="session")
def cnn() -> bytes:
    return make_models.tiny_cnn().SerializeToString()


@pytest.fixture(scope="session")
def imported(cnn: bytes, target: str) -> Imported:
    return direct.import_model(cnn, target)


@pytest.fixture(scope="session")
def convolution(imported: Imported) -> ExtractedTask:
    return imported.tasks[1]


@pytest.fixture(scope="session")
def product(target: str) -> ExtractedTask:
    """A matrix product: the quickest workload whose search space is large."""
    return direct.import_model(direct.matrix_product(), target).tasks[0]


@pytest.fixture(scope="session")
def first_round(convolution: ExtractedTask, target: str) -> tuple[bytes, list[Trial]]:
    """Search state and trials of one measured round of the convolution."""
    proposal = direct.update(convolution.workload, target, None, [], 6)
    return proposal.search, direct.measure(convolution, target, proposal.schedules)
