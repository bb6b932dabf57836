"""The loops of a depthwise convolution and of pooling, as text of C.

Every channel has its own result, so that all that is read gives vectors. A tile is some pixels of some
lines times some vectors of channels; what several of its pixels read is loaded once. Which columns of an
image a tile would read beyond its ends is known beforehand: tiles at the ends of a line are functions of
their own, in which these are left out. Lines of the image are tested.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from tunemesh.stage_workers.engines.template import elements, epilogues
from tunemesh.stage_workers.engines.template.operators import Form, Operand, Operator
from tunemesh.stage_workers.engines.template.text import number, shared, total, vectors

User = tuple[int, int, int]
"""A line and a row of a tile that use what is read somewhere, and where the weight for it is."""
Place = tuple[int, tuple[int, ...]]
"""Where something is read: the distance from a tile's first pixel, and that along each window."""
LOADS = 256
"""Places that a tile may read from: each is text of its own."""
UNROLLED = 64
"""Elements of a kernel up to which none of its axes is gone along by a loop."""


@dataclass(frozen=True)
class Channels:
    """Which axis of an operator is what.

    Attributes:
        lane: channels, which lie side by side.
        rows: pixels. The last axis is the columns of the image, the one before the lines.
        outer: other axes of the result.
        taps: the kernel's.
        image: what is summed up.
        kernel: its factor; ``None`` for pooling.
    """

    lane: int
    rows: tuple[int, ...]
    outer: tuple[int, ...]
    taps: tuple[int, ...]
    image: Operand
    kernel: Operand | None


@dataclass(frozen=True)
class Tiling:
    """How the loops are cut.

    Attributes:
        lanes: of a vector.
        vectors: of a tile.
        rows: pixels of a tile in a line.
        lines: of a tile.
        block: tiles along the channels that are done before the next pixels; 0 for all.
    """

    lanes: int
    vectors: int
    rows: int
    lines: int
    block: int


