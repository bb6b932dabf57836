"""Values that are right by form and otherwise by chance, for any type that a message is made of."""

from __future__ import annotations

import functools
import random
import sys
from collections.abc import Hashable
from typing import Any

import msgspec
from msgspec import inspect

SAMPLES = {
    "job": ["job", "good", "bad", "other"],
    "build-cpu": ["build-cpu", "model-update", "profile-cpu-0", "profile-x", "build-cpu.toy"],
    "0-9a-f]{32}": ["0" * 32, "1" * 32],
    "0-9a-f": ["0" * 64, "1" * 64, "f" * 64],
}
TEXTS = ["", "x", "mock2", "t00", "../../etc/passwd", "\x1b[2J", "{}", "é" * 50, "e" * 1500]
IDS = ["-", "t00", "t01", "t99", "bad/t00/0/0/build", "good/t00/0/0/build", "good/t00/0/-/model-update"]
NAMES = ["job", "good", "bad", "build-cpu@host:1", "model-update", "metaschedule", "mock", "toy"]


def value(kind: Any, rng: random.Random, depth: int = 0) -> Any:
    """A random value of a type that msgspec knows."""
    return _value(inspect.type_info(kind), rng, depth)


def _value(kind: inspect.Type, rng: random.Random, depth: int) -> Any:
    match kind:
        case inspect.Metadata(type=inner):
            return _value(inner, rng, depth)
        case inspect.NoneType():
            return None
        case inspect.BoolType():
            return rng.random() < 0.5
        case inspect.IntType():
            least, most = _bounds(kind, 0, 2**53)
            near = [least, least + 1, least + 2, most]
            return min(max(int(rng.choice([*near, rng.randint(0, 40)])), int(least)), int(most))
        case inspect.FloatType():
            least, most = _bounds(kind, 0.0, sys.float_info.max)
            found = rng.choice([least, most, rng.random(), 1.0, 1e-300])
            if kind.gt is not None:
                found = max(found, kind.gt + 1e-9)
            return min(max(found, least), most)
        case inspect.StrType(pattern=pattern, min_length=shortest, max_length=longest):
            return _text(pattern, shortest or 0, longest or 10_000, rng)
        case inspect.BytesType():
            return rng.choice([b"", b"0", b"7", b"x" * 100])
        case inspect.LiteralType(values=values):
            return rng.choice(list(values))
        case inspect.ListType(item_type=item, min_length=shortest, max_length=longest):
            count = rng.choice([0, 1, 2, 5] if depth < 4 else [0, 1])
            count = max(count, shortest or 0)
            count = count if longest is None else min(count, longest)
            return [_value(item, rng, depth + 1) for _ in range(count)]
        case inspect.TupleType(item_types=items):
            return tuple(_value(item, rng, depth + 1) for item in items)
        case inspect.DictType(key_type=key, value_type=item):
            return {
                _value(key, rng, depth + 1): _value(item, rng, depth + 1) for _ in range(rng.randint(0, 2))
            }
        case inspect.UnionType(types=types):
            return _value(rng.choice(list(types)), rng, depth)
        case inspect.StructType(cls=cls):
            return struct(cls, rng, depth)
    raise NotImplementedError(kind)


def struct(cls: type[msgspec.Struct], rng: random.Random, depth: int = 0) -> Any:
    """A struct of which every field is random."""
    known = _known(cls)
    fields = {each.name: _value(each.type, rng, depth + 1) for each in known.fields if each.name != "version"}
    return cls(**fields)


@functools.cache
def _known(cls: Hashable) -> inspect.StructType:
    known = inspect.type_info(cls)
    assert isinstance(known, inspect.StructType)
    return known


def mutated(whole: Any, rng: random.Random) -> Any:
    """``whole`` with one field, at any depth, replaced by a random value of its type."""
    cls: Any = type(whole)
    known = _known(cls)
    field = rng.choice([each for each in known.fields if each.name != "version"])
    old = getattr(whole, field.name)
    inner: Any
    if isinstance(old, msgspec.Struct) and rng.random() < 0.8:
        inner = mutated(old, rng)
    elif isinstance(old, list) and old and isinstance(old[0], msgspec.Struct) and rng.random() < 0.8:
        place = rng.randrange(len(old))
        inner = rng.choice(
            [
                [*old[:place], mutated(old[place], rng), *old[place + 1 :]],
                old[:place] + old[place + 1 :],
                [*old, old[place]],
            ]
        )
    else:
        inner = _value(field.type, rng, 1)
    return msgspec.structs.replace(whole, **{field.name: inner})


def _bounds(kind: inspect.IntType | inspect.FloatType, least: float, most: float) -> tuple[float, float]:
    low = kind.ge if kind.ge is not None else kind.gt if kind.gt is not None else least
    high = kind.le if kind.le is not None else kind.lt - 1 if kind.lt is not None else most
    return low, high


def _text(pattern: str | None, shortest: int, longest: int, rng: random.Random) -> str:
    if pattern is None:
        return rng.choice(TEXTS)[:longest].ljust(shortest, "x")
    for sign, samples in SAMPLES.items():
        if sign != "job" and sign in pattern:
            return rng.choice(samples)
    if "!-~" in pattern:
        return rng.choice(IDS if "200" in pattern else IDS[:4])
    if "a-z" in pattern and "A-Z" not in pattern:
        return rng.choice(["mock", "metaschedule", "toy"])
    return rng.choice(SAMPLES["job"])
