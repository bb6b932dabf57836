"""What the records answer, and how they get from one database to another."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.unit.record_rows import ELSEWHERE, HERE, ORIGIN, around, confirmation, task, trial
from tunemesh.shared.errors import BadInput
from tunemesh.shared.messages import Origin
from tunemesh.stage_workers.records import exchange, gathering, queries, rows, schema, shipped, t4
from tunemesh.stage_workers.records.database import Database, row_of
from tunemesh.stage_workers.records.questions import ALL, Filter, Similar

POOL = "b" * 64
OTHER = Origin(job="other", accepted=500.0, tenant="gold", model="bert.onnx")
RESULT = rows.Result(
    id="r", job=gathering.of_job(OTHER).id, target="mock", latency_before=2.0, latency_after=1.0, equal=True,
    wrong="", drift=0.0, conditions=HERE.id, at=500.0,
)  # fmt: skip
EVERYTHING: list[rows.Row] = [
    *around(ORIGIN, HERE, ELSEWHERE),
    gathering.of_job(OTHER),
    task("max_pool2d", POOL, "cuda"),
    rows.Workload(id="w" * 32, task="a" * 64, data=b"\0workload"),
    trial(0, 3e-3),
    trial(1, 1e-3, at=300.0),
    trial(2, None),
    trial(3, 2e-3, conditions=ELSEWHERE, origin=OTHER, at=600.0),
    trial(4, 5e-3, key=POOL, engine="toy", origin=OTHER, at=700.0),
    confirmation(trial(0, 3e-3), 9e-4),
    rows.Baseline(id="x", task="a" * 64, job=gathering.of_job(ORIGIN).id, latency=7e-3, at=100.0),
    RESULT,
]


@pytest.fixture
def database(tmp_path: Path) -> Database:
    found = Database(str(tmp_path / "records"))
    found.add(EVERYTHING)
    return found


def similar(database: Database, task_: rows.Task, limit: int = 8, which: Filter = ALL) -> list[Similar]:
    with database.reading() as connection:
        return queries.similar(connection, task_.key, task_.operator, task_.target, which, limit)


def test_similar_tasks_have_the_same_main_operator_and_a_target_of_the_same_kind(database: Database) -> None:
    target = '{"kind": "llvm", "mcpu": "znver4"}'
    for number, (name, its) in enumerate(
        [
            ("fused_conv2d3_add_relu", target),
            ("conv2d", '{"kind": "llvm", "mcpu": "znver5"}'),
            ("fused_conv2d_add", '{"kind": "cuda"}'),
            ("fused_conv2d_transpose_add", "x"),
            ("matmul", target),
        ]
    ):
        key, data = f"{number}" * 64, rows.Workload(id=f"{number}" * 32, task=f"{number}" * 64, data=b"w")
        measured = replace(trial(10 + number, 1e-3, key=key), workload=data.id)
        database.add([task(name, key, its), data, measured, trial(20, None, key=key)])
    asked = task("fused_conv2d_add2", "f" * 64, target)
    found = similar(database, asked)
    assert [each.task[0] for each in found] == ["0", "1"]
    assert [one.trial.hash for one in found[0].found] == ["h10"]
    assert found[0].workload == b"w"
    assert [each.task[0] for each in similar(database, asked, limit=1)] == ["0"]
    # A task is not similar to itself, and a model that is left out says nothing.
    assert [each.task[0] for each in similar(database, task("conv2d", "0" * 64, target))] == ["1"]
    assert similar(database, asked, which=Filter(without_model="net.onnx")) == []


def test_of_each_task_the_best_are_exported(database: Database, tmp_path: Path) -> None:
    path = tmp_path / "best.jsonl"
    exchange.write(database, ALL, path, best=1)
    other = Database(str(tmp_path / "other"))
    exchange.read(path, other)
    with other.reading() as connection:
        found = {each.trial.hash for each in queries.newest(connection, ALL, 10)}
        assert queries.fastest(connection, "a" * 64)[0].trial.hash == "h1"
    assert found == {"h1", "h4"}


def test_what_comes_with_tunemesh_is_added_once_and_comes_from_elsewhere(tmp_path: Path) -> None:
    database = Database(str(tmp_path / "records"))
    assert shipped.add(database) > 1000
    assert shipped.add(database) == 0
    with database.reading() as connection:
        counts = queries.counts(connection)
        known = queries.newest(connection, ALL, 1)[0]
    assert database.id() not in counts.sources
    assert counts.rows["trials"] > 1000
    assert set(counts.outcomes) == {"measured"}
    # It is not known here: nobody has measured it on this device.
    which = Filter(source=database.id())
    with database.reading() as connection:
        assert queries.known(connection, known.trial.task, which) is None
        assert queries.fastest(connection, known.trial.task)


def content(database: Database) -> dict[str, list[rows.Row]]:
    """All rows, by table."""
    with database.reading() as connection:
        return {
            kind.table: sorted(
                (
                    row_of(kind, each)
                    for each in connection.execute(schema.METADATA.tables[kind.table].select()).mappings()
                ),
                key=str,
            )
            for kind in rows.KINDS
        }


# -- Questions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("which", "hashes"),
    [
        (ALL, ["h4", "h3", "h1", "h0", "h2"]),
        (Filter(task="aaaa"), ["h3", "h1", "h0", "h2"]),
        (Filter(operator="POOL"), ["h4"]),
        (Filter(operator="%"), []),
        (Filter(model="bert"), ["h4", "h3"]),
        (Filter(target="cuda"), ["h4"]),
        (Filter(device="xeon"), ["h3"]),
        (Filter(engine="toy"), ["h4"]),
        (Filter(tenant="gold"), ["h4", "h3"]),
        (Filter(since=300.0), ["h4", "h3", "h1"]),
        (Filter(model="bert", engine="mock"), ["h3"]),
    ],
)
def test_filters(database: Database, which: Filter, hashes: list[str]) -> None:
    with database.reading() as connection:
        found = queries.newest(connection, which, 10)
    # What has the same time is in no order that means anything.
    assert sorted(each.trial.hash for each in found) == sorted(hashes)
    assert [each.trial.at for each in found] == sorted((each.trial.at for each in found), reverse=True)


def test_the_fastest_come_first_by_what_was_confirmed(database: Database) -> None:
    with database.reading() as connection:
        found = queries.fastest(connection, "a" * 64, limit=3)
        here = queries.fastest(connection, "a" * 64, Filter(device="EPYC"), 3)
        assert queries.baseline(connection, "a" * 64) == 7e-3
        assert queries.baseline(connection, POOL) is None
        assert queries.fastest(connection, "c" * 64) == []
    assert [(each.trial.hash, each.latency) for each in found] == [("h0", 9e-4), ("h1", 1e-3), ("h3", 2e-3)]
    assert [each.trial.hash for each in here] == ["h0", "h1"]
    assert (found[2].conditions, found[2].job.model) == (gathering.of_conditions([ELSEWHERE])[0], "bert.onnx")


def test_a_schedule_that_several_jobs_have_tried_is_named_once(database: Database) -> None:
    database.add([trial(1, 5e-4, origin=OTHER)])
    with database.reading() as connection:
        found = queries.fastest(connection, "a" * 64, limit=3)
    assert [(each.trial.hash, each.latency) for each in found] == [("h1", 5e-4), ("h0", 9e-4), ("h3", 2e-3)]


def test_what_is_there_is_counted(database: Database) -> None:
    with database.reading() as connection:
        counts = queries.counts(connection)
    assert counts.rows["trials"] == 5
    assert counts.outcomes == {"measured": 4, "build-failed": 1}
    assert counts.devices == {HERE.device: 3, ELSEWHERE.device: 1}
    assert counts.sources == {database.id(): 2}
    assert (counts.first, counts.last) == (200.0, 700.0)


def test_old_records_are_forgotten_but_for_the_best(database: Database) -> None:
    with database.writing() as connection:
        assert queries.prune(connection, ALL, before=650.0, keep=1) == 1
    # h2 failed. h0 is confirmed, h1 and h3 are the fastest on their devices, h4 is young.
    with database.reading() as connection:
        assert {each.trial.hash for each in queries.newest(connection, ALL, 10)} == {"h0", "h1", "h3", "h4"}
    with database.writing() as connection:
        assert queries.prune(connection, Filter(device="EPYC"), before=1e9, keep=0) == 2
    with database.reading() as connection:
        assert {each.trial.hash for each in queries.newest(connection, ALL, 10)} == {"h0", "h3"}


# -- From one database to another -------------------------------------------------------------------------


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Database]:
    with Database(str(tmp_path / "other")) as found:
        yield found


@pytest.mark.parametrize("name", ["all.jsonl", "all.jsonl.gz"])
def test_what_is_exported_and_imported_is_the_same(
    database: Database, other: Database, tmp_path: Path, name: str
) -> None:
    count = exchange.write(database, ALL, tmp_path / name)
    assert exchange.read(tmp_path / name, other) == (count, count)
    assert content(other) == content(database)
    # A second time adds nothing.
    assert exchange.read(tmp_path / name, other) == (count, 0)


@pytest.mark.parametrize(
    "which", [Filter(model="bert"), Filter(device="Xeon"), Filter(operator="conv"), Filter(task="b")]
)
def test_a_part_is_exported_with_all_that_it_names_and_no_more(
    database: Database, other: Database, tmp_path: Path, which: Filter
) -> None:
    exchange.write(database, which, tmp_path / "part")
    exchange.read(tmp_path / "part", other)
    with database.reading() as connection, other.reading() as there:
        wanted = queries.newest(connection, which, 10)
        assert queries.newest(there, ALL, 10) == wanted
        assert wanted
    there_now = content(other)
    assert {each.key for each in there_now["tasks"]} == {each.task.key for each in wanted}
    assert len(there_now["results"]) == (which == Filter(model="bert"))


numbers = st.sets(st.integers(0, 9), max_size=6)


@settings(max_examples=8, deadline=None)
@given(one=numbers, two=numbers, both=numbers)
def test_two_meshes_exchange_without_losing_or_doubling(
    tmp_path_factory: pytest.TempPathFactory, one: set[int], two: set[int], both: set[int]
) -> None:
    """Each also has what a third one has measured."""
    folder = tmp_path_factory.mktemp("meshes")
    third = [*around(), *(trial(number) for number in both)]
    meshes = []
    for name, own in (("a", one), ("b", two)):
        origin = Origin(job=name, accepted=1.0)
        mesh = Database(str(folder / name))
        mesh.add([*third, *around(origin), *(trial(number, origin=origin) for number in own)])
        meshes.append(mesh)
    for _ in range(2):
        for here, there in (meshes, meshes[::-1]):
            exchange.write(here, ALL, folder / "file")
            exchange.read(folder / "file", there)
    found = [{each.id for each in content(mesh)["trials"]} for mesh in meshes]
    assert found[0] == found[1]
    assert len(found[0]) == len(one) + len(two) + len(both)


def test_a_record_says_where_it_comes_from(database: Database, other: Database, tmp_path: Path) -> None:
    exchange.write(database, ALL, tmp_path / "file")
    exchange.read(tmp_path / "file", other)
    with other.reading() as connection:
        assert {each.job.source for each in queries.newest(connection, ALL, 10)} == {database.id()}


def test_nobody_can_say_that_a_record_is_of_the_importers_own_measuring(
    database: Database, other: Database, tmp_path: Path
) -> None:
    exchange.write(database, ALL, tmp_path / "file")
    text = (tmp_path / "file").read_text().replace(database.id(), other.id())
    (tmp_path / "forged").write_text(text)
    exchange.read(tmp_path / "forged", other)
    with other.reading() as connection:
        assert other.id() not in {each.job.source for each in queries.newest(connection, ALL, 10)}
    (tmp_path / "none").write_text((tmp_path / "file").read_text().replace(database.id(), ""))
    with pytest.raises(BadInput, match="contradicts itself"):
        exchange.read(tmp_path / "none", other)


def test_what_contradicts_itself_is_refused_by_its_line(
    database: Database, other: Database, tmp_path: Path
) -> None:
    exchange.write(database, ALL, tmp_path / "file")
    lines = (tmp_path / "file").read_text().splitlines()
    place = next(number for number, line in enumerate(lines) if '"row":"trial"' in line)
    for change in ({"hash": "forged"}, {"latency": -1.0}, {"outcome": "run-failed"}, {"drift": "x"}):
        spoilt = {**json.loads(lines[place]), **change}
        (tmp_path / "bad").write_text("\n".join([*lines[:place], json.dumps(spoilt), *lines[place + 1 :]]))
        with pytest.raises(BadInput, match=f"bad, line {place + 1}: "):
            exchange.read(tmp_path / "bad", other)
    assert content(other)["trials"] == []


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "holds no records of Tunemesh"),
        (b'{"row":"trial"}\n', "holds no records of Tunemesh"),
        (b'{"row":"tunemesh-records","format":9,"source":"x"}\n', "reads format 1"),
        (gzip.compress(b"x" * 100, mtime=0)[:20], "holds no records|damaged"),
    ],
)
def test_what_is_no_such_file_is_refused(other: Database, tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / ("file.gz" if data.startswith(b"\x1f") else "file")
    path.write_bytes(data)
    assert not exchange.is_ours(path)
    with pytest.raises(BadInput, match=reason):
        exchange.read(path, other)


# -- Kernel Tuner -----------------------------------------------------------------------------------------

KERNEL_TUNER = {
    "schema_version": "1.0.0",
    "results": [
        {
            "timestamp": "2026-11-27T10:00:00+00:00",
            "configuration": {"block_size_x": 64, "tile": 2},
            "times": {"compilation": 812.0, "runtimes": [2.0, 1.0, 3.0]},
            "invalidity": "correct",
            "correctness": 1,
            "measurements": [{"name": "time", "value": 2.0, "unit": "ms"}],
            "objectives": ["time"],
        },
        {
            "configuration": {"tile": 4, "block_size_x": 1024},
            "times": {"runtimes": []},
            "invalidity": "compile",
            "correctness": 1,
        },
    ],
}
"""As Kernel Tuner's ``store_output_file`` writes it."""


