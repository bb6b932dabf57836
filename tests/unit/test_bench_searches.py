"""What searches are compared on: operators, and tables of kernels that were measured."""

from __future__ import annotations

import math
from pathlib import Path

import onnx
import pytest

from benchmarks.searches import operators, simulating, table, tabulating, tasks, woodpecker
from tunemesh.stage_workers.engines.template.space import Knob, Space


@pytest.mark.parametrize("name", operators.NAMES)
def test_every_operator_is_one_node_with_the_shapes_of_its_name(name: str) -> None:
    graph = onnx.shape_inference.infer_shapes(
        onnx.load_from_string(operators.model(name)), strict_mode=True, data_prop=True
    ).graph
    assert len(graph.node) == 1
    shape = [dim.dim_value for dim in graph.output[0].type.tensor_type.shape.dim]
    if name in operators.PRODUCTS:
        rows, _, columns = operators.PRODUCTS[name]
        assert shape == [rows, columns]
    else:
        _, size, out, _, stride, _ = operators.CONVOLUTIONS[name]
        assert shape == [1, out, size // stride, size // stride]


def world(folder: Path) -> table.Table:
    """A table of a small space, of which a part is invalid and one kernel failed."""
    knobs = tuple(Knob(name, (1, 2, 4, 8)) for name in "abc")
    space = Space(knobs, lambda values: values[0] <= values[1], lambda values: float(values[2]))
    latencies = {genome: 1e-3 / (1 + sum(genome)) for genome in space.all()}
    latencies[0, 0, 0] = math.inf
    about = table.About(
        operator="small", template="product", knobs=[(knob.name, list(knob.values)) for knob in knobs],
        revision="", cpu="", compiler="", measured="2026-01-01",
    )  # fmt: skip
    table.save(folder / "small.npz", about, space, latencies)
    return table.load(folder / "small.npz")


def test_a_table_is_a_space_whose_valid_genomes_were_measured(tmp_path: Path) -> None:
    made = world(tmp_path)
    assert made.about.operator == "small"
    assert set(made.space.all()) == set(made.latencies)
    assert len(made.latencies) == 10 * 4
    assert made.best == pytest.approx(1e-4)
    assert math.isinf(made.latencies[0, 0, 0])
    assert made.space.promise(made.space.values((0, 1, 3))) == 8
    assert not made.space.is_valid((1, 0, 0))


def test_a_search_on_a_table_finds_the_best_once_it_has_tried_all(tmp_path: Path) -> None:
    made = world(tmp_path)
    for name in ("random", "roulette"):
        assert len(list(simulating.latencies(made, name, 0))) == 40
        shares = simulating.shares(made, name, 0, 40)
        assert shares == sorted(shares)
        assert len(shares) == 2
        assert shares[0] > 0.4
    assert simulating.shares(made, "hill-climb", 0, 32)[-1] == 1


def test_a_part_of_a_space_has_some_values_of_some_knobs() -> None:
    space = Space((Knob("a", (1, 2, 4)), Knob("b", (0, 1))), lambda values: values[0] + values[1] != 2)
    some = tabulating.part(space, {"a": (1, 4, 8), "c": (9,)})
    assert [knob.values for knob in some.knobs] == [(1, 4), (0, 1)]
    assert [some.values(genome) for genome in some.all()] == [[1, 0], [4, 0], [4, 1]]
    with pytest.raises(ValueError, match=r"the knob b has none of \[7\]"):
        tabulating.part(space, {"b": (7,)})


def test_shipped_tables_are_those_of_known_operators() -> None:
    assert operators.WOODPECKER in table.names()
    for name in table.names():
        made = table.load(table.FOLDER / f"{name}.npz")
        assert made.about.operator == name
        assert name in operators.NAMES
        assert len(made.latencies) > 1000
        assert made.best == min(made.latencies.values()) > 1e-6


def test_woodpeckers_figure_says_the_share_of_the_peak_and_who_is_first() -> None:
    found = woodpecker.Found(
        engine="template", trials=1600, wall=101.0, core=99.0, best=1e-4, build=0.05, profile=0.004, failed=2
    )
    turns = {"openvino": 1.2e-4, "template": 1.1e-4}
    lines = woodpecker.text(
        woodpecker.Figure(flops=250e9, operations=24e6, found=[found], turns=turns, errors={"x": "absent"})
    )
    assert lines[0] == "the core does 250 GFLOP/s at most"
    assert "| template | 1600 | 2 | 101 | 99 | 50 | 4 | 100.0 | 0.960 |" in lines
    assert [line.split()[1] for line in lines[-3:-1]] == ["template", "openvino"]
    assert lines[-1] == "x could not run: absent"


def test_tasks_are_counted_by_who_is_faster_and_both_are_beside_metaschedule() -> None:
    def compared(name: str, own: float | None, other: float | None) -> tasks.Compared:
        found = {tasks.OWN: (9, own), tasks.OTHER: (7, other)}
        made = {engine: tasks.Engine(trials=count, seconds=s) for engine, (count, s) in found.items()}
        return tasks.Compared(network="bert", task=name, operations=1e6, engines=made)

    lines = tasks.text([compared("a", 50e-6, 100e-6), compared("b", 30e-6, 20e-6), compared("c", None, 1e-6)])
    assert lines[2] == "| bert | a | 50.0 (9) | 100.0 (7) | 0.50 |"
    assert lines[4] == "| bert | c |  (9) | 1.0 (7) | 1.00 |"
    assert lines[-1] == "template wins 1 of 3; the best of both takes 0.794 of metaschedule's"
