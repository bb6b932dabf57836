"""Hostile models of each kind, and those that once got through: each is refused in one line.

All of them: ``python -m benchmarks.hostile``."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from benchmarks import hostile, hostile_models
from tunemesh.stage_workers.sandbox.sandbox import Sandbox

ONCE = {
    # TVM's size in bytes overflowed, and it wrote behind its memory.
    "ConstantOfShape 5e+18",
    # A name that is not UTF-8 made the refusal itself fail.
    "spoilt 0",
    "an input of 5e+18",
}
OF_EACH_KIND = {
    "Tile 1e+12", "[-1] of type 1", "branches 20 deep", "JSON 100000 deep",
    "which does not say that it is external", "Identity 9e+18 times", "com.microsoft.PyOp", "cut 3",
    "calls tirx.call_extern", "points to 1000000000", "a pickle", "an archive that grows",
    "inputs that are objects", "a vector of 2^31",
}  # fmt: skip


@pytest.fixture(scope="module")
def watch() -> Iterator[hostile.Watch]:
    with hostile.watched() as found:
        yield found


@pytest.fixture(scope="module")
def made(watch: hostile.Watch) -> dict[str, hostile_models.Hostile]:
    """All hostile models, by name."""
    return {each.name: each for each in hostile_models.models(watch.goals)}


@pytest.fixture(scope="module")
def worker() -> Iterator[tuple[Sandbox, str]]:
    with hostile.worker() as found:
        yield found


def test_there_are_two_hundred_of_ten_kinds_and_the_same_for_the_same_seed(
    made: dict[str, hostile_models.Hostile], watch: hostile.Watch
) -> None:
    assert len(made) >= 200
    assert {each.kind for each in made.values()} == {*hostile_models.KINDS}
    assert list(made.values()) == hostile_models.models(watch.goals)


@pytest.mark.parametrize("name", sorted(ONCE | OF_EACH_KIND))
def test_a_hostile_model_reaches_nothing_and_is_refused_in_one_line(
    name: str,
    made: dict[str, hostile_models.Hostile],
    watch: hostile.Watch,
    worker: tuple[Sandbox, str],
) -> None:
    seen = hostile.read(made[name], *worker, watch)
    assert seen.end == "refused", seen.text
    assert seen.clear
    assert seen.reached == []
    assert seen.alive


def test_what_a_model_reaches_is_seen(watch: hostile.Watch) -> None:
    """Or there would be nothing to see in the other tests."""
    assert watch.reached() == []
    watch.sign.touch()
    watch.secret.read_bytes()
    with socket.create_connection(watch.listener.getsockname()):
        assert watch.reached() == ["command", "file", "network"]
    assert watch.reached() == []
