"""The seven networks of the benchmark are alive, and runtimes recognise what they are made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from benchmarks import corpus
from benchmarks.peers.networks import NETWORKS, RANGES
from tunemesh.stage_workers.measuring import inputs

FUSED = {
    "resnet18": {"Conv": 20},
    "bert": {"Gelu": 4, "SkipLayerNormalization": 9, "Softmax": 4},
    "mobilenetv2": {"Conv": 52},
    "unet": {"ConvTranspose": 3},
    "convnext": {"Gelu": 6, "LayerNormalization": 10},
    "vit": {"Gelu": 4, "Softmax": 4},
    "dlrm": {"FusedGemm": 6},
}
"""What ONNX Runtime makes of them: activations and batch normalisation are inside, GELU is one operator."""


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_alive_and_at_no_disadvantage(name: str, tmp_path: Path) -> None:
    model = NETWORKS[name]()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # it says that what it writes is for this machine only
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    first, second = (session.run(None, drawn(model, name, seed))[0] for seed in (0, 1))
    assert np.isfinite(first).all()
    assert first.std() > 0.02
    # What comes out depends on what goes in.
    assert np.abs(first - second).max() > 0.1 * first.std()
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert {kind: kinds.count(kind) for kind in FUSED[name]} == FUSED[name]
    assert not {"BatchNormalization", "Erf", "Relu", "Clip", "Sigmoid"} & set(kinds)


@pytest.mark.parametrize("name", corpus.NETWORKS)
def test_a_network_whose_tuning_others_begin_with_is_alive(name: str) -> None:
    model = corpus.NETWORKS[name]()
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    first, second = (session.run(None, drawn(model, name, seed))[0] for seed in (0, 1))
    assert np.isfinite(first).all()
    assert first.std() > 0.02
    assert np.abs(first - second).max() > 0.01 * first.std()


def drawn(model: onnx.ModelProto, name: str, seed: int) -> dict[str, Any]:
    tensors = [
        (
            value.name,
            tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim),
            onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name,
        )
        for value in model.graph.input
    ]
    arrays = inputs.random(tensors, seed, (RANGES | corpus.RANGES).get(name, {}))
    return {tensor: array for (tensor, _, _), array in zip(tensors, arrays, strict=True)}


def test_the_same_network_comes_out_every_time() -> None:
    assert NETWORKS["dlrm"]().SerializeToString() == NETWORKS["dlrm"]().SerializeToString()
