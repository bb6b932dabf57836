"""Which tiles of a reduction's result fit the registers."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunemesh.stage_workers.engines.metaschedule import tiles
from tunemesh.stage_workers.engines.metaschedule.factors import divisors
from tunemesh.stage_workers.engines.metaschedule.tiles import Registers, Tile

WIDE, NARROW = Registers(32, 512), Registers(16, 256)


def products(registers: Registers, rows: int, vectors: int) -> set[tuple[int, int]]:
    """Rows and vectors of all tiles of a product."""
    found = tiles.of_products(registers, {1: tiles.row_tiles([rows])}, vectors)
    return {(count, tile.vectors) for tile in found for count in tile.rows}


def test_tiles_of_products_fill_the_registers_and_leave_some_for_weights_and_inputs() -> None:
    assert (14, 2) in products(WIDE, 3136, 8)
    assert (7, 4) not in products(WIDE, 49, 4)  # 28 sums, 4 vectors of weights, and an input
    assert (4, 2) in products(NARROW, 64, 2)
    assert (14, 2) not in products(NARROW, 3136, 8)


def test_tiles_that_load_much_are_left_out_where_there_are_others() -> None:
    assert all(count >= 4 and vectors >= 2 for count, vectors in products(WIDE, 64, 8))
    # A product of a vector has one row, whatever one would like.
    assert products(WIDE, 1, 8) == {(1, 4), (1, 8)}


@given(
    registers=st.sampled_from([WIDE, NARROW, Registers(32, 128)]),
    extents=st.lists(st.integers(1, 64), min_size=1, max_size=2),
    vectors=st.integers(1, 64),
)
def test_there_is_always_a_tile_and_all_divide_the_result(
    registers: Registers, extents: list[int], vectors: int
) -> None:
    total, last = math.prod(extents), extents[-1]
    found = tiles.of_products(registers, {1: tiles.row_tiles(extents)}, vectors)
    assert found
    for tile in found:
        assert vectors % tile.vectors == 0
        for count in tile.rows:
            assert total % count == 0
            assert last % count == 0 or count % last == 0
            assert count * tile.vectors + tile.vectors + 1 < registers.count
    windows = tiles.of_windows({1: divisors(last)}, vectors)
    assert windows
    assert all(tile.height * count * tile.vectors <= 16 for tile in windows for count in tile.rows)


def test_a_tile_is_no_higher_than_it_must_be_where_inputs_are_not_shared() -> None:
    rows = {height: divisors(56) for height in (1, 2)}
    assert {tile.height for tile in tiles.of_products(WIDE, rows, 4)} == {1}
    rows = {height: divisors(4) for height in (1, 2, 4)}
    assert Tile(2, (4,), 2) in tiles.of_products(WIDE, rows, 2)


@pytest.mark.parametrize(
    ("registers", "extent", "bits", "lanes"),
    [
        (WIDE, 96, 32, 16),
        (WIDE, 24, 32, 8),
        (WIDE, 96, 64, 8),
        (WIDE, 9, 32, 0),
        (WIDE, 4, 32, 0),
        (NARROW, 24, 32, 8),
        (NARROW, 4, 32, 4),
    ],
)
def test_an_axis_is_cut_into_whole_vectors_or_not_at_all(
    registers: Registers, extent: int, bits: int, lanes: int
) -> None:
    assert registers.lanes(extent, bits) == lanes
