"""Jobs of the template engine: alone from the command line, and beside MetaSchedule."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import onnx
import pytest

from tests.acceptance import direct
from tests.acceptance.conftest import Run
from tests.acceptance.test_toy_engine import Job, assert_computes_the_same, expect, two_products
from tests.unit.stage_calls import FakeSandbox
from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.messages import (
    AssembleDone,
    AssembleWork,
    BuildDone,
    BuildWork,
    Built,
    ImportDone,
    ImportWork,
    ProfileDone,
    ProfileWork,
    TaskSpec,
    UpdateDone,
    UpdateWork,
)
from tunemesh.stage_workers.engines.metaschedule import MetaScheduleEngine
from tunemesh.stage_workers.engines.protocol import BuildCall, ObjectPart, TirPart
from tunemesh.stage_workers.engines.template import TemplateEngine, tuning
from tunemesh.stage_workers.engines.template.templates.product import Product
from tunemesh.stage_workers.platforms.protocol import AssembleCall
from tunemesh.stage_workers.stages import Context


def test_a_job_is_tuned_by_templates_with_a_search_of_ones_choice(tunemesh: Run, tmp_path: Path) -> None:
    proto = two_products()
    onnx.save(proto, str(tmp_path / "products.onnx"))
    out = tmp_path / "out"
    arguments = ["--engine", "template", "--option", "template.search=reinforce", "--trials", 40]
    done = tunemesh("tune", tmp_path / "products.onnx", *arguments, "--out", out, timeout=300)
    assert done.returncode == 0, done.stderr
    report = json.loads((out / "products" / "report.json").read_text())
    trials = {task["name"]: task["trials"] for task in report["tasks"]}
    assert max(trials.values()) > 16  # so many are random
    assert {task["name"]: task["engine"] for task in report["tasks"]}["matmul"] == "template"
    library = out / "products" / "model.so"
    assert b"__tvm_ffi_tunemesh_" in library.read_bytes()
    assert_computes_the_same(proto, library, tmp_path)
    assert list((out / "products").rglob("*-product.c"))


@pytest.mark.parametrize("wrong", [False, True])
def test_both_engines_search_a_task_and_a_wrong_template_never_wins(
    wrong: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if wrong:
        good = Product.source
        # One of its sums has a wrong sign.
        monkeypatch.setattr(
            Product, "source", lambda *call: re.sub(r"(a0_0) \+=", r"\1 -=", good(*call), count=1)
        )
    tuning.taken.cache_clear()
    target = direct.resolve_target("native")
    store = ArtifactStore(str(tmp_path))
    sandbox = FakeSandbox()
    job = Job(Context(sandbox, store, "cpu"), target, {}, ("metaschedule", "template"))
    model = expect(ImportDone, job.do(ImportWork(model=store.put(two_products().SerializeToString()))))
    searches = [task for task in model.tasks if task.name == "matmul"]
    assert [(task.id, task.engine) for task in searches] == [
        ("t00", "metaschedule"),
        ("t00.template", "template"),
    ]
    (ours, trials), (theirs, others) = job.tune(searches[1], 2), job.tune(searches[0], 2)
    assert {trial.outcome for trial in others} == {"measured"}
    assert {trial.outcome for trial in trials} == ({"wrong-result"} if wrong else {"measured"})
    workload = store.get(ours.task.workload)
    for engine, found, words in (
        (TemplateEngine(), trials, ("__tvm_ffi_main", "a0_0")),
        (MetaScheduleEngine(), others, ("sch.", "prim_func")),
    ):
        call = BuildCall(workload=workload, target=target, schedule=found[0].candidate.schedule)
        text = engine.source(call).text
        assert all(word in text for word in words)
    # However fast it looks: what is wrong has no latency.
    work = AssembleWork(model=model.model, tasks=[theirs, ours] if wrong else [ours])
    expect(AssembleDone, job.do(work))
    (call,) = [each for each in sandbox.records if isinstance(each, AssembleCall)]
    assert [type(task.part) for task in call.tasks] == [TirPart if wrong else ObjectPart]


def test_kernels_of_several_engines_take_turns_and_are_linked_into_one_model(tmp_path: Path) -> None:
    makers = ["metaschedule", "template"] + ["halide"] * (importlib.util.find_spec("halide") is not None)
    target = direct.resolve_target("native")
    store = ArtifactStore(str(tmp_path))
    sandbox = FakeSandbox()
    job = Job(Context(sandbox, store, "cpu"), target, {}, tuple(makers))
    model = expect(ImportDone, job.do(ImportWork(model=store.put(two_products().SerializeToString()))))
    by_name: dict[str, dict[str | None, TaskSpec]] = {}
    for task in model.tasks:
        by_name.setdefault(task.name, {})[task.engine] = task
    # Every task gets a kernel of another engine, as if that had won.
    winners = dict(zip(by_name, makers, strict=False))
    found = [job.tune(by_name[name][engine], 1)[0] for name, engine in winners.items()]

    built: dict[str, list[Built]] = {}
    for engine in makers:
        task = by_name["matmul"][engine]
        proposed = expect(UpdateDone, job.do(UpdateWork(task=task, want=1))).candidates
        built[task.id] = expect(BuildDone, job.do(BuildWork(task=task, candidates=proposed, keep=True))).built
    (first, own), *others = built.items()
    work = ProfileWork(task=by_name["matmul"][makers[0]], artifacts=own, rivals=dict(others), confirm=True)
    done = expect(ProfileDone, job.do(work))
    profiled = [*done.profiled, *(each for rival in done.rivals.values() for each in rival)]
    assert [each.outcome for each in profiled] == ["measured"] * len(makers), first
    assert done.in_turns
    assert len({len(each.latencies) for each in profiled}) == 1  # one for each turn

    tuned = expect(AssembleDone, job.do(AssembleWork(model=model.model, tasks=found))).tuned
    (call,) = [each for each in sandbox.records if isinstance(each, AssembleCall)]
    kinds = [type(task.part) for task in call.tasks]
    assert kinds == [TirPart, *[ObjectPart] * (len(winners) - 1)]
    library = tmp_path / "model.so"
    store.save(tuned, library)
    for task_key in (records.task.key for records in found[1:]):
        assert f"__tvm_ffi_tunemesh_{task_key}".encode() in library.read_bytes()
    assert_computes_the_same(two_products(), library, tmp_path)
