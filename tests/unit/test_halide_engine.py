"""Halide's engine: what is said without its package, what may be chosen, and in which order weights are."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from importlib import util

import pytest

from tunemesh import checks, doctor, service_commands
from tunemesh.shared.errors import BadInput
from tunemesh.stage_workers import engines
from tunemesh.stage_workers.engines.halide import options, roles, spaces
from tunemesh.stage_workers.engines.halide.scheduling import AHEAD, Plan, shape_of
from tunemesh.stage_workers.engines.template.machine import Machine
from tunemesh.stage_workers.engines.template.operators import Axis, Form, Operand, Operator, Step
from tunemesh.stage_workers.engines.template.space import Space
from tunemesh.stage_workers.engines.template.stages import Unknown
from tunemesh.stage_workers.worker import WorkerConfig, run_worker

ROWS, COLUMNS, DEPTH = 20, 48, 36
CPU = Machine(32, 16, "x86_64", ())


def product() -> Operator:
    """Of a matrix and a weight whose columns are its rows."""
    return Operator(
        axes=(Axis("i", ROWS, False), Axis("j", COLUMNS, False), Axis("k", DEPTH, True)),
        left=Operand(0, Form((DEPTH, 0, 1)), (), False, ROWS * DEPTH),
        right=Operand(1, Form((0, DEPTH, 1)), (), True, COLUMNS * DEPTH),
        output=Form((COLUMNS, 1, 0)),
        epilogue=(Step("acc"),),
        parameters=(ROWS * DEPTH, COLUMNS * DEPTH, ROWS * COLUMNS),
    )


def pretend(monkeypatch: pytest.MonkeyPatch, found: object) -> None:
    """Halide's package is what ``found`` says."""
    real = util.find_spec
    monkeypatch.setattr(
        util, "find_spec", lambda name, *more: found if name == "halide" else real(name, *more)
    )


@pytest.fixture
def space() -> Space:
    operator = product()
    return spaces.space_of(operator, roles.roles_of(operator), CPU)


def test_without_its_package_it_says_so_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, None)
    findings = {each.what: each for each in doctor.examine()}
    assert findings["engines"].ok
    assert f"not halide: {engines.NO_HALIDE}" in findings["engines"].found
    # It takes the package to propose, too.
    with pytest.raises(BadInput, match=r'pip install "tunemesh\[halide\]"'):
        checks.check_engines(["halide"])
    for queue in ("build-cpu", "model-update"):
        config = WorkerConfig(broker="", queue=queue, artifacts="", engines=("halide",))
        with pytest.raises(BadInput, match=r'pip install "tunemesh\[halide\]"'):
            run_worker(config)


def test_it_is_served_where_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, object())
    assert "halide" not in engines.served_by_default()
    assert service_commands._served(["metaschedule,halide"], "build-cpu") == ("metaschedule", "halide")
    found = {each.what: each.found for each in doctor.examine()}["engines"]
    assert "halide where it is named" in found


def test_bad_options_are_refused() -> None:
    with pytest.raises(BadInput, match="search"):
        options.read({"search": "nowhere"})
    with pytest.raises(BadInput, match="autoscheduler"):
        options.read({"autoscheduler": True})


def test_tiles_stay_in_registers_and_in_the_result(space: Space) -> None:
    genomes = list(itertools.islice(space.all(), 0, None, 41))
    assert len(genomes) > 50
    for genome in genomes:
        shape = shape_of(space.values(genome))
        assert shape.vectors * shape.rows * shape.lines + shape.vectors < CPU.registers
        assert shape.lanes * shape.vectors <= COLUMNS
        assert shape.rows <= ROWS
        assert DEPTH % shape.unroll == 0


def test_a_weight_is_packed_without_gaps_and_without_losses(space: Space) -> None:
    operator = product()
    chance, seen = random.Random(0), set[int]()
    while len(seen) < 3:
        values = space.values(space.genome(chance.randrange(space.size)))
        shape = shape_of(values)
        if not space.valid(values) or shape.places[1] != AHEAD:
            continue
        plan = Plan(operator, roles.roles_of(operator), shape)
        (factor,) = [each for each in plan.packed_roles.factors if each.packing]
        places = sorted(
            sum(
                at // place.block * place.outer + at % place.block * place.inner
                if place.block
                else at * place.inner
                for at, place in zip(each, factor.packing, strict=True)
            )
            for each in itertools.product(*map(range, factor.extents))
        )
        assert places == list(range(COLUMNS * DEPTH))
        seen.add(shape.lanes * shape.vectors)


def test_results_that_do_not_lie_side_by_side_are_left_to_others() -> None:
    with pytest.raises(Unknown, match="side by side"):
        roles.roles_of(replace(product(), output=Form((2 * COLUMNS, 2, 0))))
