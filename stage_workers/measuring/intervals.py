"""Functions of TIR over intervals instead of numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple


class Interval(NamedTuple):
    """All values from ``least`` to ``most``, both included. ``given``: they follow from an input that is
    looked at; ``plain``: they are its values, only moved."""

    least: int
    most: int
    given: bool = False
    plain: bool = False


Known = Interval | None
"""``None``: an integer that nothing is known of, or no integer."""

BOOL = Interval(0, 1)


class Walk:
    """One run of functions over intervals, and what was noticed in it."""

    def __init__(self) -> None:
        self.problems: set[tuple[object, ...]] = set()
        """Places where an index or a divisor leaves its bounds."""
        self.reached: set[int] = set()
        """Lengths of what an input is an index into, or is compared with the indices of."""
        self.flags = False
        """An input is compared with something, or turned into a float."""
        self.computed = False
        """Something is computed with it."""
        self._indexing = False
        """An index is looked at. What an importer does to one out of bounds does not make it valid."""
        self._tensors: dict[int, Known] = {}
        self._scalars: dict[int, Known] = {}
        self._loops: dict[int, int] = {}
        """Lengths of loops by their variables."""

    def function(self, function: Any, arguments: Sequence[Known]) -> list[Known]:
        """What is known of all parameters after a run with these."""
        keys = [hash(parameter) for parameter in function.params]
        self._tensors.update(zip(keys, arguments, strict=True))
        for key, known in zip(keys, arguments, strict=True):
            if known is None:
                self._tensors.pop(key)
        self._statement(function.body)
        return [self._tensors.get(key) for key in keys]

    def _statement(self, node: Any) -> None:
        match type(node).__name__:
            case "SeqStmt":
                for each in node.seq:
                    self._statement(each)
            case "For":
                self._loop(node.loop_var, self._value(node.min), self._value(node.extent))
                self._statement(node.body)
            case "SBlockRealize":
                self._block(node)
            case "BufferStore":
                self._store(node)
            case "IfThenElse":
                self._value(node.condition)
                self._statement(node.then_case)
                if node.else_case is not None:
                    self._statement(node.else_case)
            case "Bind" | "LetStmt":
                self._scalars[hash(node.var)] = self._value(node.value)
                if hasattr(node, "body"):
                    self._statement(node.body)
            case _:
                for name in ("value", "condition"):
                    if hasattr(node, name):
                        self._value(getattr(node, name))
                if hasattr(node, "body"):
                    self._statement(node.body)

    def _loop(self, variable: Any, start: Known, extent: Known) -> None:
        if start is None or extent is None:
            self._scalars[hash(variable)] = None
            return
        self._scalars[hash(variable)] = Interval(start.least, max(start.least, start.most + extent.most - 1))
        self._loops[hash(variable)] = extent.most

    def _block(self, node: Any) -> None:
        for each, value in zip(node.block.iter_vars, node.iter_values, strict=True):
            self._scalars[hash(each.var)] = self._value(value)
            extent = self._value(each.dom.extent)
            if extent is not None:
                self._loops[hash(each.var)] = extent.most
        if node.block.init is not None:
            self._statement(node.block.init)
        self._statement(node.block.body)

    def _store(self, node: Any) -> None:
        self._indices(node, node.buffer, node.indices)
        value = self._value(node.value)
        key = hash(node.buffer)
        if key in self._tensors:
            value = _join(self._tensors[key], value)
        self._tensors[key] = value

    def _indices(self, node: Any, buffer: Any, indices: Sequence[Any]) -> None:
        for axis, (index, extent) in enumerate(zip(indices, buffer.shape, strict=True)):
            self._indexing = True
            found, length = self._value(index), self._value(extent)
            self._indexing = False
            if found is None or length is None or not found.given:
                continue
            if found.least < 0:
                self.problems.add((hash(node), axis, "below"))
            if found.most >= length.most:
                self.problems.add((hash(node), axis, "above"))
            if found.least < found.most:
                self.reached.add(length.most)

    def _value(self, node: Any) -> Known:
        match type(node).__name__:
            case "IntImm":
                return Interval(int(node.value), int(node.value))
            case "Var":
                return self._scalars.get(hash(node))
            case "TensorLoad":
                indexing, self._indexing = self._indexing, False
                self._indices(node, node.source, node.indices)
                self._indexing = indexing
                found = self._tensors.get(hash(node.source))
                return found if found is not None else _of_dtype(node)
            case "Cast":
                return self._cast(node)
            case "Select":
                return self._choice(node, node.condition, node.true_value, node.false_value)
            case "Not":
                found = self._value(node.a)
                return BOOL if found is None else Interval(1 - found.most, 1 - found.least, found.given)
            case "Let":
                self._scalars[hash(node.var)] = self._value(node.value)
                return self._value(node.body)
            case "Call":
                return self._call(node)
            case name if hasattr(node, "a") and hasattr(node, "b"):
                return self._binary(node, name)
        return _of_dtype(node)

    def _call(self, node: Any) -> Known:
        name = str(getattr(node.op, "name", ""))
        if name.endswith("if_then_else"):
            return self._choice(node, *node.args)
        if name.endswith("likely"):
            return self._value(node.args[0])
        values = [self._value(each) for each in node.args if hasattr(each, "dtype") or hasattr(each, "ty")]
        operation = name.rpartition(".")[2]
        if operation in ("shift_left", "shift_right") and len(values) == 2 and None not in values:
            return self._shift(node, operation, values)
        given = any(each is not None and each.given for each in values)
        self.computed |= given
        found = _of_dtype(node)
        return found._replace(given=given) if found is not None else None

    def _shift(self, node: Any, operation: str, values: Sequence[Known]) -> Known:
        value, amount = values
        assert value is not None
        assert amount is not None
        self.computed |= value.given or amount.given
        bits = int(re.sub(r"\D", "", _dtype(node)) or 32)
        if not 0 <= amount.least <= amount.most < bits:
            self.problems.add((hash(node), "shift"))
            return None
        ends = [
            each << by if operation == "shift_left" else each >> by
            for each in (value.least, value.most)
            for by in (amount.least, amount.most)
        ]
        return Interval(min(ends), max(ends), value.given or amount.given)

    def _cast(self, node: Any) -> Known:
        found = self._value(node.value)
        if "float" in _dtype(node):
            self.flags |= found is not None and found.plain
            return None
        if "float" in _dtype(node.value):
            return None
        return found

    def _choice(self, node: Any, condition: Any, one: Any, other: Any) -> Known:
        chosen = self._value(condition)
        if chosen is not None and chosen.least == chosen.most:
            return self._value(one if chosen.least else other)
        return _join(self._value(one), self._value(other))

    def _binary(self, node: Any, name: str) -> Known:
        left, right = self._value(node.a), self._value(node.b)
        if name in ("LT", "LE", "GT", "GE", "EQ", "NE"):
            return self._comparison(node, name, left, right)
        if name in ("And", "Or"):
            return _logic(name, left or BOOL, right or BOOL)
        if "float" in _dtype(node):
            return None
        if name in ("FloorDiv", "FloorMod", "Div", "Mod") and right is not None:
            self.computed |= right.given or (left is not None and left.given)
            if right.least <= 0 <= right.most:
                self.problems.add((hash(node), "divisor"))
                return None
        if left is None or right is None:
            return None
        given = left.given or right.given
        if self._indexing and name in ("Min", "Max", "FloorMod", "Mod") and left.given != right.given:
            return left if left.given else right
        if name in ("Min", "Max"):
            pick = min if name == "Min" else max
            return Interval(
                pick(left.least, right.least), pick(left.most, right.most), given, left.plain or right.plain
            )
        self.computed |= given
        return _arithmetic(name, left, right, given)

    def _comparison(self, node: Any, name: str, left: Known, right: Known) -> Known:
        if left is None or right is None:
            return BOOL
        given = left.given or right.given
        self.flags |= left.plain or right.plain
        for known, other in ((left, right), (right, left)):
            # With all of 0, 1, 2, ...: a constant that numbers rows.
            if name == "EQ" and other.plain and not known.given and known.least == 0 < known.most:
                self.reached.add(known.most + 1)
        for one, other in ((node.a, right), (node.b, left)):
            # One-hot rows, and masks by position.
            while type(one).__name__ == "Cast":
                one = one.value
            if other.plain and hash(one) in self._loops:
                self.reached.add(self._loops[hash(one)])
        if name in ("GT", "GE"):
            left, right, name = right, left, {"GT": "LT", "GE": "LE"}[name]
        if name == "LT":
            always, never = left.most < right.least, left.least >= right.most
        elif name == "LE":
            always, never = left.most <= right.least, left.least > right.most
        else:
            same = left.least == left.most == right.least == right.most
            apart = left.most < right.least or right.most < left.least
            always, never = (same, apart) if name == "EQ" else (apart, same)
        return Interval(int(always), int(not never), given)


def _arithmetic(name: str, left: Interval, right: Interval, given: bool) -> Known:
    if name == "Add":
        return Interval(left.least + right.least, left.most + right.most, given)
    if name == "Sub":
        return Interval(left.least - right.most, left.most - right.least, given)
    if name == "Mul":
        ends = [one * other for one in (left.least, left.most) for other in (right.least, right.most)]
        return Interval(min(ends), max(ends), given)
    if name in ("FloorDiv", "Div"):
        ends = [one // other for one in (left.least, left.most) for other in (right.least, right.most)]
        # Division that truncates is at most one above.
        return Interval(min(ends), max(ends) + (name == "Div" and min(ends) < 0), given)
    if name in ("FloorMod", "Mod"):
        size = max(abs(right.least), abs(right.most))
        if left.least >= 0 and left.most < min(abs(right.least), abs(right.most)):
            return left._replace(given=given)
        return Interval(
            0 if right.least > 0 and (name == "FloorMod" or left.least >= 0) else 1 - size, size - 1, given
        )
    return None


def _logic(name: str, left: Interval, right: Interval) -> Interval:
    pick = min if name == "And" else max
    return Interval(pick(left.least, right.least), pick(left.most, right.most), left.given or right.given)


def _join(one: Known, other: Known) -> Known:
    if one is None or other is None:
        return None
    return Interval(
        min(one.least, other.least),
        max(one.most, other.most),
        one.given or other.given,
        one.plain or other.plain,
    )


def _of_dtype(node: Any) -> Known:
    return BOOL if _dtype(node) == "bool" else None


def _dtype(node: Any) -> str:
    return str(getattr(node, "dtype", None) or getattr(node, "ty", ""))
