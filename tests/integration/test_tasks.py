"""``tunemesh tasks`` with models of the mock engine, in a real sandbox."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tunemesh.cli import app

pytestmark = pytest.mark.waiting

SHARED = "{name: shared, weight: 2}"
MODELS = {
    "one.yaml": f"tasks: [{SHARED}, {{name: own, weight: 1}}]",
    "two.yaml": f"tasks: [{SHARED}]",
    "bad.yaml": "tasks: 7",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in MODELS.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def run(*arguments: object) -> Any:
    return CliRunner().invoke(
        app, ["tasks", *map(str, arguments), "--target", "mock"], catch_exceptions=False
    )


def test_a_task_of_two_models_is_listed_once_with_both(folder: Path) -> None:
    ended = run(folder / "one.yaml", folder / "two.yaml", "--json")
    assert ended.exit_code == 0
    found = json.loads(ended.stdout)
    assert [(each["model"], each["tasks"]) for each in found["models"]] == [("one.yaml", 2), ("two.yaml", 1)]
    assert [(each["name"], each["weight"], each["models"]) for each in found["tasks"]] == [
        ("shared", 4, {"one.yaml": 2, "two.yaml": 2}),
        ("own", 1, {"one.yaml": 1}),
    ]


def test_a_model_that_cannot_be_read_does_not_hide_the_others(folder: Path) -> None:
    ended = run(folder / "bad.yaml", folder / "two.yaml")
    assert ended.exit_code == 1
    assert "shared" in ended.stdout
    assert ended.stderr.startswith("error: bad.yaml: ")
