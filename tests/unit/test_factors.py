from __future__ import annotations

import itertools
import math

from hypothesis import given
from hypothesis import strategies as some

from tunemesh.stage_workers.engines.metaschedule import factors


@given(some.integers(1, 96), some.integers(1, 4))
def test_an_axis_is_cut_in_as_many_ways_as_there_are_tuples_of_factors(extent: int, levels: int) -> None:
    sizes = itertools.product(factors.divisors(extent), repeat=levels)

    assert factors.tilings(extent, levels) == sum(math.prod(each) == extent for each in sizes)


@given(some.integers(1, 10**7))
def test_a_number_is_the_product_of_its_primes(number: int) -> None:
    found = factors.primes(number)

    assert math.prod(found) == number
    assert all(factors.primes(each) == (each,) for each in found)
    assert list(found) == sorted(found)
