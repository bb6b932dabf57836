"""What a search gains from similar tasks: how the benchmark compares."""

from __future__ import annotations

from benchmarks import transfer
from benchmarks.transfer import WAYS, Ran


def test_each_way_is_first_as_often_as_the_others() -> None:
    orders = [transfer.rotated(seed) for seed in range(len(WAYS))]
    for place in range(len(WAYS)):
        assert {order[place] for order in orders} == set(WAYS)


def test_what_is_found_is_compared_with_what_the_engines_prior_finds() -> None:
    # In the search the last way seems twice as fast; measured in turns it is as fast as the first.
    done = [
        Ran("a:b", 0, way, [latency] * 64, again)
        for way, latency, again in zip(WAYS, (2.0, 1.0, 4.0, 1.0), (2.0, 1.0, 3.0, 2.0), strict=True)
    ]
    row = transfer._table(done)[2].split("|")
    cells = [each.strip() for each in row[1:-1]]
    assert cells[0] == "a:b"
    assert cells[1:5] == ["1.000"] * 4
    assert cells[5:9] == ["0.500", "0.500", "0.500", "0.500"]
    assert cells[13:17] == ["0.500", "0.500", "0.500", "1.000"]
    assert cells[-1] == "1e+06"
