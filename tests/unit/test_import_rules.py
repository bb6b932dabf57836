"""The import rules of pyproject.toml fail for what they are made for; `make lint` checks that they hold."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("benchmarks", "broker_config", "coordinator", "shared", "stage_workers", "tunemesh")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the code that a test may spoil."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for name in FOLDERS:
        shutil.copytree(
            ROOT / name, tmp_path / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    return tmp_path


def lint(checkout: Path) -> tuple[int, str]:
    """Exit status and output of import-linter."""
    run = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    ended = subprocess.run(
        [sys.executable, "-c", run, "--no-cache"], cwd=checkout, capture_output=True, text=True, timeout=60
    )
    return ended.returncode, ended.stdout + ended.stderr


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("stage_workers/loop.py", "import tvm"),
        ("stage_workers/engines/mock.py", "import tvm"),
        ("stage_workers/worker.py", "import pika"),
        ("stage_workers/stages/recording.py", "import sqlalchemy"),
        ("coordinator/core.py", "import time"),
        ("coordinator/jobs/allocation.py", "import random"),
        ("coordinator/service/service.py", "import numpy"),
        ("coordinator/scheduling/durations.py", "import tunemesh.coordinator.jobs.job"),
        ("coordinator/service/service.py", "import tunemesh.stage_workers.loop"),
        ("shared/text.py", "import tunemesh.broker_config.topology"),
        ("tunemesh/report.py", "import benchmarks.table"),
    ],
)
def test_an_import_where_it_does_not_belong_breaks_a_rule(checkout: Path, file: str, line: str) -> None:
    with (checkout / file).open("a") as source:
        source.write(f"\n{line}\n")
    status, output = lint(checkout)
    assert status == 1
    module = "tunemesh." * (not file.startswith("tunemesh/")) + file.removesuffix(".py").replace("/", ".")
    assert f"{module} -> {line.split()[1]}" in " ".join(output.split())


@pytest.mark.parametrize("file", ["coordinator/new.py", "stage_workers/new/__init__.py", "tunemesh/new.py"])
def test_a_module_without_a_place_breaks_a_rule(checkout: Path, file: str) -> None:
    (checkout / file).parent.mkdir(exist_ok=True)
    (checkout / file).write_text("")
    status, output = lint(checkout)
    assert status == 1
    assert "not listed as layers" in output
