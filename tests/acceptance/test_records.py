"""Records and other people's programs: what MetaSchedule itself writes comes in, what goes out it can replay.
And the keys of tasks, which outlive releases of TVM."""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
import sys
import time
import zlib
from pathlib import Path
from types import ModuleType

import msgspec
import pytest

from tests.acceptance import direct
from tests.unit.record_rows import HERE, ORIGIN
from tests.unit.stage_calls import FakeSandbox
from tunemesh import record_exchange
from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.errors import BadInput
from tunemesh.shared.messages import (
    Blob,
    Device,
    ImportWork,
    Origin,
    Settings,
    Step,
    TaskSpec,
    Trial,
    UpdateWork,
)
from tunemesh.stage_workers.engines.protocol import ReadCall
from tunemesh.stage_workers.graph import canonical, workloads
from tunemesh.stage_workers.platforms.protocol import ExtractedTask, Imported
from tunemesh.stage_workers.records import gathering, queries, rows
from tunemesh.stage_workers.records.database import Database
from tunemesh.stage_workers.records.memory import Remembering
from tunemesh.stage_workers.records.questions import ALL, Filter
from tunemesh.stage_workers.records.recorder import Recorder
from tunemesh.stage_workers.records.schema import TRIALS
from tunemesh.stage_workers.stages import Context
from tunemesh.stage_workers.stages.known import in_records, to_begin_with

FOUND_BY_0_26 = {
    "conv": "58d1b822a8",
    "softmax": "02cca3e50f",
    "matmul": "ce48f25538",
    "pool": "5a396bfd0f",
}
"""The beginnings of the hashes of canonical texts that TVM 0.26 gave for the functions below."""


def written_by_metaschedule(
    folder: Path, task: ExtractedTask, target: str, trials: list[Trial]
) -> dict[str, bytes]:
    """The files of a database that MetaSchedule itself has filled."""
    import tvm
    from tvm.s_tir import Schedule, meta_schedule
    from tvm.s_tir.schedule import Trace

    from tunemesh.stage_workers.engines.metaschedule import schedules

    module = workloads.load(task.workload)
    database = meta_schedule.database.JSONDatabase(
        str(folder / "database_workload.json"), str(folder / "database_tuning_record.json")
    )
    workload = database.commit_workload(module)
    for trial in trials:
        scheduled = Schedule(module)
        Trace.apply_json_to_schedule(schedules.unpack(trial.candidate.schedule), scheduled)
        seconds = trial.latencies or [1e10]
        record = meta_schedule.database.TuningRecord(
            scheduled.trace,
            workload,
            seconds,
            tvm.target.Target(json.loads(target)),
            meta_schedule.arg_info.ArgInfo.from_prim_func(module["main"]),
        )
        database.commit_tuning_record(record)
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".json"}


def spec_of(task: ExtractedTask) -> TaskSpec:
    """A task as a job has it."""
    blob = Blob(hashlib.sha256(task.workload).hexdigest(), len(task.workload))
    return TaskSpec(
        id="t00",
        name=task.name,
        key=task.key,
        weight=1,
        engine="metaschedule",
        workload=blob,
        untuned=blob,
    )


@pytest.fixture
def recorded(
    tmp_path: Path, convolution: ExtractedTask, target: str, first_round: tuple[bytes, list[Trial]]
) -> Database:
    """What a worker has written of a round."""
    spec = spec_of(convolution)
    database = Database(str(tmp_path / "records.sqlite"))
    named = gathering.of_task(spec, target, convolution.workload)
    trials = gathering.of_trials(spec, first_round[1], ORIGIN, 1, 100.0)
    database.add([*named, gathering.of_job(ORIGIN), *gathering.of_conditions([HERE]), *trials])
    return database


def test_what_metaschedule_has_written_is_read_as_the_same_task_and_schedules(
    tmp_path: Path, convolution: ExtractedTask, target: str, first_round: tuple[bytes, list[Trial]]
) -> None:
    files = written_by_metaschedule(tmp_path, convolution, target, first_round[1])
    read = direct.ENGINE.read(ReadCall(files=files))
    (task,) = read.tasks
    assert (task.key, task.target, read.skipped) == (convolution.key, target, [])
    measured = [trial.latencies for trial in first_round[1] if trial.latencies]
    assert [trial.latencies for trial in task.trials] == measured
    # They can be built for the task.
    built = direct.build(convolution.workload, target, task.trials[0].candidate.schedule)
    assert built.artifact is not None, built.error
    # A line that this TVM cannot read costs that line.
    name = "database_tuning_record.json"
    files[name] = b"[7,[]]\n" + files[name].replace(b'"GetSBlock"', b'"GetSomething"', 1)
    spoilt = direct.ENGINE.read(ReadCall(files=files))
    assert [each.partition(":")[0].partition(" cannot")[0] for each in spoilt.skipped] == [
        "record 0",
        "record 1",
    ]
    assert len(spoilt.tasks[0].trials) == len(task.trials) - 1


