"""An engine from another package beside MetaSchedule: no file of Tunemesh knows it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.acceptance.conftest import Run
from tunemesh.shared.artifacts import ArtifactStore
from tunemesh.shared.errors import BadInput
from tunemesh.shared.messages import (
    AssembleDone,
    AssembleWork,
    BuildDone,
    BuildWork,
    Confirmed,
    ImportDone,
    ImportWork,
    Options,
    ProfileDone,
    ProfileWork,
    Result,
    Settings,
    Step,
    TaskRecords,
    TaskSpec,
    Trial,
    UpdateDone,
    UpdateWork,
    ValidateDone,
    ValidateWork,
    Work,
)
from tunemesh.stage_workers import engines
from tunemesh.stage_workers.engines.template import searches
from tunemesh.stage_workers.engines.template.space import Knob, Space
from tunemesh.stage_workers.sandbox.sandbox import Sandbox
from tunemesh.stage_workers.stages import Context, run_stage

T = TypeVar("T")
TOY = Path(__file__).parents[1] / "toy_engine"
RUN = """
import sys
import numpy as np
import tvm
inputs, library, output = sys.argv[1:]
machine = tvm.relax.VirtualMachine(tvm.runtime.load_module(library), tvm.cpu())
np.save(output, machine["main"](tvm.runtime.tensor(np.load(inputs))).numpy())
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that the toy engine is installed in, as pip does it; pip itself would need ``wheel``."""
    folder = tmp_path_factory.mktemp("site")
    project = tomllib.loads((TOY / "pyproject.toml").read_text())["project"]
    shutil.copytree(TOY / "tunemesh_toy", folder / "tunemesh_toy")
    about = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
    lines = [
        line
        for group, points in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in points.items()))
    ]
    (about / "entry_points.txt").write_text("\n".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", str(folder))  # for child processes
        yield folder


def two_products() -> onnx.ModelProto:
    """A product, its softmax, and a product that is fused with what follows it."""
    random = np.random.default_rng(0)
    weights = {
        "v": random.normal(0, 0.2, (96, 160)).astype(np.float32),
        "w": random.normal(0, 0.2, (160, 48)).astype(np.float32),
        "b": random.normal(0, 1, 48).astype(np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "v"], ["a"]),
            helper.make_node("Softmax", ["a"], ["s"], axis=-1),
            helper.make_node("MatMul", ["s", "w"], ["c"]),
            helper.make_node("Add", ["c", "b"], ["d"]),
            helper.make_node("Relu", ["d"], ["z"]),
        ],
        "products",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (64, 96))],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, (64, 48))],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    made.ir_version = 8
    return made


class Job:
    """One job, its steps done in this process, engines and platform in a sandbox."""

    def __init__(
        self,
        context: Context,
        target: str,
        options: dict[str, Options],
        engines: tuple[str, ...] = ("toy", "metaschedule"),
    ) -> None:
        self._context = context
        self._target = target
        self._options = options
        self._engines = engines

    def do(self, work: Work, number: int = 0) -> Result:
        step = Step(
            id=f"job/-/{number}/-/-",
            job="job",
            engines=[*self._engines],
            target=self._target,
            seed=1,
            settings=Settings(repeats=3, min_repeat_ms=5),
            options=self._options,
            work=work,
            round=number,
        )
        return run_stage(step, self._context)

    def tune(self, task: TaskSpec, want: int = 8) -> tuple[TaskRecords, list[Trial]]:
        """One round of a search and its end, beside another search that is as good."""
        proposed = expect(UpdateDone, self.do(UpdateWork(task=task, want=want)))
        built = expect(BuildDone, self.do(BuildWork(task=task, candidates=proposed.candidates))).built
        work = ProfileWork(task=task, artifacts=built, baseline=True)
        profiled = expect(ProfileDone, self.do(work))
        trials = [
            Trial(candidate=each, outcome=one.outcome, latencies=one.latencies, error=one.error)
            for each, one in zip(proposed.candidates, profiled.profiled, strict=True)
        ]
        rival = min(trial.latency for trial in trials)
        close = UpdateWork(
            task=task, want=0, state=proposed.state, trials=trials, rival=rival if rival < inf else 1.0
        )
        closed = expect(UpdateDone, self.do(close, 1))
        leaders = {each.hash for each in closed.candidates}
        artifacts = [
            each for each, trial in zip(built, trials, strict=True) if trial.candidate.hash in leaders
        ]
        again = expect(ProfileDone, self.do(ProfileWork(task=task, artifacts=artifacts, confirm=True)))
        confirmed = [
            Confirmed(hash=trials[one.index].candidate.hash, latencies=one.latencies)
            for one in again.profiled
        ]
        records = TaskRecords(
            task=task, history=closed.state.history, confirmed=confirmed, untuned=profiled.untuned
        )
        return records, trials


def expect(kind: type[T], result: Result) -> T:
    assert isinstance(result, kind), result
    return result


def test_it_is_found(installed: Path) -> None:
    assert {"metaschedule", "mock", "toy"} <= set(engines.names())


def test_its_search_serves_every_engine_that_has_knobs(installed: Path) -> None:
    engine = engines.load("template")
    engine.check_options({"search": "spread"})
    with pytest.raises(BadInput, match=r"no search 'sprat'; there are random, .*, portfolio, spread"):
        engine.check_options({"search": "sprat"})
    space = Space((Knob("knob", tuple(range(100))),), lambda _: True)
    _, genomes = searches.propose("spread", space, None, [], 8, 0)
    places = sorted(place for (place,) in genomes)
    assert min(after - before for before, after in pairwise(places)) >= 4


def test_the_documentation_shows_the_whole_search() -> None:
    text = (Path(__file__).parents[2] / "docs" / "engines.md").read_text()
    for file in ("tunemesh_toy/spread.py", "pyproject.toml"):
        shown = (TOY / file).read_text()
        if file == "pyproject.toml":
            shown = shown[shown.index('[project.entry-points."tunemesh.searches"]') :].partition("\n\n")[0]
        assert shown.strip() in text, file


def test_it_tunes_a_task_of_a_model_beside_another_engine(
    installed: Path, target: str, tmp_path: Path
) -> None:
    proto = two_products()
    store = ArtifactStore(str(tmp_path / "store"))
    with Sandbox(("toy", "metaschedule"), memory=4 * 2**30) as sandbox:
        job = Job(Context(sandbox, store, "cpu"), target, {"toy": {"largest": 32, "search": "spread"}})
        model = expect(ImportDone, job.do(ImportWork(model=store.put(proto.SerializeToString()))))
        takers: dict[str, list[str | None]] = {}
        for task in model.tasks:
            takers.setdefault(task.name, []).append(task.engine)
        assert takers.pop("matmul") == ["toy", "metaschedule"]
        assert len(takers) >= 2
        assert all(each == ["metaschedule"] for each in takers.values())
        # Its product is in the model where nobody else has one that is as fast.
        tuned = {
            (task.name, task.engine): job.tune(task)
            for task in model.tasks
            if (task.name, task.engine) != ("matmul", "metaschedule")
        }
        records, trials = tuned["matmul", "toy"]
        # All tiles that the option leaves, in the order of its own search.
        assert sorted(trial.candidate.hash for trial in trials) == ["tile-16", "tile-32", "tile-4", "tile-8"]
        assert [trial.outcome for trial in trials] == ["measured"] * 4, trials
        assert min(trial.latency for trial in trials) < (records.untuned or 0)
        work = AssembleWork(model=model.model, tasks=[each for each, _ in tuned.values()])
        done = expect(AssembleDone, job.do(work))
        assert "database_workload.json" in done.files
        work = ValidateWork(tuned=done.tuned, untuned=done.untuned, signature=done.signature)
        validated = expect(ValidateDone, job.do(work))
    assert validated.equal
    assert validated.latency_after < validated.latency_before
    library = tmp_path / "model.so"
    library.write_bytes(store.get(done.tuned))
    assert f"__tvm_ffi_tunemesh_{records.task.key}".encode() in library.read_bytes()
    assert_computes_the_same(proto, library, tmp_path)


def test_it_is_an_engine_of_the_command_line(installed: Path, tunemesh: Run, tmp_path: Path) -> None:
    proto = two_products()
    onnx.save(proto, str(tmp_path / "products.onnx"))
    out = tmp_path / "out"
    arguments = ["--trials", 40, "--engine", "toy", "--engine", "metaschedule", "--batch", 8, "--out", out]
    done = tunemesh("tune", tmp_path / "products.onnx", *arguments, "--option", "toy.largest=32", timeout=300)
    assert done.returncode == 0, done.stderr
    report = json.loads((out / "products" / "report.json").read_text())
    searches = {task["name"]: task["searches"] for task in report["tasks"]}
    toy, other = searches.pop("matmul")
    assert (toy["engine"], toy["trials"]) == ("toy", 4)  # as many tiles as the option leaves
    assert (other["engine"], other["trials"] > 4) == ("metaschedule", True)
    assert [[each["engine"] for each in found] for found in searches.values()] == [["metaschedule"]] * 2
    assert "tasks by the engine of the fastest kernel: " in done.stdout
    library = out / "products" / "model.so"
    assert_computes_the_same(proto, library, tmp_path)


def assert_computes_the_same(proto: onnx.ModelProto, library: Path, folder: Path) -> None:
    """Against ONNX Runtime."""
    image = np.random.default_rng(1).normal(0, 1, (64, 96)).astype(np.float32)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(
        run_elsewhere(library, image, folder), session.run(None, {"x": image})[0], rtol=1e-4, atol=1e-5
    )


def run_elsewhere(library: Path, image: np.ndarray, folder: Path) -> np.ndarray:
    """The output of a model in a process that has TVM and nothing of Tunemesh."""
    np.save(folder / "input.npy", image)
    files = [folder / "input.npy", library, folder / "output.npy"]
    subprocess.run([sys.executable, "-c", RUN, *map(str, files)], check=True, cwd=folder)
    return np.asarray(np.load(folder / "output.npy"))