def test_what_kernel_tuner_has_measured_can_be_asked_for(other: Database) -> None:
    data = json.dumps(KERNEL_TUNER).encode()
    for _ in range(2):
        other.add(t4.decode(data, "convolution", "nvidia/nvidia-h100", "kernel-tuner"))
    with other.reading() as connection:
        (best,) = [
            each
            for key in queries.tasks(connection, Filter(operator="convolution"))
            for each in queries.fastest(connection, key, limit=5)
        ]
        assert queries.counts(connection).outcomes == {"measured": 1, "build-failed": 1}
    assert best.latency == pytest.approx(2e-3)
    assert json.loads(best.trial.schedule) == {"block_size_x": 64, "tile": 2}
    assert (best.trial.engine, best.job.source) == ("kernel-tuner", "kernel-tuner")
    assert best.trial.at == pytest.approx(1795773600.0)


def test_ours_as_kernel_tuners(database: Database) -> None:
    with database.reading() as connection:
        found = queries.newest(connection, ALL, 10)
    written = json.loads(t4.encode(found))
    assert written["schema_version"] == "1.0.0"
    by_hash = {each["configuration"]["hash"]: each for each in written["results"]}
    assert by_hash["h0"]["times"]["runtimes"] == pytest.approx([0.9] * 3)
    assert by_hash["h2"]["invalidity"] == "compile"
    assert {"configuration", "times", "invalidity", "correctness"} <= set(by_hash["h2"])
    # And back: their reader takes what ours writes.
    assert len(t4.decode(t4.encode(found), "x", "y", "tunemesh")) == 2 + len(found)


