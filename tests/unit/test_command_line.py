"""The command line as a whole, in this process."""

from __future__ import annotations

import errno
import os
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


@pytest.mark.parametrize(
    ("number", "code"),
    [
        *((number, 2) for number in (errno.ENOENT, errno.EACCES, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)),
        *((number, 75) for number in (errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EIO, errno.ENOMEM)),
    ],
    ids=str,
)
def test_only_a_wrong_path_is_final(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int, code: int
) -> None:
    def refuse(**_: object) -> object:
        raise OSError(number, os.strerror(number), "/a/file")

    monkeypatch.setattr(cli, "app", refuse)
    monkeypatch.setattr(cli.logs, "setup", lambda *_, **__: None)  # this is not the process of a command
    assert cli.run() == code
    assert f"cannot use /a/file: {os.strerror(number)}" in capsys.readouterr().err
