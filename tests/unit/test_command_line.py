"""The command line as a whole, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from tunemesh import cli
from tunemesh.shared.errors import BadInput


def test_benchmarks_are_found_in_a_checkout_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cli.tunemesh, "__file__", str(tmp_path / "tunemesh" / "__init__.py"))
    with pytest.raises(BadInput, match="benchmarks are not part of an installation: run tunemesh bench in a"):
        CliRunner().invoke(cli.app, ["bench", "x.yaml"], catch_exceptions=False)


def test_the_arguments_of_bench_are_those_of_the_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Sequence[str]] = []

    def run(arguments: Sequence[str]) -> int:
        told.append(arguments)
        return 7

    monkeypatch.setattr(cli.importlib, "import_module", lambda name: SimpleNamespace(run=run, name=name))
    arguments = ["x.yaml", "--only", "a", "--retry", "--out", "o", "--help"]
    assert CliRunner().invoke(cli.app, ["bench", *arguments]).exit_code == 7
    assert told == [arguments]
