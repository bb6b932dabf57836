"""Factors of the extents of loops."""

from __future__ import annotations

import functools
import math
from collections import Counter


def divisors(number: int) -> list[int]:
    """Of a number, from 1 on."""
    return [each for each in range(1, number + 1) if number % each == 0]


@functools.cache
def primes(number: int) -> tuple[int, ...]:
    """The prime factors of a number, each as often as it is one."""
    found, prime = [], 2
    while number > 1:
        while number % prime == 0:
            found.append(prime)
            number //= prime
        prime = prime + 1 if prime * prime <= number else max(number, 2)
    return tuple(found)


def tilings(extent: int, levels: int) -> int:
    """In how many ways an axis can be cut into so many levels of tiles."""
    powers = Counter(primes(extent)).values()
    return math.prod(math.comb(power + levels - 1, levels - 1) for power in powers)