def test_what_tune_tir_has_written_is_what_a_job_tries_first(
    tmp_path: Path, convolution: ExtractedTask, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MetaSchedule searches and writes by itself; only its processes for builds and runs stay away."""
    import tvm
    from tvm.s_tir import meta_schedule
    from tvm.s_tir.meta_schedule.testing.dummy_object import DummyBuilder, DummyRunner

    # It parses all of TVM's tensor intrinsics, which takes seconds, and needs none.
    monkeypatch.setitem(sys.modules, "tvm.s_tir.tensor_intrin", ModuleType("tvm.s_tir.tensor_intrin"))
    folder = tmp_path / "theirs"
    folder.mkdir()
    written = meta_schedule.tir_integration.tune_tir(
        workloads.load(convolution.workload),
        tvm.target.Target(json.loads(target)),
        str(folder),
        max_trials_global=6,
        num_trials_per_iter=3,
        builder=DummyBuilder(),
        runner=DummyRunner(),
        measure_callbacks=[meta_schedule.measure_callback.AddToDatabase()],
        cost_model="random",
        space=meta_schedule.space_generator.PostOrderApply(
            sch_rules="llvm", postprocs="llvm", mutator_probs="llvm"
        ),
        strategy="replay-trace",
        num_tuning_cores=1,
        seed=1,
    )
    assert len(written) == 6
    monkeypatch.setattr(record_exchange, "sandbox_of", lambda *_: contextlib.nullcontext(FakeSandbox()))
    database = Remembering(str(tmp_path / "records.sqlite"))
    trials, new, skipped = record_exchange.read_metaschedule(folder, database, "theirs", 4.0)
    assert (trials, new > trials, skipped) == (6, True, [])

    spec = spec_of(convolution)
    context = Context(
        FakeSandbox(), ArtifactStore(str(tmp_path / "store")), records=Recorder(lambda: database)
    )
    work = UpdateWork(task=spec, want=8)
    step = Step(
        id="second/t00/0/-/model-update",
        job="second",
        task="t00",
        engines=["metaschedule"],
        target=target,
        seed=0,
        settings=Settings(),
        work=work,
        origin=Origin(job="second", accepted=time.time()),
    )
    leaders = to_begin_with(work, step, context).leaders
    assert len(leaders) == 4
    assert {each.job.source for each in leaders} == {"metaschedule"}
    built = direct.build(convolution.workload, target, leaders[0].trial.schedule)
    assert built.artifact is not None, built.error


def test_workloads_of_this_release_are_read_as_they_are_and_older_ones_translated(
    convolution: ExtractedTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tvm

    there = workloads.structural_hash(workloads.load(convolution.workload))
    text = zlib.decompress(convolution.workload)
    older = text.replace(b'"ir.Var"', b'"tirx.Var"')
    assert older != text
    assert workloads.structural_hash(workloads.load(zlib.compress(older))) == there

    def slow(_text: str) -> object:
        raise AssertionError("it writes the text anew")

    monkeypatch.setattr(tvm.ir, "load_json", slow)
    workloads.load.cache_clear()
    assert workloads.structural_hash(workloads.load(convolution.workload)) == there


def test_what_is_no_database_of_metaschedule_is_refused() -> None:
    with pytest.raises(BadInput, match=r"database_workload\.json, which is not there"):
        direct.ENGINE.read(ReadCall(files={}))
    files = {"database_workload.json": b"{", "database_tuning_record.json": b""}
    with pytest.raises(BadInput, match="does not consist of lines of JSON"):
        direct.ENGINE.read(ReadCall(files=files))


def test_an_export_is_replayed_by_a_plain_script_and_comes_back_once(
    tmp_path: Path, recorded: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    # TVM is here already: it need not be imported by a sandbox.
    monkeypatch.setattr(record_exchange, "sandbox_of", lambda *_: contextlib.nullcontext(FakeSandbox()))
    folder = tmp_path / "exported"
    count, left_out = record_exchange.write_metaschedule(recorded, ALL, folder, 4.0)
    with recorded.reading() as connection:
        found = queries.newest(connection, ALL, 100)
    assert count + left_out == sum(each.trial.latency is not None for each in found)
    assert count > 0
    assert len((folder / "database_tuning_record.json").read_text().splitlines()) == count
    with pytest.raises(BadInput, match="no records of the engine metaschedule"):
        record_exchange.write_metaschedule(recorded, Filter(model="nothing"), folder, 4.0)

    # Anybody with TVM and without Tunemesh uses it.
    ran = subprocess.run(
        [sys.executable, "examples/replay_records.py", str(folder)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    first, *rest = ran.stdout.splitlines()
    assert first == f"{count} records of 1 tasks", ran.stderr
    best = min(each.trial.latency for each in found if each.trial.latency)
    assert [line.split(",")[0].split() for line in rest] == [["recorded", f"{best * 1e6:.1f}", "us"]]
    assert float(rest[0].split()[-2]) > 0

    # Another mesh takes it, and finds the same schedules for the same task.
    other = Database(str(tmp_path / "other.sqlite"))
    for new in (count + 3, 0):
        assert record_exchange.read_metaschedule(folder, other, "theirs", 4.0)[:2] == (count, new)
    with other.reading() as connection:
        there = queries.newest(connection, ALL, 100)
    assert {each.trial.hash for each in there} == {each.trial.hash for each in found if each.trial.latency}
    assert {(each.trial.task, each.job.source) for each in there} == {(found[0].trial.task, "metaschedule")}


def test_what_is_known_of_a_task_is_built_for_the_same_task_of_another_model(
    tmp_path: Path,
    recorded: Database,
    imported: Imported,
    convolution: ExtractedTask,
    target: str,
    first_round: tuple[bytes, list[Trial]],
) -> None:
    assert recorded.file is not None
    recorded.add(
        [rows.Baseline(id="x", task=convolution.key, job=gathering.of_job(ORIGIN).id, latency=1.0, at=1.0)]
    )
    with recorded.writing() as connection:
        connection.execute(TRIALS.update().values(conditions=HERE.id, at=time.time()))
    file = str(recorded.file)
    store = ArtifactStore(str(tmp_path / "artifacts"))
    context = Context(FakeSandbox(), store, records=Recorder(lambda: Remembering(file)))
    step = Step(
        id="second/-/-/-/import",
        job="second",
        engines=["metaschedule"],
        target=target,
        seed=0,
        settings=Settings(batch=len(first_round[1])),
        work=ImportWork(model=store.put(b"")),
        origin=Origin(job="second", accepted=time.time()),
    )
    # The other model has other names for its tensors.
    text = zlib.decompress(convolution.workload).replace(b'"pad_temp_v"', b'"x"').replace(b'"v_nn"', b'"y"')
    other = msgspec.structs.replace(convolution, workload=zlib.compress(text))
    assert other.workload != convolution.workload
    model = msgspec.structs.replace(imported, tasks=[other])
    known = in_records(model, [Device(conditions=HERE)], step, context)
    engine, found = known[convolution.key]
    best = min(first_round[1], key=lambda trial: trial.latency)
    assert (engine, [each.hash for each in found.confirmed]) == ("metaschedule", [best.candidate.hash])
    assert found.confirmed[0].objects is not None


def test_keys_are_those_of_the_release_before(target: str) -> None:
    import tvm
    from tvm import te, topi

    x, w = (
        te.placeholder(shape, name=name, dtype="float32")
        for name, shape in (("x", (1, 3, 32, 32)), ("w", (8, 3, 3, 3)))
    )
    a, b = (
        te.placeholder(shape, name=name, dtype="float32") for name, shape in (("x", (4, 64)), ("w", (64, 32)))
    )
    functions = {
        "conv": [x, w, topi.nn.relu(topi.nn.conv2d(x, w, 1, 1, 1))],
        "softmax": [a, topi.nn.softmax(a)],
        "matmul": [a, b, topi.matmul(a, b)],
        "pool": [x, topi.nn.pool2d(x, (2, 2), (2, 2), (1, 1), (0, 0, 0, 0), "max")],
    }
    for name, tensors in functions.items():
        module = tvm.IRModule({"main": te.create_prim_func(tensors)})
        digest = hashlib.sha256(canonical.text(module).encode()).hexdigest()
        assert digest.startswith(FOUND_BY_0_26[name]), name


def test_a_key_says_what_is_computed_and_how_it_may_be_and_for_what(
    convolution: ExtractedTask, target: str
) -> None:
    import tvm

    module = workloads.load(convolution.workload)
    text = tvm.ir.save_json(module)
    renamed = tvm.ir.load_json(text.replace('"v_nn"', '"v_some"'))
    assert canonical.key(renamed, target) == canonical.key(module, target) == convolution.key
    blocks = tvm.ir.load_json(text.replace('"conv2d_nchw"', '"another"'))
    marked = tvm.IRModule({"main": module["main"].with_attr("tunemesh.fast_math", True)})
    told = tvm.IRModule({"main": module["main"].with_attr("tirx.noalias", False)})
    keys = [canonical.key(each, target) for each in (module, blocks, marked)]
    assert len({*keys, canonical.key(module, "another")}) == 4
    assert canonical.key(told, target) == keys[0]
