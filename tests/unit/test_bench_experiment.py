"""Experiments: what a file may say, in which order its runs come, and what is refused with which words."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from benchmarks import matrix, models
from benchmarks.experiment import Experiment, load
from tunemesh.shared.errors import BadInput

STRATEGIES = ("sequential", "interleaved", "predictive")
EXPERIMENTS = Path(__file__).parents[2] / "benchmarks" / "experiments"


def check(strategy: str) -> None:
    if strategy.partition(":")[0] not in STRATEGIES:
        raise BadInput(f"unknown strategy {strategy!r}; there are: {', '.join(STRATEGIES)}")


def read(tmp_path: Path, text: str) -> Experiment:
    path = tmp_path / "experiment.yaml"
    path.write_text(text)
    return load(path, check)


MESH = "{name: m, kind: mesh, models: [tiny_cnn], "


def mesh(tmp_path: Path, rest: str) -> Experiment:
    return read(tmp_path, MESH + rest + "}")


# -- The matrix ---------------------------------------------------------------------------------------------


def test_every_combination_is_a_run_in_every_repeat(tmp_path: Path) -> None:
    text = "repeats: 2, matrix: {strategy: [sequential, interleaved], seed: [4, 5], trials: [8, 16]}"
    runs = matrix.runs(mesh(tmp_path, text))
    seen = Counter((run.repeat, run.seed, run.strategy, run.trials) for run in runs)
    assert len(runs) == len(seen) == 16
    assert len({run.id for run in runs}) == 16


def test_the_order_of_strategies_is_rotated_from_repeat_to_repeat(tmp_path: Path) -> None:
    text = "repeats: 3, matrix: {strategy: [sequential, interleaved, predictive]}"
    order = [run.strategy for run in matrix.runs(mesh(tmp_path, text))]
    assert order == [
        "sequential", "interleaved", "predictive",
        "interleaved", "predictive", "sequential",
        "predictive", "sequential", "interleaved",
    ]  # fmt: skip


def test_the_order_is_rotated_from_seed_to_seed_as_well(tmp_path: Path) -> None:
    runs = matrix.runs(mesh(tmp_path, "matrix: {seed: [0, 1], settings.lookahead: [0, 1]}"))
    assert [(run.seed, run.settings["lookahead"]) for run in runs] == [(0, 0), (0, 1), (1, 1), (1, 0)]


def test_settings_of_the_matrix_come_on_top_of_the_common_ones(tmp_path: Path) -> None:
    runs = matrix.runs(mesh(tmp_path, "settings: {batch: 8, chunk: 2}, matrix: {settings.chunk: [1, 4]}"))
    assert [run.settings for run in runs] == [{"batch": 8, "chunk": 1}, {"batch": 8, "chunk": 4}]
    assert [matrix.label(run) for run in runs] == ["chunk 1", "chunk 4"]


def test_models_and_scenarios_make_sections_and_are_not_compared(tmp_path: Path) -> None:
    text = "matrix: {models: [[a.onnx], [a.onnx, b.onnx]], strategy: [sequential, interleaved]}"
    runs = matrix.runs(mesh(tmp_path, text))
    assert [(matrix.section(run), matrix.label(run)) for run in runs] == [
        ("a.onnx", "sequential"),
        ("a.onnx", "interleaved"),
        ("a.onnx+b.onnx", "sequential"),
        ("a.onnx+b.onnx", "interleaved"),
    ]


def test_a_strategy_may_carry_arguments(tmp_path: Path) -> None:
    (run,) = matrix.runs(mesh(tmp_path, 'strategy: "predictive:gold=3,free=1"'))
    assert run.strategy == "predictive:gold=3,free=1"
    assert run.id == "r0-s0-predictive-gold-3-free-1"


def test_words_and_time_limit_do_not_change_the_hash_but_what_is_measured_does(tmp_path: Path) -> None:
    first = mesh(tmp_path, "trials: 8")
    assert mesh(tmp_path, "trials: 8, description: other words, limit_s: 5").hash == first.hash
    assert mesh(tmp_path, "trials: 9").hash != first.hash


# -- Refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (MESH + "trails: 9}", "trails"),
        (MESH + "matrix: {colour: [1]}}", "cannot vary 'colour'; it can vary: strategy, seed"),
        (MESH + "matrix: {strategy: []}}", "strategy is empty"),
        (MESH + "matrix: {strategy: [best]}}", "unknown strategy 'best'; there are: sequential"),
        (MESH + "strategy: best}", "unknown strategy 'best'"),
        (MESH + "matrix: {seed: [1, 1]}}", "seed has a value twice; for more runs of the same say repeats"),
        (MESH + "matrix: {trials: [0]}}", "trials"),
        (MESH + "settings: {btach: 3}}", "no setting 'btach'; known: batch"),
        (MESH + "settings: {batch: 0}}", "bad setting"),
        (MESH + "matrix: {settings.lookahead: [7]}}", "bad setting"),
        (MESH + "repeats: 0}", "repeats"),
        ("{name: m, kind: mesh}", "give at least one model"),
        ("{name: s, kind: simulation}", "give a scenario"),
        ("{name: s, kind: simulation, scenario: a, matrix: {trials: [1]}}", "cannot vary 'trials'"),
        ("{name: s, kind: dream}", "dream"),
        ("{name: ../s, kind: mesh}", "name"),
        ("[1, 2]", "object"),
        ("{name: ", "is no YAML"),
    ],
)
def test_a_malformed_experiment_is_refused_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(BadInput) as caught:
        read(tmp_path, text)
    assert words in str(caught.value)
    assert str(tmp_path / "experiment.yaml") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_experiment_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"cannot read experiment .*none\.yaml"):
        load(tmp_path / "none.yaml", check)


def test_a_missing_model_file_is_named(tmp_path: Path) -> None:
    experiment = mesh(tmp_path, "matrix: {models: [[here.onnx], [gone.onnx]]}")
    (tmp_path / "here.onnx").touch()
    with pytest.raises(BadInput, match=r"no model file .*gone\.onnx"):
        models.find(experiment, tmp_path / "experiment.yaml", tmp_path / "out")


def test_a_device_that_is_not_here_is_refused_before_the_first_run(tmp_path: Path) -> None:
    experiment = read(tmp_path, MESH + "device: 'cpu:4711'}")
    with pytest.raises(BadInput, match=r"experiment .*experiment\.yaml: .*4711"):
        models.find(experiment, tmp_path / "experiment.yaml", tmp_path / "out")


def test_a_missing_scenario_is_named(tmp_path: Path) -> None:
    experiment = read(tmp_path, "{name: s, kind: simulation, scenario: gone.yaml}")
    with pytest.raises(BadInput, match=r"no scenario .*gone\.yaml"):
        models.find(experiment, tmp_path / "experiment.yaml", tmp_path / "out")


def test_a_model_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    experiment = read(tmp_path, "{name: m, kind: mesh, models: [huge]}")
    with pytest.raises(BadInput, match=r"no model 'huge'; known: tiny_cnn"):
        models.find(experiment, tmp_path / "experiment.yaml", tmp_path / "out")


def test_models_by_name_are_made_on_demand_and_once(tmp_path: Path) -> None:
    experiment = read(tmp_path, "{name: m, kind: mesh, models: [tiny_separable, one_convolution]}")
    found = models.find(experiment, tmp_path / "experiment.yaml", tmp_path / "out")
    assert sorted(path.name for path in found.values()) == ["one_convolution.onnx", "tiny_separable.onnx"]
    before = [path.stat().st_mtime_ns for path in found.values()]
    models.find(experiment, tmp_path / "experiment.yaml", tmp_path / "out")
    assert [path.stat().st_mtime_ns for path in found.values()] == before


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_experiments_that_we_ship_are_valid(path: Path) -> None:
    assert matrix.runs(load(path))