@pytest.mark.parametrize("data", [b"[]", b"{}", b'{"schema_version":"2.0.0","results":[]}', b"\xff"])
def test_what_is_not_of_kernel_tuner_is_refused(data: bytes) -> None:
    with pytest.raises(BadInput, match="T4"):
        t4.decode(data, "x", "y", "kernel-tuner")


def test_a_question_is_answered_in_no_time(tmp_path: Path) -> None:
    """Of 20,000 here; benchmarks/records.py asks a million. The right index is what makes it so."""
    database = Database(str(tmp_path / "many"))
    database.add(around())
    database.add([trial(number, 1e-3 + number * 1e-9) for number in range(20_000)])
    with database.reading() as connection:
        queries.fastest(connection, "a" * 64, limit=4)
        began = time.monotonic()
        found = queries.fastest(connection, "a" * 64, limit=4)
        took = time.monotonic() - began
    assert [each.trial.hash for each in found] == ["h0", "h1", "h2", "h3"]
    assert took < 0.05


def test_rows_are_told_apart_on_paper() -> None:
    for row in EVERYTHING:
        encoded = msgspec.json.encode(row)
        assert msgspec.json.decode(encoded, type=rows.AnyRow) == row
        assert json.loads(encoded)["row"] == str(row.__struct_config__.tag)
    assert replace(RESULT, id="s") != RESULT


