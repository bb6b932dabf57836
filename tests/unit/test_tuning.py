"""What ``tunemesh tune`` does beside the mesh."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from tunemesh import tuning
from tunemesh.client import Client
from tunemesh.report import write_file
from tunemesh.shared.errors import LinkDown, TunemeshError


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
        left = tuning._stop(cast(Client, client), left)
    assert left == set()
    assert client.told == ["a", "b"]


def test_a_result_whose_folder_is_a_file_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "job").touch()
    with pytest.raises(TunemeshError, match="cannot write"):
        write_file(tmp_path / "job" / "model.so", b"")
