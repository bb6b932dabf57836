"""Products and convolutions in bfloat16: right as far as bfloat16 is, and refused by name. Real TVM."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest

from tests.acceptance import direct
from tests.acceptance.test_layouts import Network
from tests.onnx_models import floats
from tunemesh.shared.errors import BadTarget
from tunemesh.stage_workers.graph import dots, models, workloads
from tunemesh.stage_workers.platforms.protocol import Imported

OLD = '{"kind": "llvm", "mcpu": "znver3"}'


@pytest.fixture
def narrow(target: str) -> str:
    """A target that multiplies bfloat16."""
    if not dots.BFLOAT16[0].runs_on(target):
        pytest.skip("this CPU has no avx512_bf16")
    return target


def two_layers() -> bytes:
    net = Network(4, 32)
    hidden = net.op("Relu", net.dense("x", 32, 48))
    return bytes(net.made(net.dense(hidden, 48, 16)).SerializeToString())


def convolutions() -> bytes:
    """One with zeros around it, one with a stride, one of 8 outputs."""
    net = Network(1, 16, 9, 9)
    first = net.op("Relu", net.conv("x", 16, 32, size=3))
    second = net.op("Relu", net.conv(first, 32, 16, size=3, stride=2))
    return bytes(net.made(net.conv(second, 16, 8, size=1)).SerializeToString())


def tuned(made: bytes, target: str) -> tuple[Imported, bytes]:
    """The model with the first right candidate of each task, whether or not it is faster."""
    imported = direct.import_model(made, target, options={}, precision="bf16")
    tasks = []
    for task in imported.tasks:
        proposal = direct.update(task.workload, target, None, [], 2)
        trials = direct.measure(task, target, proposal.schedules)
        assert [each.error for each in trials if each.outcome != "measured"] == []
        tasks.append(direct.tuned_task(task, target, trials[0]))
    return imported, direct.assemble(imported.model, target, tasks).tuned


def relative_error(made: bytes, library: bytes, image: Any) -> float:
    session = onnxruntime.InferenceSession(made, providers=["CPUExecutionProvider"])
    wanted = session.run(None, {session.get_inputs()[0].name: image})[0]
    return float(np.abs(direct.run(library, image) - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize(("made", "count"), [(two_layers(), 2), (convolutions(), 3)])
def test_products_are_as_right_as_bfloat16(narrow: str, made: bytes, count: int) -> None:
    imported, library = tuned(made, narrow)
    (changes,) = models.unpack(imported.model).changes
    assert changes.narrow
    marked = [dots.marks(workloads.load(task.workload)["main"]) for task in imported.tasks]
    assert len(list(filter(None, marked))) == count
    shape = onnxruntime.InferenceSession(made).get_inputs()[0].shape
    error = relative_error(made, library, floats(*shape, seed=3))
    assert 2**-16 < error < 2**-6


def test_a_target_without_the_instruction_is_refused_by_name() -> None:
    old = direct.resolve_target(OLD)
    with pytest.raises(BadTarget, match=r"--precision bf16: the target znver3 has no avx512_bf16"):
        direct.import_model(two_layers(), old, precision="bf16")
    with pytest.raises(BadTarget, match=r"--precision fp16: the target znver3 has no instruction"):
        direct.import_model(two_layers(), old, precision="fp16")