class Channelwise:
    """One kernel."""

    def __init__(self, operator: Operator, roles: Channels, tiling: Tiling) -> None:
        self.operator = operator
        self.roles = roles
        self.tiling = tiling
        self.extents = [axis.extent for axis in operator.axes]
        self.columns = self.extents[roles.lane]
        self.width = tiling.lanes * tiling.vectors
        self.line = self.extents[roles.rows[-1]] if roles.rows else 1
        self.lines = self.extents[roles.rows[-2]] if len(roles.rows) > 1 else 1
        taps = list(roles.taps)
        self.looped: list[int] = []
        """Axes of the kernel with a loop."""
        while taps and math.prod(self.extents[axis] for axis in taps) > UNROLLED:
            self.looped.append(taps.pop(0))
        self.unrolled = taps
        self.taps = math.prod(self.extents[axis] for axis in taps)

    def objection(self) -> str:
        """Why this makes no kernel; empty where it does."""
        tiling, roles = self.tiling, self.roles
        if tiling.rows > self.line or tiling.lines > self.lines:
            return "a tile has more pixels than there are"
        if self.columns % self.width:
            return "channels are no whole tiles"
        if any(
            window.form.uses(roles.rows[-1])
            and any(map(window.form.uses, (*roles.rows[:-1], *roles.outer, *self.looped)))
            for window in roles.image.windows
            if roles.rows
        ):
            return "rows and columns of the image are one dimension"
        if tiling.block * self.width >= self.columns:
            return "a block is all there is"
        return "" if len(self._places(tiling.rows)) <= LOADS else "a tile reads from too many places"

    def results_per_load(self, registers: int) -> float:
        """Operations for each load of a tile, where there are so many registers."""
        pixels, count = self.tiling.rows * self.tiling.lines, self.tiling.vectors
        weights = 0
        if self.roles.kernel:
            held = pixels * count + self.taps * count + 2 <= registers
            weights = self.taps * count * (1 if held else pixels)
        places = len(self._places(self.tiling.rows)) * count
        used = self.line / (-(-self.line // self.tiling.rows) * self.tiling.rows)
        used *= self.lines / (-(-self.lines // self.tiling.lines) * self.tiling.lines)
        return used * self.tiling.lanes * self.taps * pixels * count / (weights + places)

    def source(self, symbol: str) -> str:
        """The program whose function is called ``symbol``."""
        epilogue = self.operator.epilogue
        dtypes = {self.operator.dtype, *(step.dtype for step in epilogue)}
        parts = [vectors(self.tiling.lanes), elements.text(dtypes, ""), epilogues.library(epilogue)]
        parts.append(self._finish())
        parts += [self._tile_of(name, start) for name, start in self._variants().items()]
        return "\n".join([*parts, self._all(symbol)])

    # -- Where a tile reads ----------------------------------------------------------------------------------

    def _rows_at(self, start: int) -> int:
        """Pixels in a line of the tile that starts there."""
        return min(self.tiling.rows, self.line - start)

    def _is_column(self, window: int) -> bool:
        """Whether a window is one along the pixels of a line."""
        rows = self.roles.rows
        return bool(rows) and self.roles.image.windows[window].form.uses(rows[-1])

    def _read(self, start: int) -> dict[Place, list[User]]:
        """The places that the tile which starts there reads from: those that may lie within the image."""
        windows = self.roles.image.windows
        columns = [window for window in range(len(windows)) if self._is_column(window)]

        def within(along: Sequence[int], window: int) -> bool:
            form = windows[window].form
            at = form.offset + start * form.strides[self.roles.rows[-1]] + along[window]
            return 0 <= at < windows[window].length

        return {
            place: users
            for place, users in self._places(self._rows_at(start)).items()
            if all(within(place[1], window) for window in columns)
        }

    def _names(self) -> dict[int, str]:
        """The function for the tile that starts at each pixel: the same for those that read alike."""
        known: dict[tuple[object, ...], str] = {}
        names = {}
        for start in range(0, self.line, self.tiling.rows):
            key = self._rows_at(start), *self._read(start)
            names[start] = known.setdefault(key, f"tile_{len(known)}")
        return names

    def _variants(self) -> dict[str, int]:
        """Each function with the first pixel of one of its tiles."""
        return {name: start for start, name in reversed(self._names().items())}

    def _places(self, rows: int) -> dict[Place, list[User]]:
        """Where a tile reads from, relative to its first pixel, and what uses it."""
        unrolled = tuple((axis, self.extents[axis]) for axis in self.unrolled)
        return _places(self.roles, unrolled, self.tiling.lines, rows)

    def _from_first(self, form: Form, line: int, row: int) -> int:
        """How far a pixel of a tile is from its first one."""
        return _from_first(self.roles, form, line, row)

    @property
    def _indices(self) -> list[str]:
        return [f"o{axis}" for axis in (*self.roles.outer, *self.roles.rows)]

    def _at(self, form: Form) -> str:
        """Where a form is at the first pixel of a tile."""
        axes = (*self.roles.outer, *self.roles.rows)
        return total([(form.strides[axis], f"o{axis}") for axis in axes], form.offset)

    def _tap(self, form: Form) -> str:
        """What the loops over the kernel add."""
        return total([(form.strides[axis], f"r{axis}") for axis in self.looped])

    # -- Text ------------------------------------------------------------------------------------------------

    def _finish(self) -> str:
        """The function that computes the epilogue of a vector and writes it."""
        loads, given = [], []
        for at, step in enumerate(self.operator.epilogue):
            if step.kind == "load":
                given.append(f", const float *p{at}, long at{at}")
                lanes = "0" if step.form.strides[self.roles.lane] else ""
                loads.append(elements.load(step.dtype, f"p{at}", f"at{at}", lanes))
            else:
                loads.append("")
        lines, result = epilogues.body(self.operator.epilogue, "sum", loads)
        write = elements.store(
            self.operator.dtype, "c", result, rounds=epilogues.rounds(self.operator.epilogue)
        )
        text = "\n  ".join([*lines, write])
        return f"INLINE void finish({self._to} *c, vec sum{''.join(given)}) {{\n  {text}\n}}\n"

    @property
    def _to(self) -> str:
        """The type of results."""
        return elements.TYPES[self.operator.dtype]

    def _finished(self, line: int, row: int, j: int) -> str:
        """The call for a vector."""
        given = []
        for step in self.operator.epilogue:
            if step.kind == "load":
                at = f"{self._at(step.form)} + {self._from_first(step.form, line, row)}"
                lanes = step.form.strides[self.roles.lane]
                more = f" + n + {j * self.tiling.lanes}" if lanes else ""
                given.append(f", p[{step.parameter}], {at}{more}")
        to = self._from_first(self.operator.output, line, row) + j * self.tiling.lanes
        return f"finish(c + n + {to}, a{line}_{row}_{j}{''.join(given)});"

    def _combined(self, name: str, value: str, weight: int, j: int) -> str:
        """The statement that takes one more value in."""
        combine = self.operator.combine
        if combine == "product":
            return f"{name} += {value} * load(v + {weight} + n + {j * self.tiling.lanes});"
        return f"{name} += {value};" if combine == "sum" else f"{name} = {combine}({name}, {value});"

    def _tile_of(self, name: str, start: int) -> str:
        """The function that computes such tiles as the one that starts there."""
        rows, count, lanes = self._rows_at(start), self.tiling.vectors, self.tiling.lanes
        image = self.roles.image
        tested = [window for window in range(len(image.windows)) if not self._is_column(window)]
        results = list(itertools.product(range(self.tiling.lines), range(rows), range(count)))
        lines = [f"for (long n = n0; n < n1; n += {self.width}) {{"]
        first = f"all({number(self.operator.start)})" if self.operator.start else "{}"
        lines += [f"vec a{line}_{row}_{j} = {first};" for line, row, j in results]
        lines += [f"for (long r{a} = 0; r{a} < {self.extents[a]}; ++r{a}) {{" for a in self.looped]
        lines.append(f"const float *const s = s0 + {self._tap(image.form)} + n;")
        if self.roles.kernel:
            lines.append(f"const float *const v = v0 + {self._tap(self.roles.kernel.form)};")

        def lines_of_image(place: tuple[Place, list[User]]) -> list[int]:
            return [place[0][1][window] for window in tested]

        places = sorted(self._read(start).items(), key=lambda each: (lines_of_image(each), each[0]))
        for ats, group in itertools.groupby(places, key=lines_of_image):
            tests = [
                f"(unsigned long)(w{window} + {self._tap(image.windows[window].form)} + {at}) < "
                f"{image.windows[window].length}"
                for window, at in zip(tested, ats, strict=True)
            ]
            lines.append(f"if ({' && '.join(tests)}) {{" if tests else "{")
            for (distance, _), users in group:
                for j in range(count):
                    lines.append(f"  {{ vec x = load(s + {distance + j * lanes}); IN_REGISTER(x);")
                    lines += [
                        "    " + self._combined(f"a{line}_{row}_{j}", "x", weight, j)
                        for line, row, weight in users
                    ]
                    lines.append("  }")
            lines.append("}")
        lines += ["}"] * len(self.looped)
        lines += [self._finished(*each) for each in results]
        lines.append("}")
        text = "\n  ".join(lines)
        given = "".join(f", long w{window}" for window in range(len(image.windows)))
        where = "".join(f", long {each}" for each in self._indices)
        return (
            f"static __attribute__((noinline)) void {name}"
            "(const float *const *restrict p, const float *restrict s0, const float *restrict v0, "
            f"{self._to} *restrict c, long n0, long n1{given}{where}) {{\n  {text}\n}}\n"
        )

    def _all(self, symbol: str) -> str:
        """The exported function."""
        operator, roles, tiling = self.operator, self.roles, self.tiling
        inputs, rows = len(operator.parameters) - 1, roles.rows
        block = tiling.block * self.width or self.columns
        lines = [f"const float *const p[] = {{{', '.join(f'data(&given[{i}])' for i in range(inputs))}}};"]
        lines.append(f"{self._to} *const out = ({self._to} *)data(&given[{inputs}]);")
        for axis in (*roles.outer, *rows[:-2]):
            lines.append(f"for (long o{axis} = 0; o{axis} < {self.extents[axis]}; ++o{axis}) {{")
        closed = len(roles.outer) + len(rows[:-2])
        # Threads share tiles of lines, or of channels where there are no lines.
        wide = self.columns // self.width
        first, end = "0", str(self.columns)
        if len(rows) < 2:
            first, end = f"BEGIN({wide}) * {self.width}", f"END({wide}) * {self.width}"
        lines += [
            f"for (long n0 = {first}; n0 < {end}; n0 += {block}) {{",
            f"const long n1 = n0 + {block} < {end} ? n0 + {block} : {end};",
        ]
        closed += 1
        if len(rows) > 1:
            # The last lines are computed once more where they are no whole tile.
            last, count = self.lines - tiling.lines, -(-self.lines // tiling.lines)
            lines += [
                f"for (long y = BEGIN({count}); y < END({count}); ++y) {{",
                f"const long o{rows[-2]} = y * {tiling.lines} < {last} ? y * {tiling.lines} : {last};",
            ]
            closed += 1
        given = "".join(f", w{window}" for window in range(len(roles.image.windows)))
        where = "".join(f", {each}" for each in self._indices)
        for name, group in itertools.groupby(self._names().items(), key=lambda each: each[1]):
            starts = [start for start, _ in group]
            loop = f"for (long x = {starts[0]}; x <= {starts[-1]}; x += {tiling.rows}) {{"
            lines += [loop, f"const long o{rows[-1]} = x;"] if rows else ["{"]
            lines += [
                f"const long w{window} = {self._at(each.form)};"
                for window, each in enumerate(roles.image.windows)
            ]
            kernel = f"p[{roles.kernel.parameter}] + {self._at(roles.kernel.form)}" if roles.kernel else "0"
            lines += [
                f"{name}(p, p[{roles.image.parameter}] + {self._at(roles.image.form)}, {kernel}, "
                f"out + {self._at(operator.output)}, n0, n1{given}{where});",
                "}",
            ]
        return shared(symbol, [*lines, *["}"] * closed])


@functools.lru_cache(maxsize=256)
def _places(
    roles: Channels, unrolled: tuple[tuple[int, int], ...], lines: int, rows: int
) -> dict[Place, list[User]]:
    """See :meth:`Channelwise._places`, which many tilings of an operator have in common.

    Args:
        unrolled: axes of the kernel that are written out, each with its extent.
    """
    places: dict[Place, list[User]] = {}
    for taps in itertools.product(*(range(extent) for _, extent in unrolled)):

        def distance(form: Form, line: int, row: int, taps: Sequence[int] = taps) -> int:
            steps = sum(form.strides[axis] * at for (axis, _), at in zip(unrolled, taps, strict=True))
            return steps + _from_first(roles, form, line, row)

        for line, row in itertools.product(range(lines), range(rows)):
            along = tuple(distance(window.form, line, row) for window in roles.image.windows)
            weight = distance(roles.kernel.form, 0, 0) if roles.kernel else 0
            places.setdefault((distance(roles.image.form, line, row), along), []).append((line, row, weight))
    return dict(sorted(places.items()))


def _from_first(roles: Channels, form: Form, line: int, row: int) -> int:
    rows = roles.rows
    across = line * form.strides[rows[-2]] if len(rows) > 1 else 0
    return across + (row * form.strides[rows[-1]] if rows else 0)
