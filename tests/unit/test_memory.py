"""What searches begin with: what was tried of a task before, and priors."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.unit.record_rows import ELSEWHERE, HERE, ORIGIN, around, task, trial
from tunemesh import record_learning
from tunemesh.shared.errors import BadInput, TunemeshError
from tunemesh.shared.messages import Origin
from tunemesh.stage_workers.engines.protocol import LearnCall, Learned, Quality
from tunemesh.stage_workers.records import gathering, memory, rows
from tunemesh.stage_workers.records.memory import Remembering
from tunemesh.stage_workers.records.questions import Filter, Memory, Prior, family_of
from tunemesh.stage_workers.records.recorder import Recorder
from tunemesh.stage_workers.sandbox.sandbox import CallFailure
from tunemesh.stage_workers.stages import learning

TASK = "a" * 64
OTHER = Origin(job="other", accepted=500.0, model="bert.onnx")
PRIVATE = Origin(job="private", accepted=600.0, tenant="gold")
WORKLOAD = rows.Workload(id="w" * 32, task=TASK, data=b"workload")


@pytest.fixture
def database(tmp_path: Path) -> Remembering:
    found = Remembering(str(tmp_path / "records"))
    found.add(
        [*around(ORIGIN, HERE, ELSEWHERE), gathering.of_job(OTHER), gathering.of_job(PRIVATE), WORKLOAD]
    )
    return found


def asked(database: Remembering, conditions: str = HERE.id, tenant: str = "") -> Memory:
    which = Filter(engine="mock", source=database.id(), visible_to=tenant)
    return database.memory(TASK, conditions, which)


def hashes(found: Memory, here: bool) -> list[list[str]]:
    return [[each.trial.hash for each in group.found] for group in (found.here if here else found.elsewhere)]


def test_what_was_tried_under_the_same_conditions_is_told_from_the_rest(database: Remembering) -> None:
    database.add([trial(0, 3e-3), trial(1, 1e-3), trial(2, 2e-3, conditions=ELSEWHERE, origin=OTHER)])
    found = asked(database)
    assert sorted(found.seen) == ["h0", "h1"]
    assert (hashes(found, here=True), hashes(found, here=False)) == ([["h1", "h0"]], [["h2"]])
    assert {(each.workload, each.task) for each in (*found.here, *found.elsewhere)} == {(b"workload", TASK)}


def test_what_failed_was_tried_where_the_rest_of_its_job_was(database: Remembering) -> None:
    database.add([trial(0, 3e-3), trial(1, None), trial(2, None, origin=OTHER)])
    found = asked(database)
    assert sorted(found.seen) == ["h0", "h1"]
    assert hashes(found, here=True) == [["h0"]]


def test_where_devices_differ_nothing_counts_as_tried_here(database: Remembering) -> None:
    database.add([trial(0, 3e-3), trial(1, 2e-3, conditions=ELSEWHERE)])
    found = asked(database, "")
    assert (found.seen, hashes(found, here=True)) == ([], [])
    # Of each conditions by themselves: their latencies cannot be compared.
    assert sorted(hashes(found, here=False)) == [["h0"], ["h1"]]


def test_what_others_have_written_does_not_count_as_tried_here(database: Remembering) -> None:
    database.add([replace(gathering.of_job(replace(OTHER, job="there")), source="b" * 32)])
    database.add([trial(0, 3e-3, origin=replace(OTHER, job="there"))])
    found = asked(database)
    assert (found.seen, hashes(found, here=False)) == ([], [["h0"]])


def test_what_belongs_to_another_tenant_is_not_told(database: Remembering) -> None:
    database.add([trial(0, 3e-3, origin=PRIVATE)])
    assert asked(database, tenant="silver") == Memory()
    assert asked(database, tenant="gold").seen == ["h0"]


def test_of_many_the_fastest_and_the_latest_are_told_and_all_are_known_by_hash(database: Remembering) -> None:
    count = 4 * memory.KEPT
    database.add([trial(number, 1e-3 + 1e-6 * number, at=1e3 + number) for number in range(count)])
    found = asked(database)
    (told,) = hashes(found, here=True)
    assert len(found.seen) == count
    fastest, latest = range(memory.KEPT), range(count - memory.KEPT, count)
    assert set(told) == {f"h{number}" for number in (*fastest, *latest)}
    # What is between is not told as if it had been tried elsewhere.
    database.add(
        [trial(-number, 1e-4 * number, conditions=ELSEWHERE, origin=OTHER) for number in range(1, 41)]
    )
    assert {name for group in hashes(asked(database), here=False) for name in group} <= {
        f"h-{number}" for number in range(1, 41)
    }


def test_a_job_of_another_engine_says_nothing(database: Remembering) -> None:
    database.add([trial(0, 3e-3, engine="toy")])
    assert asked(database) == Memory()


# -- Priors -----------------------------------------------------------------------------------------------


def prior(number: int, at: float, *, used: bool = True, family: str = "mock") -> Prior:
    return Prior(
        id=f"{number}", family=family, engine="mock", data=b"prior %d" % number, used=used, trials=1, tasks=1,
        held_out=1, correlation=0.5, top1=0.9, top8=1.0, at=at,
    )  # fmt: skip


def kept(database: Remembering, *priors: Prior) -> None:
    with database.writing() as connection:
        for each in priors:
            memory.keep(connection, each)


def test_the_newest_prior_that_is_used_counts(database: Remembering) -> None:
    assert database.prior("mock", "mock") is None
    kept(database, prior(0, 1.0), prior(1, 2.0), prior(2, 3.0, used=False), prior(3, 9.0, family="other"))
    assert database.prior("mock", "mock") == prior(1, 2.0)
    assert database.prior("toy", "mock") is None


def test_a_worker_asks_for_it_now_and_then(database: Remembering, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(lambda: database)
    kept(database, prior(0, 1.0))
    assert recorder.prior("mock", "mock") == b"prior 0"
    kept(database, prior(1, 2.0))
    assert recorder.prior("mock", "mock") == b"prior 0"
    later = time.monotonic() + 100.0
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert recorder.prior("mock", "mock") == b"prior 1"


def test_records_that_are_away_know_no_prior() -> None:
    def away() -> Remembering:
        raise TunemeshError("away")

    assert Recorder(away).prior("mock", "mock") is None
    assert Recorder(away).memory(TASK, "mock", HERE.id, "") == Memory()


@pytest.mark.parametrize(
    ("target", "family"),
    [
        ('{"keys": ["cpu"], "kind": "llvm", "mcpu": "znver5", "num-cores": 8}', "llvm znver5"),
        ('{"kind": "cuda", "arch": "sm_90", "tag": ""}', "cuda sm_90"),
        ("mock", "mock"),
        ("[1]", "[1]"),
    ],
)
def test_the_family_of_a_target_is_what_makes_code_fast(target: str, family: str) -> None:
    assert family_of(target) == family


# -- Learning ---------------------------------------------------------------------------------------------


class Teacher:
    """Stands for the sandbox: an engine that learns."""

    def __init__(self, *answers: Learned | CallFailure | BadInput) -> None:
        self.answers = list(answers)
        self.calls: list[LearnCall] = []

    def __enter__(self) -> Teacher:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def call(self, _engine: str, _method: object, record: LearnCall, _limit: float) -> object:
        self.calls.append(record)
        answer = self.answers.pop(0)
        if isinstance(answer, BadInput):
            raise answer
        return answer


def learned(content: bytes, before: float | None, after: float) -> Learned:
    def quality(correlation: float) -> Quality:
        return Quality(tasks=3, correlation=correlation, top1=0.8, top8=0.9)

    known = quality(before) if before is not None else None
    return Learned(prior=content, trials=10, tasks=2, before=known, after=quality(after))


@pytest.fixture
def tasks(database: Remembering) -> Sequence[str]:
    """Tasks of which something was measured, one of them held out."""
    keys = [f"{number:08x}{'0' * 56}" for number in range(learning.HELD_OUT)]
    database.add([task(key=key) for key in keys])
    database.add([trial(number, 1e-3, key=key) for key in keys for number in range(2)])
    return keys


def lessons(
    database: Remembering, teacher: Teacher, monkeypatch: pytest.MonkeyPatch, after: int = 1
) -> list[learning.Lesson]:
    monkeypatch.setattr(record_learning, "sandbox_of", lambda *_: teacher)
    return list(record_learning.learn(database, "mock", after, 1.0))


def test_a_prior_is_learned_kept_and_used(
    database: Remembering, tasks: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = Teacher(learned(b"first", None, 0.4), learned(b"second", 0.4, 0.5))
    (lesson,) = lessons(database, teacher, monkeypatch)
    assert (lesson.used, lesson.why, lesson.family) == (True, "", "mock")
    (call,) = teacher.calls
    assert (len(call.examples), len(call.held_out), call.prior) == (len(tasks) - 1, 1, None)
    found = database.prior("mock", "mock")
    assert found is not None
    assert (found.data, found.trials, found.held_out, found.correlation) == (b"first", 10, 3, 0.4)
    database.add([trial(9, 1e-3, key=tasks[1], at=time.time() + 1)])
    lessons(database, teacher, monkeypatch)
    assert teacher.calls[1].prior == b"first"
    found = database.prior("mock", "mock")
    assert found is not None
    assert found.data == b"second"


@pytest.mark.usefixtures("tasks")
def test_one_that_ranks_worse_is_not_used_and_it_says_so(
    database: Remembering, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept(database, prior(0, 1.0))
    (lesson,) = lessons(database, Teacher(learned(b"worse", 0.5, 0.4)), monkeypatch)
    assert not lesson.used
    assert "ranks worse" in lesson.why
    found = database.prior("mock", "mock")
    assert found is not None
    assert found.data == b"prior 0"
    # It was tried: the same records are not learned from again.
    (again,) = lessons(database, Teacher(), monkeypatch)
    assert again.why == "0 new trials since the last time"


@pytest.mark.usefixtures("tasks")
def test_it_waits_for_so_many_new_trials(database: Remembering, monkeypatch: pytest.MonkeyPatch) -> None:
    (lesson,) = lessons(database, Teacher(), monkeypatch, after=11)
    assert lesson.why == "10 new trials since the last time"


@pytest.mark.usefixtures("tasks")
@pytest.mark.parametrize("answer", [BadInput("too few records"), CallFailure("timed-out", "too few records")])
def test_an_engine_that_cannot_learn_says_why(
    database: Remembering, answer: BadInput | CallFailure, monkeypatch: pytest.MonkeyPatch
) -> None:
    (lesson,) = lessons(database, Teacher(answer), monkeypatch)
    assert "too few records" in lesson.why
    assert database.prior("mock", "mock") is None


def test_what_a_tenant_owns_is_not_learned_from(
    database: Remembering, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.add([trial(0, 1e-3, origin=PRIVATE)])
    teacher = Teacher(BadInput("too few records"))
    lessons(database, teacher, monkeypatch)
    assert [*teacher.calls[0].examples, *teacher.calls[0].held_out] == []


def test_whole_models_can_be_left_out(database: Remembering, tasks: Sequence[str]) -> None:
    database.add([trial(5, 1e-3, key=tasks[1], origin=OTHER)])
    with database.reading() as connection:
        found = memory.to_learn_from(connection, "mock", ["mock"], without=["bert.onnx"])
        assert tasks[1] not in {each.task for each in found}
