"""Commands about one job, without a broker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from tunemesh import job_commands, past_jobs
from tunemesh.shared.errors import BadInput, JobFailed, TunemeshError
from tunemesh.shared.messages import Snapshot


def export(job: str, broker: str = "", artifacts: str = "") -> None:
    job_commands.export(job, "cpp", None, broker, artifacts)


COMMANDS = [job_commands.status, job_commands.watch, job_commands.cancel, job_commands.fetch, export]


def client_that_knows(snapshot: Snapshot) -> type:
    class FakeClient:
        def __init__(self, *_: Any) -> None: ...

        def __enter__(self) -> FakeClient:
            return self

        def __exit__(self, *_: object) -> None: ...

        def snapshot(self, job: str | None = None) -> Snapshot:
            return snapshot

        def nobody_answers(self) -> str:
            return "no worker answers"

    return FakeClient


def refusal(command: Callable[..., None], job: str) -> TunemeshError:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(command)
    ended = CliRunner().invoke(app, [job, "--broker", "amqp://x", "--artifacts", "/tmp"])
    assert isinstance(ended.exception, TunemeshError), ended.exception
    return ended.exception


@pytest.mark.parametrize("command", COMMANDS)
def test_a_rejected_job_can_be_asked_for(
    command: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = Snapshot(strategy="s", jobs=[], resources=[], rejected="it names an engine twice")
    monkeypatch.setattr(past_jobs, "Client", client_that_knows(snapshot))
    monkeypatch.setattr(job_commands, "Client", client_that_knows(snapshot))
    error = refusal(command, "job-1")
    assert str(error) == "job job-1 was rejected: it names an engine twice"
    assert error.exit_code == JobFailed.exit_code == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_a_job_that_nobody_knows_is_bad_input(
    command: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = Snapshot(strategy="s", jobs=[], resources=[])
    monkeypatch.setattr(past_jobs, "Client", client_that_knows(snapshot))
    monkeypatch.setattr(job_commands, "Client", client_that_knows(snapshot))
    error = refusal(command, "job-1")
    asks_the_history = command in (job_commands.fetch, export)
    besides = "; no worker answers" if asks_the_history else ""
    assert str(error) == f"the coordinator knows no job 'job-1'{besides}"
    assert isinstance(error, BadInput)
