"""The stage ``learn``: from the records of its worker, until other work comes."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.unit.record_rows import task, trial
from tests.unit.stage_calls import FakeSandbox
from tests.unit.test_memory import Teacher, learned
from tunemesh.coordinator.lessons import STEP
from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.errors import BadInput
from tunemesh.shared.messages import Failure, LearnDone, LearnWork, Settings, Step
from tunemesh.stage_workers.records.memory import Remembering
from tunemesh.stage_workers.sandbox.sandbox import Abandoned
from tunemesh.stage_workers.stages import Context, learning, run_stage
from tunemesh.stage_workers.stages.context import Learning


class Slow(Teacher):
    """Learns until it is given up."""

    def __init__(self) -> None:
        super().__init__()
        self._given_up = threading.Event()

    def call(self, *_: object) -> object:
        assert self._given_up.wait(30.0)
        raise Abandoned

    def abort(self) -> None:
        self._given_up.set()


@pytest.fixture
def records(tmp_path: Path) -> str:
    """A database with trials of some tasks."""
    address = str(tmp_path / "records")
    keys = [f"{number:08x}{'0' * 56}" for number in range(learning.HELD_OUT)]
    database = Remembering(address)
    database.add([task(key=key) for key in keys])
    database.add([trial(number, 1e-3, key=key) for key in keys for number in range(2)])
    return address


def run(tmp_path: Path, told: Learning | None, after: int = 1) -> object:
    step = Step(
        id=STEP,
        job="learn",
        engines=["mock"],
        target="-",
        seed=0,
        settings=Settings(),
        work=LearnWork(engine="mock", after=after),
    )
    store = ArtifactStore((tmp_path / "store").as_uri())
    return run_stage(step, Context(FakeSandbox(), store, learning=told))


def taught(records: str, teacher: Teacher, *, wanted: bool = False) -> Learning:
    return Learning(records, lambda _: teacher, lambda: wanted)  # type: ignore[arg-type,return-value]


def test_what_is_learned_is_kept_and_told(tmp_path: Path, records: str) -> None:
    done = run(tmp_path, taught(records, Teacher(learned(b"first", None, 0.4))))
    assert done == LearnDone(
        said=[
            "mock, mock: learned from 10 trials of 2 tasks;"
            " on 3 others: now rank correlation 0.40, top 1 0.80, top 8 0.90;"
            " updates use it from now on"
        ],
        learned=1,
    )
    found = Remembering(records).prior("mock", "mock")
    assert found is not None
    assert found.data == b"first"


def test_it_gives_way_to_other_work_at_once(
    tmp_path: Path, records: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learning, "LOOK_EVERY", 0.01)
    assert run(tmp_path, taught(records, Slow(), wanted=True)) == LearnDone(gave_way=True)
    assert Remembering(records).prior("mock", "mock") is None


@pytest.mark.parametrize(
    ("teacher", "after", "said"),
    [
        (Teacher(), 11, "mock, mock: nothing learned: 10 new trials since the last time"),
        (Teacher(BadInput("too few")), 1, "mock, mock: nothing learned: too few"),
    ],
)
def test_where_nothing_is_learned_it_says_why(
    tmp_path: Path, records: str, teacher: Teacher, after: int, said: str
) -> None:
    assert run(tmp_path, taught(records, teacher), after) == LearnDone(said=[said])


def test_without_records_there_is_nothing_to_learn(tmp_path: Path) -> None:
    nothing = "nothing learned: this worker has no records"
    assert run(tmp_path, None) == LearnDone(said=[nothing])
    of_nobody = "there are no records of the engine mock to learn from"
    assert run(tmp_path, taught(str(tmp_path / "new"), Teacher())) == LearnDone(said=[of_nobody])


def test_a_database_that_is_away_fails_the_lesson_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert isinstance(run(tmp_path, taught(str(tmp_path / "folder"), Teacher())), Failure)
