"""The commands of the long-running parts, without a broker."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from tunemesh import cli
from tunemesh.shared.errors import BadInput


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
