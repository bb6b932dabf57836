"""The journal: what is written down can be read, replayed and told."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.unit.world import World, request
from tunemesh.coordinator.events import Tick
from tunemesh.coordinator.journal.records import Entry, Journal, Start, read
from tunemesh.coordinator.journal.replay import replay
from tunemesh.coordinator.journal.story import tell
from tunemesh.shared.errors import BadInput


@pytest.fixture
def world() -> World:
    """One that has tuned two jobs, with a coordinator that was killed in between."""
    world = World(tasks=2, rng=random.Random(3))
    world.publish(request("one", trials=20, batch=8, chunk=4))
    world.publish(request("two", trials=20, batch=8, chunk=4))
    for _ in range(120):
        world.turn()
    world.start_coordinator()
    world.run("one", "two")
    return world


def write(world: World, path: Path) -> None:
    journal = Journal(path, world.strategy)
    for record in world.records[1:]:
        if isinstance(record, Start):
            journal.close()
            journal = Journal(path, record.strategy)
        else:
            journal.record(record.now, record.event, record.instructions)
    journal.close()


def test_what_is_written_is_read_and_replayed_to_the_same_instructions(world: World, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    write(world, path)
    assert list(read(path)) == world.records
    assert list(replay(read(path))) == []


def test_a_replay_that_goes_another_way_says_where(world: World) -> None:
    records = list(world.records)
    number = max(n for n, each in enumerate(records) if isinstance(each, Entry) and each.instructions)
    entry = records[number]
    assert isinstance(entry, Entry)
    records[number] = Entry(entry.now, entry.event, [])
    (difference,) = replay(records)
    assert (difference.number, difference.replayed) == (number, entry.instructions)
    with pytest.raises(BadInput, match="begins in the middle"):
        list(replay(world.records[5:]))


def test_a_record_cut_short_by_the_end_of_the_process_is_skipped(world: World, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    write(world, path)
    path.write_bytes(path.read_bytes()[:-3])
    assert list(read(path)) == world.records[:-1]


def test_a_journal_has_an_end(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path, "interleaved", largest=2000)
    for number in range(300):
        journal.record(float(number), Tick(), [])
    journal.close()
    assert path.stat().st_size < 2100
    assert path.with_name("journal.1").stat().st_size < 2100


def test_what_is_no_journal_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(b"\x05\x00\x00\x00hello")
    with pytest.raises(BadInput, match="is no journal of this version"):
        list(read(path))
    with pytest.raises(BadInput, match="cannot read the journal"):
        list(read(tmp_path / "missing"))
    with pytest.raises(BadInput, match="cannot write the journal"):
        Journal(tmp_path / "missing" / "journal", "interleaved")


def test_the_story_of_a_job_has_its_beginning_its_steps_and_its_end_and_no_other_job(world: World) -> None:
    story = [line.partition(" ")[2] for line in tell(world.records, "one")]
    assert story[0] == "requested: one, 20 trials for mock, by mock"
    assert "revision 0: importing" in story
    assert "one/-/-/-/import sent to build-cpu" in story
    assert "the coordinator starts afresh" in story
    assert any(line.startswith("one/t01/0/-/model-update by model-update@host:") for line in story)
    assert any(line.startswith("revision ") and "t00 (task 0) is closed, best" in line for line in story)
    assert story[-1] == "[info] done: 2000.000 ms -> 1000.000 ms (2.0x)"
    assert not any("two" in line.replace("two jobs", "") for line in story)
