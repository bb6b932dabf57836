"""The commands of the long-running parts, without a broker."""

from __future__ import annotations

import os
import signal
from typing import NoReturn

import pytest
from typer.testing import CliRunner

from tunemesh import broker_commands, cli, options, service_commands
from tunemesh.coordinator.jobs.limits import Limits
from tunemesh.coordinator.service import service
from tunemesh.layout import plan
from tunemesh.mesh import LocalMesh
from tunemesh.shared.errors import BadInput, BrokerUnavailable
from tunemesh.stopping import terminated


@pytest.fixture(autouse=True)
def in_no_process_of_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """How this process logs, and who may look at it, is left as it is."""
    monkeypatch.setattr(service_commands.logs, "setup", lambda *_, **__: None)
    monkeypatch.setattr(service_commands, "keep_private", lambda: None)


def refused(*arguments: str) -> str:
    """What ``tunemesh worker`` refuses its arguments with."""
    common = ["--broker", "amqp://x:y@127.0.0.1:9/z", "--artifacts", "/tmp", "--engine", "mock"]
    with pytest.raises(BadInput) as refusal:
        CliRunner().invoke(cli.app, ["worker", *arguments, *common], catch_exceptions=False)
    return str(refusal.value)


@pytest.mark.parametrize("memory", ["1e300", "65537", "inf", "nan", "0", "-1", "0.05"])
def test_memory_is_bounded(memory: str) -> None:
    assert "--memory must be 0.1 to 65536 GiB, not" in refused("build-cpu", "--memory", memory)


@pytest.mark.parametrize("queues", [["build-cpu"], ["build-cpu", "model-update"]])
def test_a_device_for_queues_without_one_is_refused(queues: list[str]) -> None:
    assert "devices have queues profile-<device>" in refused(*queues, "--device", "cpu:0")


@pytest.mark.parametrize("command", [["up"], ["worker", "build-cpu"], ["coordinator"], ["broker", "start"]])
def test_a_service_that_is_asked_to_stop_while_it_starts_has_done_well(
    monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    def asked(*_: object, **__: object) -> NoReturn:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("SIGTERM has not come")

    monkeypatch.setattr(broker_commands.mesh_address, "data_folder", asked)
    monkeypatch.setattr(service_commands.logs, "setup", lambda *words, **options: words and asked())
    before = signal.signal(signal.SIGTERM, terminated)
    try:
        assert CliRunner().invoke(cli.app, command, catch_exceptions=False).exit_code == 0
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_coordinator_is_told_prices_and_what_is_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []

    class Told:
        def __init__(self, *arguments: object) -> None:
            told.extend(arguments[1:])

        def run(self) -> int:
            return 0

    monkeypatch.setattr(service, "Service", Told)
    given = ["--broker", "amqp://x:y@127.0.0.1:9/z", "--price", "profile=2.5", "--reserve", "0.25"]
    given += ["--learn-after", "70", "--limit", "jobs=4", "--limit", "acme:queries=none"]
    assert CliRunner().invoke(cli.app, ["coordinator", *given], catch_exceptions=False).exit_code == 0
    limits = {"*": Limits(jobs=4), "acme": Limits(jobs=4, queries=None)}
    assert told == ["interleaved", None, {"profile": 2.5}, 0.25, 70, limits, None, None, ""]


@pytest.mark.parametrize(
    ("limit", "line"),
    [
        ("jobs", "jobs is a whole number from 1, or none"),
        ("jobs=0", "jobs is a whole number from 1, or none"),
        ("acme:trials=1.5", "trials is a whole number from 1, or none"),
        ("model-mb=0", "model-mb is a number above 0, or none"),
        ("queries=nan", "queries is a number above 0, or none"),
        ("requests=inf", "requests is a number above 0, or none"),
        ("requests=1e10", "requests is a number above 0, or none"),
        ("users=3", "should look like jobs=4 or acme:jobs=4"),
        ("a b:jobs=3", "should look like jobs=4 or acme:jobs=4"),
        (":jobs=3", "should look like jobs=4 or acme:jobs=4"),
    ],
)
def test_what_is_no_limit_is_one_line(limit: str, line: str) -> None:
    with pytest.raises(BadInput) as refusal:
        options.limits_of([limit])
    assert str(refusal.value).startswith(f"--limit {limit!r}")
    assert line in str(refusal.value)


def test_a_mesh_of_ones_own_passes_them_on(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[list[str]] = []
    mesh = LocalMesh(plan(None), "mock", ["mock"], prices={"profile": 2.5}, reserved=0.25, learn_after=70)
    monkeypatch.setattr(mesh, "_start", lambda _name, _role, arguments, _cpus: begun.append(arguments))
    mesh._start_children()
    assert begun[0][-6:] == ["--price", "profile=2.5", "--reserve", "0.25", "--learn-after", "70"]


def test_a_node_that_ends_is_not_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    class EndedNode:
        management_url = "http://x"
        pid = None

        def __init__(self, _folder: object) -> None: ...
        def __enter__(self) -> EndedNode:
            return self

        def __exit__(self, *_: object) -> None: ...
        def url(self, role: str) -> str:
            return f"amqp://{role}"

        def last_words(self) -> str:
            return "no space left (log: node.log)"

    monkeypatch.setattr(broker_commands, "PrivateNode", EndedNode)
    with pytest.raises(BrokerUnavailable, match="has ended: no space left"):
        CliRunner().invoke(cli.app, ["broker", "start"], catch_exceptions=False)
