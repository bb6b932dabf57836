"""What ``benchmarks.chaos`` does to a database is what it says, and is over afterwards."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from benchmarks.chaos_records import SQLite
from tests.unit.record_rows import around, trial
from tunemesh.stage_workers.records.database import Database, RecordsUnavailable


@pytest.mark.parametrize(
    ("name", "said"),
    [("away", "unable to open"), ("locked", "locked"), ("full", "disk I/O error|full")],
)
def test_a_database_in_trouble_cannot_be_written_and_has_all_of_it_later(
    tmp_path: Path, name: str, said: str
) -> None:
    place = SQLite(tmp_path, lambda: [os.getpid()])
    large = [replace(trial(number), schedule=bytes(4096)) for number in range(200)]
    with Database(place.address, wait=0.05) as database:
        assert database.add([*around(), trial(1000)]) == 4
        with place.troubles[name](0.0), pytest.raises(RecordsUnavailable, match=said):
            database.add(large)
        assert database.add(large) == 200
        assert database.add(large) == 0
