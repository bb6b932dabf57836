"""What ``tunemesh tune`` does beside the mesh."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import ClassVar, cast

import pytest
import typer
from typer.testing import CliRunner, Result

from tunemesh import following, tune_commands, tuning
from tunemesh.client import Client
from tunemesh.report import write_file
from tunemesh.shared.errors import LinkDown, TunemeshError
from tunemesh.shared.messages import JobEvent, Request


class FlakyClient:
    """Its broker is away for every call but each third one."""

    def __init__(self) -> None:
        self.calls = 0
        self.told: list[str] = []

    def cancel(self, job: str, keep: bool) -> None:
        assert keep
        self.calls += 1
        if self.calls % 3:
            raise LinkDown("the connection was lost")
        self.told.append(job)


def test_the_wish_to_stop_early_is_repeated_until_the_broker_is_back() -> None:
    client = FlakyClient()
    left = {"a", "b"}
    for _ in range(10):
        left = following.stop(cast(Client, client), left)
    assert left == set()
    assert client.told == ["a", "b"]


def test_a_result_whose_folder_is_a_file_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "job").touch()
    with pytest.raises(TunemeshError, match="cannot write"):
        write_file(tmp_path / "job" / "model.so", b"")


class Answering:
    """A client whose coordinator answers as it was told, job by job in the order of their submission."""

    answers_of: ClassVar[list[str | None]] = []

    def __init__(self, _url: str, jobs: Collection[str] = (), _limit: float = 0.0) -> None:
        self.jobs = list(jobs)
        self.published: list[Request] = []

    def __enter__(self) -> Answering:
        return self

    def __exit__(self, *_: object) -> None: ...

    def submit(self, request: Request) -> None:
        self.published.append(request)

    def answers(self, jobs: Collection[str]) -> dict[str, JobEvent]:
        assert [request.job for request in self.published] == list(jobs)
        return {
            job: JobEvent(job=job, kind="rejected" if text else "accepted", at=0.0, text=text)
            for job, text in zip(jobs, self.answers_of, strict=True)
            if text is not None
        }


def submitted(
    monkeypatch: pytest.MonkeyPatch, folder: Path, answers: list[str | None], *arguments: str
) -> Result:
    """What ``tunemesh submit`` says of models with these answers: ``None`` for none, text for a rejection."""
    monkeypatch.setattr(tuning, "Client", Answering)
    monkeypatch.setattr(Answering, "answers_of", answers)
    models = [folder / f"m{number}.yaml" for number in range(len(answers))]
    for model in models:
        model.write_text("tasks: []")
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(tune_commands.submit)
    common = ["--engine", "mock", "--target", "mock", "--broker", "amqp://x", "--artifacts", str(folder)]
    return CliRunner().invoke(app, [*map(str, models), *common, *arguments])


def test_submit_tells_what_the_coordinator_answered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ended = submitted(monkeypatch, tmp_path, ["", "job id is \x1b[31mtaken", None])
    assert ended.exit_code == 1
    assert [line.split("-")[0] for line in ended.stdout.splitlines()] == ["m0", "m2"]
    refusal, waits = ended.stderr.splitlines()
    assert refusal.startswith("error: job m1-")
    assert refusal.endswith(" was rejected: job id is ?[31mtaken")
    assert "no coordinator has answered yet" in waits


def test_submit_succeeds_where_nothing_is_rejected(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert submitted(monkeypatch, tmp_path, ["", None]).exit_code == 0


def test_scripts_get_the_answers_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ended = submitted(monkeypatch, tmp_path, ["", "no", None], "--json")
    assert ended.exit_code == 1
    found = [(each["answer"], each["text"]) for each in json.loads(ended.stdout)]
    assert found == [("accepted", ""), ("rejected", "no"), ("queued", "")]
