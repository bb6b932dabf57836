"""The command line as a whole, in this process."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import benchmarks.command
import tunemesh
from tests.unit.past import progress
from tunemesh import __main__, cli, completion, usage
from tunemesh.shared.errors import BadInput
from tunemesh.shared.messages import Snapshot


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


def test_an_interruption_while_it_is_imported_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(cli, "main", interrupted)  # as an import would
    with pytest.raises(SystemExit) as ended:
        __main__.main()
    assert (ended.value.code, capsys.readouterr().err) == (cli.INTERRUPTED, "error: interrupted\n")


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


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """All commands with their names."""
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))
    yield path, group


ALL = list(commands(typer.main.get_command(cli.app)))


def test_every_command_has_its_place_in_the_order_of_use() -> None:
    assert {path[0] for path, _ in ALL if path} == set(cli.ORDER)


@pytest.mark.parametrize(
    ("path", "command"), ALL, ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_every_help_text_tells_what_holds_where_nothing_is_said(path: tuple[str, ...], command: Any) -> None:
    silent = [
        option.opts[-1]
        for option in command.params
        if option.param_type_name == "option" and not option.required
        and (not option.is_flag or option.secondary_opts)
        and not (option.show_default and (option.default is not None or isinstance(option.show_default, str)))
        and "default" not in (option.help or "")
    ]  # fmt: skip
    assert silent == []


ALWAYS_JSON = {("broker", "definitions"), ("broker", "schema"), ("records", "show")}
"""What they print is JSON whatever one says."""


def test_every_command_speaks_to_programs_too() -> None:
    silent = {
        path
        for path, command in ALL
        if not getattr(command, "commands", {})
        and path != ("bench",)  # its options are those of the benchmarks
        and not any("--json" in option.opts for option in command.params)
    }
    assert silent == ALWAYS_JSON
    (own,) = [
        command for path, command in commands(typer.main.get_command(benchmarks.command.app)) if not path
    ]
    assert any("--json" in option.opts for option in own.params)


def test_the_version_and_help_are_said() -> None:
    assert CliRunner().invoke(cli.app, ["--version"]).output == f"tunemesh {tunemesh.__version__}\n"
    for path in ([], ["jobs"], ["records", "list"], ["tune"]):
        said = CliRunner().invoke(cli.app, [*path, "-h"])
        assert said.exit_code == 0
        assert "Usage: " in said.output


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("tunemesh sta", {"status"}),
        ("tunemesh tune --math ex", {"exact"}),
        ("tunemesh tune --mat", {"--math"}),
    ],
)
def test_a_shell_can_complete(words: str, found: set[str]) -> None:
    variables = {
        "_TUNEMESH_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }
    ended = CliRunner().invoke(cli.app, [], env=variables, prog_name="tunemesh")
    assert set(ended.output.split()) == found


def test_a_shell_completes_the_ids_of_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mesh:
        def __init__(self, *_: object, **__: object) -> None: ...

        def __enter__(self) -> Mesh:
            return self

        def __exit__(self, *_: object) -> None: ...

        def snapshot(self, timeout: float) -> Snapshot:
            jobs = [progress("net-1", "tuning"), progress("net-2", "done"), progress("other", "done")]
            return Snapshot(strategy="s", jobs=jobs, resources=[])

    monkeypatch.setenv("TUNEMESH_BROKER_URL", "amqp://x")
    monkeypatch.setattr(completion, "Client", Mesh)
    for command in ("status", "watch", "cancel", "fetch", "report", "export", "story", "jobs show"):
        words = f"tunemesh {command} ne"
        variables = {
            "_TUNEMESH_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" ")),
        }  # fmt: skip
        ended = CliRunner().invoke(cli.app, [], env=variables, prog_name="tunemesh")
        assert set(ended.output.split()) == {"net-1", "net-2"}, command


def test_completion_is_silent_where_no_mesh_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completion, "LIMIT", 0.2)
    monkeypatch.setenv("TUNEMESH_BROKER_URL", "amqp://127.0.0.1:1/x")
    assert completion.jobs("") == []
    monkeypatch.setenv("TUNEMESH_BROKER_URL", "nonsense")
    assert completion.jobs("") == []


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            "Invalid value for '--limit': Input should be greater than or equal to 1",
            "--limit must be at least 1",
        ),
        (
            "Invalid value for '--limit' / '-l': Input should be a valid integer, unable",
            "-l must be a whole number",
        ),
        ("Invalid value for '--size': Input should be a valid number", "--size must be a number"),
        (
            "Invalid value for '--visibility': Value error, 'al' is not one of 'tenant', 'all'.",
            "--visibility must be tenant or all, not 'al'; did you mean all?",
        ),
        ("Missing argument 'models'.", "models is missing: --help says what it is"),
        (
            "Got unexpected extra argument(s) (extra)",
            "extra is more than the command takes: --help says what it does",
        ),
        ("Invalid value for 'models': something else", "Invalid value for 'models': something else"),
    ],
)
def test_complaints_are_in_the_words_of_a_person(said: str, words: str) -> None:
    assert usage.in_words(said) == words