# -- Whose they are -----------------------------------------------------------------------------------------


@pytest.fixture
def shared(tmp_path: Path) -> Database:
    """Records of a tenant, of another that shows them to all, and of nobody."""
    found = Database(str(tmp_path / "shared"))
    hidden = Origin(job="hidden", accepted=1.0, tenant="gold")
    shown = Origin(job="shown", accepted=2.0, tenant="silver", visibility="all")
    nobodys = Origin(job="nobodys", accepted=3.0)
    found.add(
        [
            *around(),
            *(gathering.of_job(each) for each in (hidden, shown, nobodys)),
            trial(0, 1e-3, origin=hidden),
            trial(1, 2e-3, origin=shown),
            trial(2, 3e-3, origin=nobodys),
            *(
                rows.Baseline(id=each.job, task="a" * 64, job=gathering.of_job(each).id, latency=at, at=at)
                for at, each in ((3.0, hidden), (2.0, shown), (1.0, nobodys))
            ),
            replace(RESULT, job=gathering.of_job(hidden).id),
        ]
    )
    return found


@pytest.mark.parametrize(
    ("tenant", "seen", "untuned"),
    [
        (None, {"hidden", "shown", "nobodys"}, 3.0),
        ("gold", {"hidden", "shown", "nobodys"}, 3.0),
        ("silver", {"shown", "nobodys"}, 2.0),
        ("bronze", {"shown", "nobodys"}, 2.0),
        ("", {"shown", "nobodys"}, 2.0),
    ],
)
def test_what_another_tenant_keeps_for_itself_is_in_no_answer(
    shared: Database, tmp_path: Path, tenant: str | None, seen: set[str], untuned: float
) -> None:
    which = Filter(visible_to=tenant)
    with shared.reading() as connection:
        assert {each.job.job for each in queries.newest(connection, which, 10)} == seen
        assert {each.job.job for each in queries.fastest(connection, "a" * 64, which, 10)} == seen
        assert queries.baseline(connection, "a" * 64, tenant) == untuned
        best = queries.known(connection, "a" * 64, which)
        assert best is not None
        assert best.found.job.job == ("hidden" if "hidden" in seen else "shown")
        hidden = trial(0, origin=Origin(job="hidden", accepted=1.0)).id
        assert len(queries.by_id(connection, hidden, which)) == ("hidden" in seen)
    exchange.write(shared, which, tmp_path / "all.jsonl")
    other = Database(str(tmp_path / "other"))
    exchange.read(tmp_path / "all.jsonl", other)
    exported = content(other)
    jobs = [each for each in exported["jobs"] if isinstance(each, rows.Job)]
    assert {each.job for each in jobs if each.job != "net"} == seen
    assert {each.job: each.visibility for each in jobs}["shown"] == "all"
    assert len(exported["trials"]) == len(exported["baselines"]) == len(seen)
    assert len(exported["results"]) == ("hidden" in seen)


def test_an_export_from_before_there_was_a_visibility_belongs_to_its_tenant(tmp_path: Path) -> None:
    path = tmp_path / "old.jsonl"
    exchange.write(Database(str(tmp_path / "empty")), ALL, path)
    job = gathering.of_job(OTHER)
    line = json.loads(msgspec.json.encode(replace(job, source="elsewhere")))
    del line["visibility"]
    path.write_text(path.read_text() + json.dumps(line) + "\n")
    database = Database(str(tmp_path / "records"))
    assert exchange.read(path, database) == (1, 1)
    (found,) = content(database)["jobs"]
    assert isinstance(found, rows.Job)
    assert (found.tenant, found.visibility) == ("gold", "tenant")
